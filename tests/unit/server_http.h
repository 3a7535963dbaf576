#ifndef TESTS_UNIT_SERVER_HTTP_H
#define TESTS_UNIT_SERVER_HTTP_H

/* The HTTP and REST layers on a loop in a thread of its own, with handlers
 * that tests can hold back; and requests as bytes over real sockets. Only
 * headers, since not every test may link the server. */

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/health/health.pb-c.h"
#include "api/oip/inference.pb-c.h"
#include "api/tscaf.pb-c.h"
#include "server/app.h"
#include "server/auth.h"
#include "server/calls/dispatch.h"
#include "server/calls/streams.h"
#include "server/http/h2.h"
#include "server/http/http.h"
#include "server/methods/handlers.h"
#include "server/ops.h"
#include "tests/support/unit.h"

#define MAX_HELD 256
#define BODY_LIMIT (256 * 1024)

static struct {
    struct srv_app app;
    struct srv_config config;
    struct srv_http_config http;
    struct srv_dispatch *dispatch;
    bool with_h2; /* start() listens for HTTP/2 too */
    pthread_t thread;
    struct srv_mail mail;
    void (*asked)(void); /* runs on the loop */
    atomic_int served;   /* how many asked() ended */
    atomic_bool drained;
    struct srv_call *held[MAX_HELD]; /* the loop's, until n_held says so */
    atomic_int n_held;
} the;

/* ---- Handlers ---- */

static inline void on_echo(struct srv_call *c)
{
    const Tscaf__V1__UpdateIdentityRequest *q = (const void *)c->request;
    Tscaf__V1__IdentityRecord r = TSCAF__V1__IDENTITY_RECORD__INIT;

    r.id = q->id;
    if (q->new_name_case)
        r.name = q->name;
    r.external_id = c->actor;
    c->reply(c, &r.base);
}

/* A frame per picture, as wide as it has bytes and as high as its first. */
static inline void on_pictures(struct srv_call *c)
{
    const Tscaf__V1__AnalyzeRequest *q = (const void *)c->request;
    Tscaf__V1__AnalyzeResponse r = TSCAF__V1__ANALYZE_RESPONSE__INIT;
    Tscaf__V1__Frame frames[64], *list[64];

    for (size_t i = 0; i < q->n_images; i++) {
        tscaf__v1__frame__init(&frames[i]);
        frames[i].width = (uint32_t)q->images[i]->data.len;
        frames[i].height =
            q->images[i]->data.len ? q->images[i]->data.data[0] : 0;
        list[i] = &frames[i];
    }
    r.frames = list;
    r.n_frames = q->n_images;
    r.batch_size = q->top_k * 1000 + (uint32_t)q->n_tasks;
    r.request_id = c->request_id;
    c->reply(c, &r.base);
}

static inline void on_pair(struct srv_call *c)
{
    const Tscaf__V1__VerifyRequest *q = (const void *)c->request;
    Tscaf__V1__VerifyResponse r = TSCAF__V1__VERIFY_RESPONSE__INIT;

    r.same = q->image && q->other && q->image->data.len == 3 &&
             q->other->data.len == 5;
    r.similarity = (float)(c->deadline_us - c->start_us) / 1000;
    c->reply(c, &r.base);
}

static inline void on_hold(struct srv_call *c)
{
    int n = atomic_load(&the.n_held);

    the.held[n] = c;
    atomic_store(&the.n_held, n + 1);
}

/* A stream that tests write to. */
static struct {
    struct srv_call *call; /* the loop's */
    atomic_bool there, left;
    int n; /* messages to send */
    atomic_int sent;
} the_stream;

static inline void on_stream_left(struct srv_call *c)
{
    if (the_stream.call == c)
        the_stream.call = NULL;
    atomic_store(&the_stream.left, true);
}

static inline void on_stream(struct srv_call *c)
{
    c->left = on_stream_left;
    the_stream.call = c;
    atomic_store(&the_stream.there, true);
}

static inline void do_send(void)
{
    Tscaf__V1__KeyRef m = TSCAF__V1__KEY_REF__INIT;
    int n = 0;

    m.id = (char *)"0123456789abcdefghij";
    while (the_stream.call && n < the_stream.n &&
           the_stream.call->send(the_stream.call, &m.base))
        n++;
    atomic_store(&the_stream.sent, n);
}

static inline void do_end(void)
{
    the_stream.call->end(the_stream.call);
}

static inline void do_break(void)
{
    struct api_error err;

    api_fail(&err, API_UNAVAILABLE, "it broke");
    (the_stream.call->fail)(the_stream.call, &err);
}

/* Those who watch, at most three. */
static struct srv_streams the_watched;

static inline void on_watch(struct srv_call *c)
{
    Tscaf__V1__KeyRef m = TSCAF__V1__KEY_REF__INIT;

    m.id = (char *)"now";
    srv_streams_add(&the_watched, c, 3, &m.base);
}

static inline void do_tell_watched(void)
{
    Tscaf__V1__KeyRef m = TSCAF__V1__KEY_REF__INIT;

    m.id = (char *)"new";
    srv_streams_send(&the_watched, &m.base);
}

static inline void do_end_watched(void)
{
    srv_streams_end(&the_watched);
}

static inline void on_crop(struct srv_call *c)
{
    Tscaf__V1__FaceCrop r = TSCAF__V1__FACE_CROP__INIT;

    r.png.data = (uint8_t *)"\x89PNG";
    r.png.len = 4;
    c->reply(c, &r.base);
}

static inline void on_nothing(struct srv_call *c)
{
    Tscaf__V1__Empty r = TSCAF__V1__EMPTY__INIT;

    c->reply(c, &r.base);
}

static inline void on_broken(struct srv_call *c)
{
    struct api_error err;

    api_fail(&err, API_INTERNAL, "the disk is on fire");
    (c->fail)(c, &err); /* in brackets: cmocka has a macro fail() */
}

static inline void on_plain(struct srv_app *app, struct srv_http_exchange *x)
{
    struct srv_http_answer a = {.status = 200, .type = "text/plain"};

    (void)app;
    a.body = strdup("plain");
    a.len = 5;
    srv_http_answer(x, &a);
}

static const struct srv_route routes[] = {
    {.method = "GET",
     .path = "/plain",
     .request = &tscaf__v1__empty__descriptor,
     .plain = on_plain},
    {.method = "GET",
     .path = "/healthz",
     .request = &tscaf__v1__empty__descriptor,
     .plain = srv_ops_health},
    {.method = "GET",
     .path = "/readyz",
     .request = &tscaf__v1__empty__descriptor,
     .plain = srv_ops_ready},
    {.method = "GET",
     .path = "/metrics",
     .request = &tscaf__v1__empty__descriptor,
     .plain = srv_ops_metrics},
    {.method = "PATCH",
     .path = "/echo/{id}",
     .role = SRV_ROLE_ENROLL,
     .request = &tscaf__v1__update_identity_request__descriptor,
     .handler = on_echo,
     .rpc = "tscaf.v1.Identities/UpdateIdentity",
     .status = 201},
    {.method = "POST",
     .path = "/pictures",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__analyze_request__descriptor,
     .handler = on_pictures,
     .rpc = "tscaf.v1.DriverMonitor/Analyze",
     .status = 200},
    {.method = "POST",
     .path = "/pair",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__verify_request__descriptor,
     .handler = on_pair,
     .rpc = "tscaf.v1.DriverMonitor/Verify",
     .status = 200},
    {.method = "POST",
     .path = "/hold",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__search_request__descriptor,
     .handler = on_hold,
     .rpc = "tscaf.v1.DriverMonitor/Search",
     .status = 200},
    {.method = "POST",
     .path = "/v2/models/{model_name}/infer",
     .role = SRV_ROLE_ANALYZE,
     .request = &inference__model_infer_request__descriptor,
     .handler = on_hold,
     .status = 200},
    {.method = "GET",
     .path = "/a/{identity_id}/b/{face_id}/crop",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__face_ref__descriptor,
     .handler = on_crop,
     .rpc = "tscaf.v1.Identities/GetFaceCrop",
     .status = 200},
    {.method = "DELETE",
     .path = "/echo/{id}",
     .role = SRV_ROLE_ENROLL,
     .request = &tscaf__v1__identity_ref__descriptor,
     .handler = on_nothing,
     .rpc = "tscaf.v1.Identities/DeleteIdentity",
     .status = 204},
    {.method = "GET",
     .path = "/stream",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__list_keys_request__descriptor,
     .handler = on_stream,
     .rpc = "tscaf.v1.Training/WatchJob",
     .streams = true,
     .status = 200},
    {.method = "GET",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__job_ref__descriptor,
     .handler = on_watch,
     .rpc = "tscaf.v1.Jobs/WatchJob",
     .streams = true,
     .status = 200},
    {.method = "POST",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__analyze_request__descriptor,
     .handler = on_pictures,
     .rpc = "tscaf.v1.DriverMonitor/AnalyzeStream",
     .streams = true,
     .duplex = true,
     .status = 200},
    {.method = "POST",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__search_request__descriptor,
     .handler = on_hold,
     .rpc = "tscaf.v1.DriverMonitor/SearchStream",
     .streams = true,
     .duplex = true,
     .status = 200},
    {.method = "GET",
     .path = "/broken",
     .role = SRV_ROLE_ADMIN,
     .request = &tscaf__v1__list_keys_request__descriptor,
     .handler = on_broken,
     .rpc = "tscaf.v1.Admin/ListKeys",
     .status = 200},
    {.method = "GET",
     .request = &grpc__health__v1__health_check_request__descriptor,
     .handler = srv_handle_health_check,
     .rpc = "grpc.health.v1.Health/Check",
     .status = 200,
     .early = true},
    {.method = "GET",
     .request = &grpc__health__v1__health_check_request__descriptor,
     .handler = srv_handle_health_watch,
     .rpc = "grpc.health.v1.Health/Watch",
     .streams = true,
     .status = 200,
     .early = true},
};

/* ---- The loop's thread ---- */

static inline void on_asked(struct srv_mail *m)
{
    (void)m;
    the.asked();
    atomic_fetch_add(&the.served, 1);
}

/* Waits, generously, until the condition holds. */
#define UNTIL(condition)                                                       \
    do {                                                                       \
        int tries_ = 0;                                                        \
        while (!(condition)) {                                                 \
            if (++tries_ > 30000)                                              \
                fail_msg("never: %s", #condition);                             \
            usleep(1000);                                                      \
        }                                                                      \
    } while (0)

/* Runs fn on the loop and waits for it. */
static inline void ask(void (*fn)(void))
{
    int before = atomic_load(&the.served);

    the.asked = fn;
    the.mail.fn = on_asked;
    srv_mailbox_post(the.app.mailbox, &the.mail);
    UNTIL(atomic_load(&the.served) > before);
}

static inline void *loop_thread(void *arg)
{
    (void)arg;
    uv_run(&the.app.loop, UV_RUN_DEFAULT);
    return NULL;
}

/* Answers every held call. */
static inline void do_release(void)
{
    Tscaf__V1__SearchResponse r = TSCAF__V1__SEARCH_RESPONSE__INIT;
    int n = atomic_load(&the.n_held);

    for (int i = 0; i < n; i++) {
        r.request_id = the.held[i]->request_id;
        the.held[i]->reply(the.held[i], &r.base);
    }
    atomic_store(&the.n_held, 0);
}

static inline void do_stop(void)
{
    srv_http_free(the.app.http);
    srv_h2_free(the.app.h2);
    srv_mailbox_free(the.app.mailbox);
}

static inline void on_drained(void *arg)
{
    (void)arg;
    atomic_store(&the.drained, true);
}

static inline void do_drain(void)
{
    srv_http_drain(the.app.http, on_drained, NULL);
}

static inline void do_drain_h2(void)
{
    srv_h2_drain(the.app.h2, on_drained, NULL);
}

/* A server with roomy limits; tests narrow the.http before start(). */
static inline int prepare(void **state)
{
    struct ut_error e;

    (void)state;
    memset(&the, 0, sizeof(the));
    memset(&the_stream, 0, sizeof(the_stream));
    the_watched.first = NULL;
    the.config.default_deadline_ms = 12345;
    the.app.config = &the.config;
    the.app.ready = true;
    uv_loop_init(&the.app.loop);
    the.http = (struct srv_http_config){
        .host = "127.0.0.1",
        .max_connections = 1000,
        .max_body_bytes = BODY_LIMIT,
        .max_total_bytes = 64 * 1024 * 1024,
        .header_timeout_ms = 20000,
        .idle_timeout_ms = 20000,
        .request_timeout_ms = 20000,
    };
    return srv_auth_new(&the.app.auth, &e) ||
           srv_mailbox_new(&the.app.loop, &the.app.mailbox, &e) ||
           srv_dispatch_new(&the.app, routes,
                            sizeof(routes) / sizeof(routes[0]), &the.dispatch,
                            &e) ||
           srv_metrics_new(srv_dispatch_names(the.dispatch),
                           sizeof(routes) / sizeof(routes[0]), &the.app.metrics,
                           &e);
}

static inline void start(void)
{
    struct ut_error e;

    the.http.hooks = srv_dispatch_hooks(the.dispatch);
    the.http.metrics = the.app.metrics;
    if (srv_http_new(&the.app.loop, &the.http, &the.app.http, &e))
        fail_msg("%s", e.msg);
    if (the.with_h2 && srv_h2_new(&the.app.loop, &the.http, &the.app.h2, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(pthread_create(&the.thread, NULL, loop_thread, NULL), 0);
}

static inline int finish(void **state)
{
    (void)state;
    ask(do_release);
    ask(do_stop);
    pthread_join(the.thread, NULL);
    assert_int_equal(uv_loop_close(&the.app.loop), 0);
    srv_dispatch_free(the.dispatch);
    srv_auth_free(the.app.auth);
    srv_metrics_free(the.app.metrics);
    return 0;
}

/* What /metrics would say. Thread-safe. */
static inline bool counted(const char *line)
{
    struct ut_buf b;
    struct ut_error e;
    bool found;

    ut_buf_init(&b, 1 << 20);
    assert_int_equal(srv_metrics_write(the.app.metrics, &b, &e), UT_OK);
    found = strstr(b.data, line) != NULL;
    ut_buf_fini(&b);
    return found;
}

/* ---- Requests as bytes ---- */

static inline int dial_port(int port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET};
    struct timeval patience = {.tv_sec = 30};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    sa.sin_port = htons((uint16_t)port);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa))) {
        close(fd);
        return -1;
    }
    return fd;
}

static inline int dial(void)
{
    return dial_port(srv_http_port(the.app.http));
}

static inline bool put_n(int fd, const char *bytes, size_t len)
{
    while (len) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

static inline bool put(int fd, const char *text)
{
    return put_n(fd, text, strlen(text));
}

/* Reads one whole answer (its Content-Length, or none for 1xx, 204 and after
 * HEAD) as text; "" at the connection's end. */
static inline char *take(int fd, bool head)
{
    static char text[1 << 20];
    size_t len = 0, want = 0;
    char *body = NULL, *field;

    text[0] = '\0';
    while (len < sizeof(text) - 1 && (!body || len < want)) {
        /* Byte by byte up to the body, so as not to take the next answer. */
        ssize_t n = recv(fd, text + len, body ? want - len : 1, 0);

        if (n <= 0)
            break;
        len += (size_t)n;
        text[len] = '\0';
        if (!body && (body = strstr(text, "\r\n\r\n"))) {
            field = strcasestr(text, "\r\nContent-Length: ");
            want = (size_t)(body + 4 - text);
            if (field && !head)
                want += strtoul(field + 18, NULL, 10);
        }
    }
    return text;
}

/* One request on a connection of its own; its answer. */
static inline char *once(const char *request)
{
    int fd = dial();
    char *answer;

    assert_true(fd >= 0);
    assert_true(put(fd, request));
    answer = take(fd, strncmp(request, "HEAD", 4) == 0);
    close(fd);
    return answer;
}

static inline void has(const char *text, const char *what)
{
    if (!strstr(text, what))
        fail_msg("\"%s\" is not in:\n%s", what, text);
}

static inline void is_status(const char *answer, int status)
{
    char want[32];

    snprintf(want, sizeof(want), "HTTP/1.1 %d ", status);
    if (strncmp(answer, want, strlen(want)) != 0)
        fail_msg("not %d but:\n%s", status, answer);
}

/* The peer has ended the connection. */
static inline bool ended(int fd)
{
    char byte;

    return recv(fd, &byte, 1, 0) <= 0;
}

#define HOST "Host: localhost\r\n"

#endif
