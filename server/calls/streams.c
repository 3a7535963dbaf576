/* Who listens. */
#include "server/calls/streams.h"

#include <stdlib.h>

#include "base/clock.h"
#include "server/calls/answer.h"

#define BEAT_US 15000000 /* of a stream without news */

struct srv_stream {
    struct srv_stream *next;
    struct srv_streams *list;
    struct srv_call *call;
    int64_t sent_us;
};

static void on_left(struct srv_call *c)
{
    struct srv_stream *s = c->user, **p = &s->list->first;

    while (*p != s)
        p = &(*p)->next;
    *p = s->next;
    free(s);
}

static bool tell(struct srv_stream *s, const ProtobufCMessage *m)
{
    s->sent_us = ut_clock_us();
    return s->call->send(s->call, m);
}

void srv_streams_add(struct srv_streams *list, struct srv_call *c, int limit,
                     const ProtobufCMessage *now)
{
    struct srv_stream *s;
    struct ut_error e;
    int n = 0;

    for (s = list->first; s; s = s->next)
        n++;
    if (n >= limit) {
        ut_fail(&e, UT_EBUSY, "%d streams of it are open, the limit", n);
        srv_answer_fail(c, &e);
        return;
    }
    s = calloc(1, sizeof(*s));
    if (!s) {
        ut_fail(&e, UT_ENOMEM, "no memory for a stream");
        srv_answer_fail(c, &e);
        return;
    }
    s->list = list;
    s->call = c;
    s->next = list->first;
    list->first = s;
    c->user = s;
    c->left = on_left;
    if (tell(s, now))
        return;
    list->first = s->next; /* it left before it was told anything */
    free(s);
    c->end(c);
}

/* Ends one whose key is no more. */
static bool dismiss(struct srv_stream **at)
{
    struct srv_stream *s = *at;
    struct api_error err;

    if (s->call->allowed(s->call, &err))
        return false;
    *at = s->next;
    s->call->fail(s->call, &err);
    free(s);
    return true;
}

/* Tells those that were told nothing for longer than rest_us. */
static void tell_all(struct srv_streams *list, const ProtobufCMessage *m,
                     int64_t rest_us)
{
    int64_t now = ut_clock_us();

    for (struct srv_stream **at = &list->first; *at;) {
        if (dismiss(at))
            continue;
        if (now - (*at)->sent_us > rest_us)
            tell(*at, m);
        at = &(*at)->next;
    }
}

void srv_streams_send(struct srv_streams *list, const ProtobufCMessage *m)
{
    tell_all(list, m, -1);
}

void srv_streams_beat(struct srv_streams *list, const ProtobufCMessage *m)
{
    tell_all(list, m, BEAT_US);
}

void srv_streams_end(struct srv_streams *list)
{
    while (list->first) {
        struct srv_stream *s = list->first;

        list->first = s->next;
        s->call->end(s->call);
        free(s);
    }
}
