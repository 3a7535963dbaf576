/* Any bytes from an HTTP/2 client, over a socket: a server of its own for each
 * input, with calls that are answered at once, late, or in a stream, and a
 * client that leaves before or after. Every call must end, and a drained
 * server must leave nothing behind.
 *
 * The first byte of an input says how the rest is sent (enum how); a message
 * goes in frames of ours, everything else as it is. */
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/tscaf.pb-c.h"
#include "server/app.h"
#include "server/auth.h"
#include "server/calls/dispatch.h"
#include "server/http/h2.h"

#define MAX_HELD 16
#define MAX_ROUNDS 100000 /* of the loop, for what must end at once */
#define MAX_DATA (16 * 1024)

enum how {
    GREET = 1,   /* the preface and empty settings come first */
    MESSAGE = 2, /* a method's number, then the body of a gRPC request to it */
    STAY = 4,    /* the client waits for the calls that are held */
    DRAIN = 8,   /* the server begins to drain before the rest has come */
    PIECES = 16, /* times 0..15: 0 is in one piece, n pieces of n * n bytes */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct {
    struct srv_app app;
    struct srv_config config;
    struct srv_dispatch *dispatch;
    struct srv_call *held[MAX_HELD];
    bool streams[MAX_HELD]; /* that held call */
    int n_held;
    bool drained;
} the;

/* ---- Handlers ---- */

static void on_analyze(struct srv_call *c)
{
    Tscaf__V1__AnalyzeResponse r = TSCAF__V1__ANALYZE_RESPONSE__INIT;

    r.request_id = c->request_id;
    c->reply(c, &r.base);
}

static void answer(struct srv_call *c, bool streams)
{
    Tscaf__V1__SearchResponse r = TSCAF__V1__SEARCH_RESPONSE__INIT;

    if (streams)
        c->end(c);
    else
        c->reply(c, &r.base);
}

static void hold(struct srv_call *c, bool streams)
{
    if (the.n_held == MAX_HELD) {
        answer(c, streams);
        return;
    }
    the.streams[the.n_held] = streams;
    the.held[the.n_held++] = c;
}

static void on_search(struct srv_call *c)
{
    hold(c, false);
}

static void on_left(struct srv_call *c)
{
    for (int i = 0; i < the.n_held; i++)
        if (the.held[i] == c) {
            the.held[i] = the.held[--the.n_held];
            the.streams[i] = the.streams[the.n_held];
        }
}

static void on_watch(struct srv_call *c)
{
    Tscaf__V1__KeyRef m = TSCAF__V1__KEY_REF__INIT;

    m.id = c->request_id;
    c->left = on_left;
    for (int i = 0; i < 3; i++)
        c->send(c, &m.base);
    hold(c, true);
}

static void release(void)
{
    while (the.n_held) {
        the.n_held--;
        answer(the.held[the.n_held], the.streams[the.n_held]);
    }
}

static void on_plain(struct srv_app *app, struct srv_http_exchange *x)
{
    struct srv_http_answer a = {.status = 200, .type = "text/plain"};

    (void)app;
    a.body = strdup("plain");
    a.len = 5;
    srv_http_answer(x, &a);
}

#define ANALYZE "tscaf.v1.DriverMonitor/Analyze"
#define SEARCH "tscaf.v1.DriverMonitor/Search"
#define WATCH "tscaf.v1.Training/WatchJob"
#define ANALYZE_STREAM "tscaf.v1.DriverMonitor/AnalyzeStream"
#define SEARCH_STREAM "tscaf.v1.DriverMonitor/SearchStream"

static const struct srv_route routes[] = {
    {.method = "GET",
     .path = "/plain",
     .request = &tscaf__v1__empty__descriptor,
     .plain = on_plain},
    {.method = "POST",
     .path = "/analyze",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__analyze_request__descriptor,
     .handler = on_analyze,
     .rpc = ANALYZE,
     .status = 200},
    {.method = "POST",
     .path = "/search",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__search_request__descriptor,
     .handler = on_search,
     .rpc = SEARCH,
     .status = 200},
    {.method = "GET",
     .path = "/watch",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__list_keys_request__descriptor,
     .handler = on_watch,
     .rpc = WATCH,
     .streams = true,
     .status = 200},
    {.method = "POST",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__analyze_request__descriptor,
     .handler = on_analyze,
     .rpc = ANALYZE_STREAM,
     .streams = true,
     .duplex = true,
     .status = 200},
    {.method = "POST",
     .role = SRV_ROLE_ANALYZE,
     .request = &tscaf__v1__search_request__descriptor,
     .handler = on_search,
     .rpc = SEARCH_STREAM,
     .streams = true,
     .duplex = true,
     .status = 200},
};
#define N_ROUTES ((int)(sizeof(routes) / sizeof(routes[0])))

/* ---- The client ---- */

static void run_loop(int rounds)
{
    while (rounds-- > 0)
        uv_run(&the.app.loop, UV_RUN_NOWAIT);
}

static int dial(int port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET};
    /* Its close is a reset, which leaves no socket to wait its time out. */
    struct linger none = {.l_onoff = 1};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    sa.sin_port = htons((uint16_t)port);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) ||
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none)))
        abort();
    return fd;
}

/* Lets the server read and answer; hears it. */
static void turn(int fd)
{
    char heard[4096];

    run_loop(2); /* what one reads, the next one's prepare answers */
    while (recv(fd, heard, sizeof(heard), MSG_DONTWAIT) > 0)
        ;
}

static void put(int fd, const void *bytes, size_t len, size_t piece)
{
    const char *at = bytes;

    for (size_t n; len; at += n, len -= n) {
        n = len < piece ? len : piece;
        if (send(fd, at, n, MSG_NOSIGNAL) != (ssize_t)n)
            return; /* it was cut off */
        turn(fd);
    }
}

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                              "\0\0\0\x04\0\0\0\0\0"; /* SETTINGS */

/* name or value: a literal of HPACK. */
static size_t add_literal(char *out, const char *text)
{
    size_t len = strlen(text);

    out[0] = (char)len;
    memcpy(out + 1, text, len);
    return len + 1;
}

static size_t add_frame_header(char *out, size_t len, char type, char flags)
{
    const char header[9] = {(char)(len >> 16),
                            (char)(len >> 8),
                            (char)len,
                            type,
                            flags,
                            0,
                            0,
                            0,
                            1}; /* the stream */

    memcpy(out, header, sizeof(header));
    return sizeof(header);
}

/* HEADERS of a gRPC request, and DATA with its body. */
static void put_message(int fd, const uint8_t *body, size_t len, size_t piece)
{
    static const char *const paths[] = {"/" ANALYZE, "/" SEARCH, "/" WATCH,
                                        "/" ANALYZE_STREAM, "/" SEARCH_STREAM};
    static const char fixed[] = "\x83\x86"; /* :method POST, :scheme http */
    char frames[256 + MAX_DATA], block[128];
    size_t n = sizeof(fixed) - 1, at;

    if (!len)
        return;
    memcpy(block, fixed, n);
    block[n++] = 0x01; /* :authority */
    n += add_literal(block + n, "localhost");
    block[n++] = 0x04; /* :path */
    n += add_literal(block + n, paths[body[0] % 5]);
    block[n++] = 0x0f; /* content-type */
    block[n++] = 0x10;
    n += add_literal(block + n, "application/grpc");
    block[n++] = 0;
    n += add_literal(block + n, "grpc-encoding");
    n += add_literal(block + n, "gzip");
    at = add_frame_header(frames, n, 1, 4); /* HEADERS, END_HEADERS */
    memcpy(frames + at, block, n);
    at += n;
    body++;
    len = len - 1 < MAX_DATA ? len - 1 : MAX_DATA;
    at += add_frame_header(frames + at, len, 0, 1); /* DATA, END_STREAM */
    memcpy(frames + at, body, len);
    put(fd, frames, at + len, piece);
}

/* ---- The server ---- */

static void on_drained(void *arg)
{
    (void)arg;
    the.drained = true;
}

/* The fuzzer's own clock must not end a connect that the kernel is late with.
 */
static void restart_after_alarms(void)
{
    struct sigaction alarm;

    if (sigaction(SIGALRM, NULL, &alarm))
        abort();
    alarm.sa_flags |= SA_RESTART;
    if (sigaction(SIGALRM, &alarm, NULL))
        abort();
}

static void prepare(void)
{
    struct ut_error e;

    restart_after_alarms();
    the.config.default_deadline_ms = 10000;
    the.app.config = &the.config;
    the.app.ready = true;
    if (srv_auth_new(&the.app.auth, &e) ||
        srv_dispatch_new(&the.app, routes, N_ROUTES, &the.dispatch, &e) ||
        srv_metrics_new(srv_dispatch_names(the.dispatch), N_ROUTES,
                        &the.app.metrics, &e))
        abort();
}

static void start(void)
{
    struct srv_http_config c = {
        .host = "127.0.0.1",
        .max_connections = 10,
        .max_body_bytes = 8 * 1024,
        .max_total_bytes = 40 * 1024,
        .header_timeout_ms = 10000,
        .idle_timeout_ms = 10000,
        .request_timeout_ms = 10000,
        .hooks = srv_dispatch_hooks(the.dispatch),
        .metrics = the.app.metrics,
    };
    struct ut_error e;

    the.drained = false;
    if (uv_loop_init(&the.app.loop) ||
        srv_h2_new(&the.app.loop, &c, &the.app.h2, &e))
        abort();
}

static void finish(int fd)
{
    int rounds = 0;

    close(fd);
    run_loop(2);
    release();
    srv_h2_drain(the.app.h2, on_drained, NULL);
    while (!the.drained) {
        if (rounds++ == MAX_ROUNDS)
            abort();
        run_loop(1);
        release(); /* a stream's next message may be held */
    }
    if (srv_h2_calls(the.app.h2))
        abort();
    srv_h2_free(the.app.h2);
    uv_run(&the.app.loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&the.app.loop))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    size_t n, piece;
    unsigned how;
    int fd;

    if (!len)
        return 0;
    if (!the.dispatch)
        prepare();
    how = data[0];
    n = how / PIECES;
    piece = n ? n * n : SIZE_MAX;
    data++;
    len--;
    start();
    fd = dial(srv_h2_port(the.app.h2));
    if (how & (GREET | MESSAGE))
        put(fd, preface, sizeof(preface) - 1, SIZE_MAX);
    if (how & DRAIN)
        srv_h2_drain(the.app.h2, on_drained, NULL);
    if (how & MESSAGE)
        put_message(fd, data, len, piece);
    else
        put(fd, data, len, piece);
    if (how & STAY) {
        release();
        turn(fd);
    }
    finish(fd);
    return 0;
}
