#ifndef TESTS_UNIT_H2_CLIENT_H
#define TESTS_UNIT_H2_CLIENT_H

/* A client of nghttp2's over a blocking socket, for tests of server/http/h2*.c:
 * one at a time. Only headers, as server_http.h. */

#include <nghttp2/nghttp2.h>

#include "server/http/h2.h"
#include "tests/unit/server_http.h"

#define CLIENT_STREAMS 256

/* What a client has heard. */
static struct client {
    int fd;
    nghttp2_session *session;
    bool gone, goaway; /* its connection ended; it was told so */
    uint32_t goaway_error;
    int n_pongs;
    struct heard {
        int status, grpc;
        uint32_t reset;
        bool closed;
        size_t len;
        char body[512], why[128]; /* grpc-message */
    } of[CLIENT_STREAMS];         /* by stream id / 2 */
} client;

/* Its windows open only as it is told. */
static bool client_holds_windows;

static inline int on_frame(nghttp2_session *s, const nghttp2_frame *f,
                           void *user)
{
    (void)s;
    (void)user;
    if (f->hd.type == NGHTTP2_GOAWAY) {
        client.goaway = true;
        client.goaway_error = f->goaway.error_code;
    } else if (f->hd.type == NGHTTP2_PING) {
        client.n_pongs++;
    }
    return 0;
}

static inline int on_header(nghttp2_session *s, const nghttp2_frame *f,
                            const uint8_t *name, size_t name_len,
                            const uint8_t *value, size_t value_len,
                            uint8_t flags, void *user)
{
    struct heard *h = &client.of[f->hd.stream_id / 2 % CLIENT_STREAMS];

    (void)s;
    (void)name_len;
    (void)value_len;
    (void)flags;
    (void)user;
    if (strcmp((const char *)name, ":status") == 0)
        h->status = atoi((const char *)value);
    if (strcmp((const char *)name, "grpc-status") == 0)
        h->grpc = atoi((const char *)value);
    if (strcmp((const char *)name, "grpc-message") == 0)
        snprintf(h->why, sizeof(h->why), "%s", (const char *)value);
    return 0;
}

static inline int on_data(nghttp2_session *s, uint8_t flags, int32_t id,
                          const uint8_t *data, size_t len, void *user)
{
    struct heard *h = &client.of[id / 2 % CLIENT_STREAMS];

    (void)s;
    (void)flags;
    (void)user;
    for (size_t i = 0; i < len && h->len + i < sizeof(h->body) - 1; i++)
        h->body[h->len + i] = (char)data[i];
    h->len += len;
    return 0;
}

static inline int on_close(nghttp2_session *s, int32_t id, uint32_t error,
                           void *user)
{
    struct heard *h = &client.of[id / 2 % CLIENT_STREAMS];

    (void)s;
    (void)user;
    h->closed = true;
    h->reset = error;
    return 0;
}

static inline void connect_client(void)
{
    nghttp2_session_callbacks *cb;
    nghttp2_option *option;

    memset(&client, 0, sizeof(client));
    for (int i = 0; i < CLIENT_STREAMS; i++)
        client.of[i].grpc = -1;
    client.fd = dial_port(srv_h2_port(the.app.h2));
    assert_true(client.fd >= 0);
    nghttp2_session_callbacks_new(&cb);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
    /* What it may open before the server has said how many. */
    nghttp2_option_new(&option);
    nghttp2_option_set_peer_max_concurrent_streams(option, CLIENT_STREAMS);
    nghttp2_option_set_no_auto_window_update(option, client_holds_windows);
    assert_int_equal(
        nghttp2_session_client_new2(&client.session, cb, NULL, option), 0);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(cb);
    nghttp2_submit_settings(client.session, NGHTTP2_FLAG_NONE, NULL, 0);
}

static inline void leave(void)
{
    nghttp2_session_del(client.session);
    close(client.fd);
}

/* Sends what there is to send. */
static inline void flush(void)
{
    const uint8_t *data;
    ssize_t n;

    while ((n = nghttp2_session_mem_send(client.session, &data)) > 0)
        if (!put_n(client.fd, (const char *)data, (size_t)n))
            return;
}

/* Sends and reads once; false when the connection has ended. */
static inline bool turn(void)
{
    uint8_t bytes[16 * 1024];
    ssize_t n;

    flush();
    n = recv(client.fd, bytes, sizeof(bytes), 0);
    client.gone = n <= 0;
    if (n > 0)
        nghttp2_session_mem_recv(client.session, bytes, (size_t)n);
    return n > 0;
}

static inline struct heard *finish_stream(int32_t id)
{
    struct heard *h = &client.of[id / 2];

    while (!h->closed && turn())
        ;
    assert_true(h->closed);
    return h;
}

struct bytes {
    const char *data;
    size_t len;
    bool open; /* more() will bring more */
};

static inline ssize_t on_body(nghttp2_session *s, int32_t id, uint8_t *out,
                              size_t max, uint32_t *flags,
                              nghttp2_data_source *source, void *user)
{
    struct bytes *b = source->ptr;
    size_t n = b->len < max ? b->len : max;

    (void)s;
    (void)id;
    (void)user;
    if (!b->len && b->open)
        return NGHTTP2_ERR_DEFERRED;
    if (n) {
        memcpy(out, b->data, n);
        b->data += n;
        b->len -= n;
    }
    if (!b->len && !b->open)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

#define NV(n, v)                                                               \
    {                                                                          \
        (uint8_t *)(uintptr_t)(n), (uint8_t *)(uintptr_t)(v), strlen(n),       \
            strlen(v), NGHTTP2_NV_FLAG_NONE                                    \
    }

/* Asks; name and value, if any, are one more field. *b lives until it is
 * sent. */
static inline int32_t request_with(const char *path, const char *type,
                                   const char *name, const char *value,
                                   struct bytes *b)
{
    nghttp2_data_provider body = {.source.ptr = b, .read_callback = on_body};
    nghttp2_nv nv[] = {
        NV(":method", b ? "POST" : "GET"), NV(":scheme", "http"),
        NV(":authority", "localhost"),     NV(":path", path),
        NV("content-type", type),          NV(name, value ? value : ""),
    };

    return nghttp2_submit_request(client.session, NULL, nv, value ? 6 : 5,
                                  b ? &body : NULL, NULL);
}

static inline int32_t request(const char *path, const char *type,
                              const char *extra, struct bytes *b)
{
    return request_with(path, type, "x-extra", extra, b);
}

/* Sends n bytes more of a request's body, and perhaps its end. */
static inline void more(int32_t id, struct bytes *b, const char *data, size_t n,
                        bool open)
{
    *b = (struct bytes){data, n, open};
    nghttp2_session_resume_data(client.session, id);
    flush();
}

/* Waits until the server has read what was sent so far. */
static inline void settle(void)
{
    int want = client.n_pongs + 1;

    nghttp2_submit_ping(client.session, NGHTTP2_FLAG_NONE, NULL);
    while (client.n_pongs < want && turn())
        ;
    assert_int_equal(client.n_pongs, want);
}

#define GRPC "application/grpc"
#define VERIFY "/tscaf.v1.DriverMonitor/Verify"
#define SEARCH "/tscaf.v1.DriverMonitor/Search"
#define WATCH "/tscaf.v1.Training/WatchJob"
/* VerifyRequest with pictures of 3 and 5 bytes, for which on_pair is "same",
 * in a frame */
static const char pair[] =
    "\0\0\0\0\x10\x0a\x05\x0a\x03yyy\x12\x07\x0a\x05zzzzz";
static const char none[] = "\0\0\0\0";

static inline struct bytes pair_bytes(void)
{
    return (struct bytes){pair, sizeof(pair) - 1, false};
}

static inline void start_h2(void)
{
    the.with_h2 = true;
    start();
    connect_client();
}

#endif
