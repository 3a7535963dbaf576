/* A curl multi handle behind one descriptor (epoll(7), timerfd_create(2)). */
#include "client/watch.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"

#define MAX_EVENTS 64 /* of a step; the rest stay readable */

static void arm(struct cl_watch *w)
{
    int64_t at = w->curl_at_us < w->own_at_us ? w->curl_at_us : w->own_at_us;
    struct itimerspec spec = {0}; /* all zero: off */

    if (at != INT64_MAX) {
        int64_t wait_us = at - ut_clock_us();

        if (wait_us < 1)
            wait_us = 1;
        spec.it_value.tv_sec = wait_us / 1000000;
        spec.it_value.tv_nsec = wait_us % 1000000 * 1000;
    }
    timerfd_settime(w->timer, 0, &spec, NULL);
}

static int on_timer(CURLM *multi, long timeout_ms, void *ctx)
{
    struct cl_watch *w = ctx;

    (void)multi;
    w->curl_at_us =
        timeout_ms < 0 ? INT64_MAX : ut_clock_us() + timeout_ms * 1000;
    arm(w);
    return 0;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx,
                     void *known)
{
    struct cl_watch *w = ctx;
    struct epoll_event ev = {.data.fd = fd};

    (void)easy;
    (void)known;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(w->epoll, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    if (what & CURL_POLL_IN)
        ev.events |= EPOLLIN;
    if (what & CURL_POLL_OUT)
        ev.events |= EPOLLOUT;
    if (!epoll_ctl(w->epoll, EPOLL_CTL_MOD, fd, &ev))
        return 0;
    return epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &ev) ? -1 : 0;
}

enum ut_err cl_watch_init(struct cl_watch *w, CURLM *multi, struct ut_error *e)
{
    struct epoll_event ev = {.events = EPOLLIN};

    *w = (struct cl_watch){
        .multi = multi, .curl_at_us = INT64_MAX, .own_at_us = INT64_MAX};
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    ev.data.fd = w->timer;
    if (w->epoll < 0 || w->timer < 0 ||
        epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->timer, &ev))
        return ut_fail(e, UT_EIO, "a client's descriptors: %s",
                       strerror(errno));
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, w);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, w);
    return UT_OK;
}

void cl_watch_fini(struct cl_watch *w)
{
    if (w->epoll > 0)
        close(w->epoll);
    if (w->timer > 0)
        close(w->timer);
}

void cl_watch_at(struct cl_watch *w, int64_t at_us)
{
    if (w->own_at_us == at_us)
        return;
    w->own_at_us = at_us;
    arm(w);
}

/* One event's share; curl calls back on_socket and on_timer. */
static CURLMcode act(struct cl_watch *w, const struct epoll_event *ev)
{
    int running, bits = 0;
    uint64_t n;

    if (ev->data.fd == w->timer) {
        (void)!read(w->timer, &n, sizeof(n));
        if (w->curl_at_us > ut_clock_us()) {
            arm(w); /* it was the owner's time */
            return CURLM_OK;
        }
        w->curl_at_us = INT64_MAX;
        return curl_multi_socket_action(w->multi, CURL_SOCKET_TIMEOUT, 0,
                                        &running);
    }
    if (ev->events & EPOLLIN)
        bits |= CURL_CSELECT_IN;
    if (ev->events & EPOLLOUT)
        bits |= CURL_CSELECT_OUT;
    if (ev->events & (EPOLLERR | EPOLLHUP))
        bits |= CURL_CSELECT_ERR;
    return curl_multi_socket_action(w->multi, ev->data.fd, bits, &running);
}

enum ut_err cl_watch_step(struct cl_watch *w, int timeout_ms,
                          struct ut_error *e)
{
    struct epoll_event events[MAX_EVENTS];
    int n = epoll_wait(w->epoll, events, MAX_EVENTS, timeout_ms);

    if (n < 0 && errno != EINTR)
        return ut_fail(e, UT_EIO, "epoll_wait: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        CURLMcode rc = act(w, &events[i]);

        if (rc)
            return ut_fail(e, UT_EIO, "%s", curl_multi_strerror(rc));
    }
    return UT_OK;
}
