/* Duplex exchanges over HTTP/1.1, one half after the other: the library answers
 * nothing before a body is whole. So the messages are handed over once all are
 * there, each when the client has taken the answer before it. */
#include "api/frame.h"
#include "server/http/http_parts.h"

void http_duplex(struct srv_http_exchange *x)
{
    ((struct exchange *)x)->duplex = true;
}

/* The message at work stays until http_turn: its handler may still look. */
void http_next(struct srv_http_exchange *pub)
{
    struct exchange *x = (struct exchange *)pub;

    x->answered = true;
    http_hand_back(x);
}

void http_turn(struct exchange *x)
{
    const struct srv_http_hooks *hooks = &x->conn->h->c.hooks;
    size_t left, size;

    if (x->answered)
        hooks->next(hooks->arg, &x->x);
    x->answered = false;
    x->x.taken += x->x.body_len;
    x->x.body_len = 0;
    left = x->received - x->x.taken;
    if (!left) {
        hooks->last(hooks->arg, &x->x);
        return;
    }
    if (x->conn->h->draining) {
        http_refuse(x, SRV_REJECT_STARTING, API_UNAVAILABLE, 0, true,
                    "the server is draining");
        return;
    }
    if (x->x.until_us && ut_clock_us() > x->x.until_us) {
        http_refuse(x, SRV_REJECT_EXPIRED, API_DEADLINE_EXCEEDED, 0, true,
                    "the stream's deadline has passed");
        return;
    }
    x->x.body = x->body.data + x->x.taken;
    size = left < API_FRAME_HEAD ? API_FRAME_HEAD : api_frame_size(x->x.body);
    if (size > left) {
        http_refuse(x, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400, true,
                    "the last message was cut off");
        return;
    }
    x->x.body_len = size;
    http_hand_over(x);
}
