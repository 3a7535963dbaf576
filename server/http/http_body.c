#include "server/http/http_body.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES (16 * 1024)

static void hold(struct srv_http_bodies *all, int64_t more)
{
    all->bytes += more;
    srv_metrics_add(all->metrics, SRV_GAUGE_BODY_BYTES, more);
}

bool srv_http_body_room(struct srv_http_bodies *all, struct srv_http_body *b,
                        size_t need)
{
    size_t cap = b->cap ? b->cap : FIRST_BYTES;
    char *grown;

    if (need <= b->cap)
        return true;
    while (cap < need)
        cap *= 2;
    if (all->bytes + (int64_t)(cap - b->cap) > all->limit)
        return false;
    grown = realloc(b->data, cap);
    if (!grown)
        return false;
    hold(all, (int64_t)(cap - b->cap));
    b->data = grown;
    b->cap = cap;
    return true;
}

void srv_http_body_free(struct srv_http_bodies *all, struct srv_http_body *b)
{
    hold(all, -(int64_t)b->cap);
    free(b->data);
    *b = (struct srv_http_body){0};
}

bool srv_http_body_keep(struct srv_http_bodies *all, struct srv_http_body *b,
                        struct srv_http_exchange *x, const void *data, size_t n)
{
    if (!srv_http_body_room(all, b, x->body_len + n))
        return false;
    memcpy(b->data + x->body_len, data, n);
    x->body_len += n;
    x->body = b->data;
    return true;
}

void srv_http_body_drop(struct srv_http_bodies *all, struct srv_http_body *b,
                        struct srv_http_exchange *x)
{
    srv_http_body_free(all, b);
    x->body = NULL;
    x->body_len = 0;
}

enum ut_err srv_http_body_replace(struct srv_http_bodies *all,
                                  struct srv_http_body *b,
                                  struct srv_http_exchange *x, char *data,
                                  size_t len, struct api_error *err)
{
    srv_http_body_drop(all, b, x);
    if (all->bytes + (int64_t)len > all->limit) {
        free(data);
        srv_metrics_count(all->metrics, SRV_REJECT_BYTES);
        api_fail(err, API_UNAVAILABLE,
                 "request bodies hold %lld bytes, the limit is %lld",
                 (long long)all->bytes, (long long)all->limit);
        err->retry_after_s = 1;
        return UT_EBUSY;
    }
    *b = (struct srv_http_body){data, len};
    x->body = data;
    x->body_len = len;
    hold(all, (int64_t)len);
    return UT_OK;
}
