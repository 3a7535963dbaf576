/* Connect and gRPC-Web: bytes in, bytes out. Real clients are in tests/rpc. */
#include <zlib.h>

#include "api/base64.h"
#include "api/frame.h"
#include "api/gzip.h"
#include "api/proto.h"
#include "tests/unit/server_http.h"

#define PROTO "Content-Type: application/proto\r\n"
#define JSON "Content-Type: application/json\r\n"
#define GRPC "Content-Type: application/grpc-web+proto\r\n"
#define TEXT "Content-Type: application/grpc-web-text\r\n"
#define GZIP "Content-Encoding: gzip\r\n"

static const char *body; /* of the last answer */
static size_t body_len;

/* Sends METHOD PATH with fields and a body; expects a status. */
static char *send_to(const char *line, const char *fields, const void *bytes,
                     size_t len, int status)
{
    static char head[32 * 1024];
    int fd = dial();
    char *answer;

    snprintf(head, sizeof(head),
             "%s HTTP/1.1\r\n" HOST "%sContent-Length: %zu\r\n\r\n", line,
             fields, len);
    assert_true(put(fd, head) && put_n(fd, bytes, len));
    answer = take(fd, false);
    close(fd);
    is_status(answer, status);
    body = strstr(answer, "\r\n\r\n") + 4;
    body_len = strtoul(strcasestr(answer, "content-length: ") + 16, NULL, 10);
    return answer;
}

#define VERIFY "POST /tscaf.v1.DriverMonitor/Verify"
#define UPDATE "POST /tscaf.v1.Identities/UpdateIdentity"
#define LIST "GET /tscaf.v1.Admin/ListKeys"

/* VerifyRequest with pictures of 3 and 5 bytes, for which on_pair is "same" */
static const char pair[] = "\x0a\x05\x0a\x03yyy\x12\x07\x0a\x05zzzzz";
#define PAIR pair, sizeof(pair) - 1

static bool same(const void *bytes, size_t len)
{
    struct api_error err;
    ProtobufCMessage *m;
    bool is;

    if (api_proto_read(&tscaf__v1__verify_response__descriptor, bytes, len, &m,
                       &err))
        fail_msg("%s", err.message);
    is = ((Tscaf__V1__VerifyResponse *)m)->same;
    protobuf_c_message_free_unpacked(m, NULL);
    return is;
}

static void connect__proto_and_json__answered_alike(void **state)
{
    static const char json[] =
        "{\"image\":{\"data\":\"eXl5\"},\"other\":{\"data\":\"enp6eno\"}}";
    char *a;

    (void)state;
    start();
    a = send_to(VERIFY, PROTO "Connect-Protocol-Version: 1\r\n", PAIR, 200);
    has(a, "Content-Type: application/proto\r\n");
    assert_true(same(body, body_len));
    send_to(VERIFY, PROTO, "", 0, 200);
    assert_false(same(body, body_len));
    a = send_to(VERIFY, JSON "Connect-Timeout-Ms: 250\r\n", json, strlen(json),
                200);
    has(a, "Content-Type: application/json\r\n");
    has(a, "\"same\":true,\"similarity\":250");
    /* Status and codes are RPC's, not REST's 201. */
    a = send_to(UPDATE, "Content-Type: application/json; charset=utf-8\r\n",
                "{\"id\":\"a\",\"name\":\"b\"}", 21, 200);
    has(a, "\"name\":\"b\"");
    /* A message without fields has a body too. */
    a = send_to("POST /tscaf.v1.Identities/DeleteIdentity", JSON, "{}", 2, 200);
    assert_string_equal(body, "{}");
}

static void connect__errors__typed_details(void **state)
{
    static const struct {
        const char *line, *fields, *body;
        int status;
        const char *what;
    } rows[] = {
        {VERIFY, JSON, "{\"nmae\":1}", 400,
         "{\"code\":\"invalid_argument\",\"message\":\"nmae: there is no such "
         "field\",\"details\":[{\"type\":\"tscaf.v1.ErrorDetail\",\"value\":"
         "\"CgRubWFlEg1VTktOT1dOX0ZJRUxE\",\"debug\":{\"field\":\"nmae\","
         "\"reason\":\"UNKNOWN_FIELD\",\"value\":\"\"}}]}"},
        {VERIFY, PROTO, "\x0a\x7f", 400, "not protobuf"},
        {VERIFY, "Content-Type: text/plain\r\n", "", 415,
         "Accept-Post: application/proto, application/json,"},
        {VERIFY, "", "", 415, "Content-Type"},
        {VERIFY, PROTO "Connect-Protocol-Version: 2\r\n", "", 400, "not 1"},
        {VERIFY, PROTO "Content-Encoding: br\r\n", "", 415, "gzip, identity"},
        {VERIFY, PROTO GZIP, "no gzip", 400, "BAD_GZIP"},
        {VERIFY, PROTO "Connect-Timeout-Ms: soon\r\n", "", 400, "soon"},
        {"GET /tscaf.v1.DriverMonitor/Verify", "", "", 405, "Allow: POST\r\n"},
        {"PUT /tscaf.v1.Admin/ListKeys", PROTO, "", 405, "Allow: GET, POST\r"},
        {"POST /tscaf.v1.DriverMonitor/Nothing", PROTO, "", 404,
         "\"unimplemented\""},
        {"POST /tscaf.v1.Nothing/Verify", PROTO, "", 404, "\"unimplemented\""},
        {"POST /tscaf.v1.Admin/ListKeys", PROTO, "", 500, "internal error"},
    };

    (void)state;
    start();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        has(send_to(rows[i].line, rows[i].fields, rows[i].body,
                    strlen(rows[i].body), rows[i].status),
            rows[i].what);
}

static void connect__get__only_without_side_effects(void **state)
{
    char *a;

    (void)state;
    start();
    a = send_to("GET /tscaf.v1.Identities/GetFaceCrop?connect=v1&base64=1&"
                "encoding=proto&message=CgFhEgFi",
                "", "", 0, 200);
    has(a, "Content-Type: application/proto\r\n");
    assert_memory_equal(body, "\x0a\x04\x89PNG", body_len);
    a = send_to("GET /tscaf.v1.Identities/GetFaceCrop?encoding=json&message="
                "%7B%22face_id%22%3A%22b%22%7D",
                "", "", 0, 200);
    assert_string_equal(body, "{\"png\":\"iVBORw==\"}");
    has(send_to(LIST "?encoding=text&message=", "", "", 0, 400), "encoding");
    has(send_to(LIST "?encoding=json", "", "", 0, 400), "message");
    has(send_to(LIST "?encoding=json&message=x&connect=v2", "", "", 0, 400),
        "(v1)");
    has(send_to(LIST "?encoding=json&message=x&compression=br", "", "", 0, 400),
        "identity");
    has(send_to(LIST "?encoding=json&message=x", JSON, "{}", 2, 400), "body");
    has(send_to(LIST "?encoding=json&message=%7B%7D", "", "", 0, 500),
        "internal error");
}

/* ---- gzip ---- */

static void gzip__both_ways__same_message(void **state)
{
    struct ut_error e;
    struct api_error err;
    size_t len, plain_len;
    char *packed, *plain, *a, json[9000];

    (void)state;
    start();
    assert_int_equal(api_gzip(PAIR, &packed, &len, &e), UT_OK);
    send_to(VERIFY, PROTO GZIP, packed, len, 200);
    assert_true(same(body, body_len));
    free(packed);
    /* REST too. */
    snprintf(json, sizeof(json), "{\"name\":\"%08000d\"}", 7);
    assert_int_equal(api_gzip(json, strlen(json), &packed, &len, &e), UT_OK);
    a = send_to("PATCH /echo/a", JSON GZIP "Accept-Encoding: br, gzip\r\n",
                packed, len, 201);
    has(a, "Content-Encoding: gzip\r\n");
    assert_int_equal(
        api_gunzip(body, body_len, 1 << 20, &plain, &plain_len, &err), UT_OK);
    has(plain, "00007\"");
    free(plain);
    a = send_to("PATCH /echo/a", JSON GZIP "Accept-Encoding: gzip;q=0\r\n",
                packed, len, 201);
    assert_null(strstr(a, "Content-Encoding"));
    has(a, "00007\"");
    free(packed);
}

static void gzip__accepted__as_its_own_weight_says(void **state)
{
    static const struct {
        const char *list;
        bool takes;
    } rows[] = {
        {NULL, false},
        {"", false},
        {"gzip", true},
        {"br, GZIP", true},
        {"x-gzip", false},
        {"gzipped", false},
        {"gzip;q=0", false},
        {"gzip;q=0.0, identity;q=0.5", false},
        {"gzip; q=0.000", false},
        {"gzip;q=0.1", true},
        {"gzip;q=1, br;q=0", true},
        {"br;q=0,gzip ; q=0.5", true},
        {"identity;q=0, br", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (srv_takes_gzip(rows[i].list) != rows[i].takes)
            fail_msg("%s", rows[i].list);
}

/* n zeros as gzip. */
static char *zeros(size_t n, size_t *len)
{
    struct ut_error e;
    char *plain = calloc(n, 1), *packed;

    assert_int_equal(api_gzip(plain, n, &packed, len, &e), UT_OK);
    free(plain);
    return packed;
}

static void gzip__bomb__refused_at_the_limit(void **state)
{
    size_t len;
    char *packed;

    (void)state;
    start();
    packed = zeros(BODY_LIMIT, &len);
    has(send_to(VERIFY, PROTO GZIP, packed, len, 400), "not protobuf");
    free(packed);
    packed = zeros(BODY_LIMIT + 1, &len);
    has(send_to(VERIFY, PROTO GZIP, packed, len, 429), "when unpacked");
    has(send_to("PATCH /echo/a", JSON GZIP, packed, len, 413), "when unpacked");
    free(packed);
    packed = zeros(64 * BODY_LIMIT, &len);
    assert_true(len < BODY_LIMIT);
    has(send_to(VERIFY, PROTO GZIP, packed, len, 429), "when unpacked");
    free(packed);
}

/* ---- gRPC-Web ---- */

static void grpc__frames_and_trailers(void **state)
{
    static const char end[] = "\x80\0\0\0\x10grpc-status: 0\r\n";
    static const char no[] = "\0\0\0\0\x02\x0a\x7f";
    char framed[64] = {0}, text[128], *a;
    size_t len = sizeof(pair) - 1, n;

    (void)state;
    start();
    framed[4] = (char)len;
    memcpy(framed + 5, pair, len);
    a = send_to(VERIFY, GRPC "Grpc-Timeout: 250m\r\n", framed, len + 5, 200);
    has(a, "Content-Type: application/grpc-web+proto\r\n");
    n = (unsigned char)body[4];
    assert_true(same(body + 5, n));
    assert_int_equal(body_len, 5 + n + sizeof(end) - 1);
    assert_memory_equal(body + 5 + n, end, sizeof(end) - 1);

    api_base64_encode((uint8_t *)framed, len + 5, text);
    send_to(VERIFY, TEXT, text, api_base64_len(len + 5), 200);
    n = (size_t)api_base64_decode(body, body_len, (uint8_t *)framed);
    assert_memory_equal(framed + n - sizeof(end) + 1, end, sizeof(end) - 1);

    send_to(VERIFY, GRPC, no, sizeof(no) - 1, 200);
    assert_int_equal((unsigned char)body[0], API_FRAME_TRAILERS);
    has(body + 5, "grpc-status: 3\r\ngrpc-message: image: not protobuf");
    has(body + 5, "grpc-status-details-bin: CAMS");
    send_to("POST /tscaf.v1.DriverMonitor/Nothing", GRPC, framed, 5, 200);
    has(body + 5, "grpc-status: 12\r\n");
}

static void grpc__bad_frames__told_in_trailers(void **state)
{
    static const struct {
        const char *fields, *body;
        size_t len;
        const char *what;
    } rows[] = {
        {GRPC, "", 0, "five bytes"},
        {GRPC, "\0\0\0\0", 4, "five bytes"},
        {GRPC, "\0\0\0\0\1", 5, "longer than the body"},
        {GRPC, "\0\xff\xff\xff\xff", 5, "longer than the body"},
        {GRPC, "\0\0\0\0\0\0\0\0\0\0", 10, "one frame"},
        {GRPC, "\1\0\0\0\0", 5, "one frame"},
        {GRPC, "\x80\0\0\0\0", 5, "one frame"},
        {GRPC "Grpc-Encoding: gzip\r\n", "\1\0\0\0\0", 5, "gzip"},
        {GRPC "Grpc-Encoding: br\r\n", "\0\0\0\0\0", 5, "grpc-status: 12"},
        {GRPC "Grpc-Timeout: 1\r\n", "\0\0\0\0\0", 5, "Grpc-Timeout"},
        {GRPC "Grpc-Timeout: 123456789S\r\n", "\0\0\0\0\0", 5, "eight"},
    };

    (void)state;
    start();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        send_to(VERIFY, rows[i].fields, rows[i].body, rows[i].len, 200);
        has(body + 5, rows[i].what);
    }
    send_to(VERIFY, TEXT, "!", 1, 200);
    assert_memory_equal(body, "gAAA", 4);
}

/* ---- Streams ---- */

#define WATCH "POST /tscaf.v1.Training/WatchJob HTTP/1.1\r\n" HOST
#define NO_MESSAGE "Content-Length: 5\r\n\r\n\0\0\0\0"
/* A chunk with one KeyRef in a frame. */
#define CHUNK                                                                  \
    "1B\r\n\0\0\0\0\x16\x0a\x14"                                               \
    "0123456789abcdefghij\r\n"

static int open_watch(const char *request, size_t len)
{
    int fd = dial();

    atomic_store(&the_stream.there, false);
    assert_true(put_n(fd, request, len));
    UNTIL(atomic_load(&the_stream.there));
    return fd;
}

/* What comes next are these bytes. */
static void expect(int fd, const char *bytes, size_t len)
{
    char got[512];
    size_t n = 0;

    while (n < len) {
        ssize_t more = recv(fd, got + n, len - n, 0);

        assert_true(more > 0);
        n += (size_t)more;
    }
    assert_memory_equal(got, bytes, len);
}

static void expect_head(int fd, const char *type)
{
    char text[1024];
    size_t n = 0;

    do
        assert_int_equal(recv(fd, text + n, 1, 0), 1);
    while (++n < sizeof(text) - 1 &&
           (n < 4 || memcmp(text + n - 4, "\r\n\r\n", 4) != 0));
    text[n] = '\0';
    is_status(text, 200);
    has(text, type);
}

#define EXPECT(fd, bytes) expect(fd, bytes, sizeof(bytes) - 1)

static void stream__messages_and_end__in_frames(void **state)
{
    static const char connect[] =
        WATCH "Content-Type: application/connect+proto\r\n" NO_MESSAGE;
    static const char grpc[] = WATCH GRPC NO_MESSAGE;
    static const char text[] = WATCH TEXT "Content-Length: 8\r\n\r\nAAAAAAA=";
    int fd;

    (void)state;
    start();
    the_stream.n = 1;
    fd = open_watch(connect, sizeof(connect));
    ask(do_send);
    expect_head(fd, "Content-Type: application/connect+proto\r\n");
    EXPECT(fd, CHUNK);
    ask(do_send);
    EXPECT(fd, CHUNK);
    ask(do_end);
    EXPECT(fd, "7\r\n\2\0\0\0\2{}\r\n0\r\n\r\n");
    close(fd);

    fd = open_watch(grpc, sizeof(grpc));
    ask(do_send);
    expect_head(fd, "Content-Type: application/grpc-web+proto\r\n");
    EXPECT(fd, CHUNK);
    ask(do_end);
    EXPECT(fd, "15\r\n\x80\0\0\0\x10grpc-status: 0\r\n\r\n0\r\n\r\n");
    close(fd);

    fd = open_watch(text, sizeof(text) - 1);
    ask(do_end);
    expect_head(fd, "Content-Type: application/grpc-web-text\r\n");
    EXPECT(fd, "1C\r\ngAAAABBncnBjLXN0YXR1czogMA0K\r\n0\r\n\r\n");
    close(fd);
}

/* The bytes of the message that answers one with a name so long, unpacked;
 * flags: what its frame says. */
static size_t answered(const char *fields, int name_len, unsigned *flags)
{
    Tscaf__V1__UpdateIdentityRequest q =
        TSCAF__V1__UPDATE_IDENTITY_REQUEST__INIT;
    const char *at, *data;
    struct ut_buf message, framed;
    struct api_error err;
    struct ut_error e;
    char name[9000], *plain;
    size_t len;

    snprintf(name, sizeof(name), "%0*d", name_len, 7);
    q.name = name;
    q.new_name_case = TSCAF__V1__UPDATE_IDENTITY_REQUEST__NEW_NAME_NAME;
    ut_buf_init(&message, sizeof(name) + 16);
    ut_buf_init(&framed, sizeof(name) + 16);
    assert_int_equal(api_proto_write(&q.base, &message, &e), UT_OK);
    assert_int_equal(api_frame_add(&framed, 0, message.data, message.len, &e),
                     UT_OK);
    send_to(UPDATE, fields, framed.data, framed.len, 200);
    ut_buf_fini(&framed);
    ut_buf_fini(&message);
    at = body;
    assert_int_equal(
        api_frame_next(&at, body + body_len, flags, &data, &len, &err), UT_OK);
    if (*flags != API_FRAME_GZIP)
        return len;
    assert_int_equal(
        api_gunzip(data, len, sizeof(name) + 64, &plain, &len, &err), UT_OK);
    assert_non_null(memmem(plain, len, name, (size_t)name_len));
    free(plain);
    return len;
}

static void grpc__long_messages__packed_for_who_takes_it(void **state)
{
    static const char takes[] =
        GRPC "Grpc-Accept-Encoding: identity, deflate, gzip\r\n";
    static const char watch[] =
        WATCH GRPC "Grpc-Accept-Encoding: gzip\r\n" NO_MESSAGE;
    unsigned flags;
    int most, fd;

    (void)state;
    start();
    /* The longest name whose answer is not worth it; and one more. */
    most = 4000 + SRV_GZIP_LEAST - 1 - (int)answered(takes, 4000, &flags);
    assert_int_equal(answered(takes, most, &flags), SRV_GZIP_LEAST - 1);
    assert_int_equal(flags, 0);
    assert_int_equal(answered(takes, most + 1, &flags), SRV_GZIP_LEAST);
    assert_int_equal(flags, API_FRAME_GZIP);
    has(send_to(UPDATE, takes, "\0\0\0\0\0", 5, 200),
        "Grpc-Encoding: gzip\r\n");
    assert_null(
        strstr(send_to(UPDATE, GRPC, "\0\0\0\0\0", 5, 200), "Grpc-Encoding"));
    answered(GRPC "Grpc-Accept-Encoding: gzip;q=0\r\n", 8000, &flags);
    assert_int_equal(flags, 0);

    the_stream.n = 1;
    fd = open_watch(watch, sizeof(watch));
    ask(do_send);
    expect_head(fd, "Grpc-Encoding: gzip\r\n");
    EXPECT(fd, CHUNK);
    ask(do_end);
    close(fd);
}

static void stream__errors__before_and_after_the_first_message(void **state)
{
    static const char connect[] =
        WATCH "Content-Type: application/connect+json\r\n"
              "Content-Length: 7\r\n\r\n\0\0\0\0\2{}";
    int fd;

    (void)state;
    start();
    the_stream.n = 1;
    fd = open_watch(connect, sizeof(connect) - 1);
    ask(do_send);
    expect_head(fd, "Content-Type: application/connect+json\r\n");
    EXPECT(fd, "22\r\n\0\0\0\0\x1d{\"id\":\"0123456789abcdefghij\"}\r\n");
    ask(do_break);
    EXPECT(fd, "47\r\n\2\0\0\0\x42{\"error\":{\"code\":\"unavailable\","
               "\"message\":\"it broke\",\"details\":[]}}\r\n0\r\n\r\n");
    close(fd);

    fd = open_watch(connect, sizeof(connect) - 1);
    ask(do_break);
    expect_head(fd, "Content-Length: 71\r\n");
    EXPECT(fd, "\2\0\0\0\x42{\"error\":{\"code\":\"unavailable\"");
    close(fd);

    /* One message, and of a stream's type. */
    send_to("POST /tscaf.v1.Training/WatchJob",
            "Content-Type: application/connect+json\r\n", "", 0, 200);
    has(body + 5, "{\"error\":{\"code\":\"invalid_argument\"");
    has(send_to("POST /tscaf.v1.Training/WatchJob", PROTO, "", 0, 415),
        "Accept-Post: application/connect+proto, application/connect+json,");
    has(send_to(VERIFY, "Content-Type: application/connect+proto\r\n", "", 0,
                415),
        "Accept-Post: application/proto,");
    has(send_to("GET /tscaf.v1.Training/WatchJob?encoding=json&message=%7B%7D",
                "", "", 0, 405),
        "Allow: POST\r\n");
}

static void stream__client_leaves__handler_told(void **state)
{
    static const char grpc[] = WATCH GRPC NO_MESSAGE;
    int fd;

    (void)state;
    start();
    the_stream.n = 1;
    fd = open_watch(grpc, sizeof(grpc));
    ask(do_send);
    expect_head(fd, "X-Accel-Buffering: no\r\n");
    close(fd);
    UNTIL(atomic_load(&the_stream.left));
    assert_null(the_stream.call);
}

/* ---- Duplex streams, over HTTP/1.1 ---- */

#define PICTURES "/tscaf.v1.DriverMonitor/AnalyzeStream"
#define HELD "/tscaf.v1.DriverMonitor/SearchStream"
#define CONNECT "Content-Type: application/connect+json\r\n"
#define FRAME "\0\0\0\0\x1c{\"images\":[{\"data\":\"YWI=\"}]}"
#define EMPTY "\0\0\0\0\2{}"

static int ask_stream(const char *path, const char *fields, const char *frames,
                      size_t len)
{
    char head[512];
    int fd = dial();

    snprintf(head, sizeof(head),
             "POST %s HTTP/1.1\r\n" HOST
             "Connection: close\r\n%sContent-Length: %zu\r\n\r\n",
             path, fields, len);
    assert_true(put(fd, head));
    assert_true(put_n(fd, frames, len));
    return fd;
}

static char heard[16 * 1024]; /* what was answered */
static size_t said;           /* bytes of it */

static void hear(int fd)
{
    ssize_t n;

    said = 0;
    while ((n = recv(fd, heard + said, sizeof(heard) - said, 0)) > 0)
        said += (size_t)n;
    assert_int_equal(n, 0);
    close(fd);
}

static int times(const char *word)
{
    const char *at = heard;
    int n = 0;

    while ((at = memmem(at, said - (size_t)(at - heard), word, strlen(word)))) {
        at++;
        n++;
    }
    return n;
}

#define HEAR(fields, frames)                                                   \
    hear(ask_stream(PICTURES, fields, frames, sizeof(frames) - 1))

static void duplex__messages__each_answered_then_the_end(void **state)
{
    (void)state;
    start();
    HEAR(CONNECT, FRAME FRAME FRAME);
    is_status(heard, 200);
    assert_int_equal(times("\"width\":2"), 3);
    assert_int_equal(times("\2{}\r\n0\r\n\r\n"), 1);
    HEAR(CONNECT, "");
    is_status(heard, 200);
    assert_int_equal(times("\2{}\r\n0\r\n\r\n"), 1);
    assert_int_equal(times("width"), 0);
}

static void duplex__first_broken_one__ends_it(void **state)
{
    (void)state;
    start();
    HEAR(CONNECT, FRAME "\0\0\0\0\1{" FRAME);
    assert_int_equal(times("\"width\":2"), 1);
    assert_int_equal(times("\"code\":\"invalid_argument\""), 1);
    HEAR(CONNECT, FRAME "\0\0\0\0");
    assert_int_equal(times("\"width\":2"), 1);
    assert_int_equal(times("the last message was cut off"), 1);
    HEAR(CONNECT, "\0\0\0\0\x1c{");
    assert_int_equal(times("the last message was cut off"), 1);
    HEAR(CONNECT "Content-Encoding: gzip\r\n", FRAME);
    assert_int_equal(times("Content-Encoding of a stream is not identity"), 1);
    HEAR("Content-Type: application/grpc-web+proto\r\n", EMPTY);
    assert_int_equal(times("AnalyzeStream takes a stream"), 1);
}

/* What breaks a limit before the first answer is said as the stream says it. */
static void duplex__body_over_the_limit__in_an_end_frame(void **state)
{
    char chunk[32];
    int fd;

    (void)state;
    the.http.max_body_bytes = sizeof(FRAME) + 3;
    start();
    HEAR(CONNECT, FRAME);
    assert_int_equal(times("\"width\":2"), 1);
    fd = dial();
    assert_true(put(fd, "POST " PICTURES " HTTP/1.1\r\n" HOST CONNECT
                        "Connection: close\r\n"
                        "Transfer-Encoding: chunked\r\n\r\n"));
    for (int i = 0; i < 2; i++) {
        snprintf(chunk, sizeof(chunk), "%zx\r\n", sizeof(FRAME) - 1);
        assert_true(put(fd, chunk));
        assert_true(put_n(fd, FRAME "\r\n", sizeof(FRAME) + 1));
    }
    assert_true(put(fd, "0\r\n\r\n"));
    hear(fd);
    is_status(heard, 200);
    assert_int_equal(times("Content-Type: application/connect+json"), 1);
    assert_int_equal(times("\"code\":\"resource_exhausted\""), 1);
}

static void duplex__draining__ends_after_the_one_at_work(void **state)
{
    int fd;

    (void)state;
    start();
    fd = ask_stream(HELD, CONNECT, EMPTY EMPTY EMPTY, 21);
    UNTIL(atomic_load(&the.n_held) == 1);
    ask(do_drain);
    ask(do_release);
    hear(fd);
    is_status(heard, 200);
    assert_int_equal(times("the server is draining"), 1);
    assert_int_equal(atomic_load(&the.n_held), 0);
}

static void duplex__deadline_of_the_stream__ends_it(void **state)
{
    int fd;

    (void)state;
    start();
    fd = ask_stream(HELD, CONNECT "Connect-Timeout-Ms: 1\r\n", EMPTY EMPTY, 14);
    UNTIL(atomic_load(&the.n_held) == 1);
    usleep(2000); /* the deadline has passed */
    ask(do_release);
    hear(fd);
    assert_int_equal(times("\"code\":\"deadline_exceeded\""), 1);
    assert_int_equal(atomic_load(&the.n_held), 0);
}

/* A message's deadline is not its stream's, and Connect knows no Grpc-Timeout.
 */
static void duplex__no_deadline_of_its_own__goes_on(void **state)
{
    int fd;

    (void)state;
    the.config.default_deadline_ms = 1;
    start();
    fd = ask_stream(HELD, CONNECT "Grpc-Timeout: 1m\r\n", EMPTY EMPTY, 14);
    for (int i = 0; i < 2; i++) {
        UNTIL(atomic_load(&the.n_held) == 1);
        usleep(2000);
        ask(do_release);
    }
    hear(fd);
    assert_int_equal(times("\2{}\r\n0\r\n\r\n"), 1);
}

static void duplex__one_after_the_other__client_leaves(void **state)
{
    int fd;

    (void)state;
    start();
    fd = ask_stream(HELD, CONNECT, EMPTY EMPTY EMPTY, 21);
    UNTIL(atomic_load(&the.n_held) == 1);
    ask(do_release);
    UNTIL(atomic_load(&the.n_held) == 1);
    ask(do_release);
    UNTIL(atomic_load(&the.n_held) == 1);
    ask(do_release);
    hear(fd);
    assert_int_equal(times("\2{}\r\n0\r\n\r\n"), 1);
    /* Its message is worked on to the end; there is no other. */
    for (int answered = 0; answered < 2; answered++) {
        fd = ask_stream(HELD, CONNECT, EMPTY EMPTY EMPTY, 21);
        UNTIL(atomic_load(&the.n_held) == 1);
        if (answered) {
            ask(do_release);
            UNTIL(atomic_load(&the.n_held) == 1);
        }
        close(fd);
        ask(do_release);
        UNTIL(counted(answered ? "status=\"499\"} 2" : "status=\"499\"} 1"));
        assert_int_equal(atomic_load(&the.n_held), 0);
    }
}

/* ---- Health ---- */

#define CHECK "POST /grpc.health.v1.Health/Check"

static void do_ready(void)
{
    the.app.ready = true;
    srv_health_changed(&the.app);
}

static void do_say_draining(void)
{
    the.app.draining = true;
    srv_health_changed(&the.app);
}

static int watch_health(const char *service)
{
    char request[512];
    int n = snprintf(request, sizeof(request),
                     "POST /grpc.health.v1.Health/Watch HTTP/1.1\r\n" HOST
                     "Content-Type: application/connect+proto\r\n"
                     "Content-Length: %zu\r\n\r\n",
                     strlen(service) + 7);
    size_t len = (size_t)n;
    int fd = dial();

    memcpy(request + len, "\0\0\0", 4);
    request[len + 4] = (char)(strlen(service) + 2);
    request[len + 5] = '\x0a';
    request[len + 6] = (char)strlen(service);
    memcpy(request + len + 7, service, strlen(service));
    assert_true(put_n(fd, request, len + 7 + strlen(service)));
    expect_head(fd, "Content-Type: application/connect+proto\r\n");
    return fd;
}

static void health__starting_ready_draining__checked_and_watched(void **state)
{
    int ours, other;

    (void)state;
    the.app.ready = false;
    start();
    send_to(VERIFY, PROTO, PAIR, 503);
    send_to(CHECK, JSON, "{}", 2, 200);
    has(body, "{\"status\":\"NOT_SERVING\"}");
    ours = watch_health("tscaf.v1.DriverMonitor");
    other = watch_health("tscaf.v1.Driver");
    EXPECT(ours, "7\r\n\0\0\0\0\2\x08\2\r\n");
    EXPECT(other, "7\r\n\0\0\0\0\2\x08\3\r\n");

    ask(do_ready);
    EXPECT(ours, "7\r\n\0\0\0\0\2\x08\1\r\n");
    send_to(CHECK, PROTO, "\x0a\x16tscaf.v1.DriverMonitor", 24, 200);
    assert_memory_equal(body, "\x08\1", 2);
    has(send_to(CHECK, JSON, "{\"service\":\"tscaf.v1.Driver\"}", 29, 404),
        "there is no service \\\"tscaf.v1.Driver\\\"");

    ask(do_say_draining); /* both frames are in one chunk */
    EXPECT(ours, "E\r\n\0\0\0\0\2\x08\2\2\0\0\0\2{}\r\n0\r\n\r\n");
    EXPECT(other, "7\r\n\2\0\0\0\2{}\r\n0\r\n\r\n");
    send_to(CHECK, JSON, "{}", 2, 200);
    has(body, "{\"status\":\"NOT_SERVING\"}");
    close(ours);
    close(other);
}

static struct srv_key key = {.id = "key_1", .role = SRV_ROLE_ANALYZE};

static void do_add_key(void)
{
    struct ut_error e;

    if (srv_auth_add(the.app.auth, &key, &e))
        abort();
}

static void keys__as_over_rest(void **state)
{
    char secret[SRV_AUTH_SECRET_LEN], fields[200];

    (void)state;
    start();
    srv_auth_secret(secret, key.hash);
    ask(do_add_key);
    snprintf(fields, sizeof(fields), PROTO "Authorization: Bearer %s\r\n",
             secret);
    send_to(VERIFY, fields, PAIR, 200);
    has(send_to(UPDATE, fields, "", 0, 403), "\"permission_denied\"");
    has(send_to(VERIFY, PROTO, PAIR, 401), "WWW-Authenticate: Bearer\r\n");
    send_to(VERIFY, GRPC, "\0\0\0\0\0", 5, 200);
    has(body + 5, "grpc-status: 16\r\n");
}

static void do_remove_key(void)
{
    srv_auth_remove(the.app.auth, key.id);
}

#define WATCH_JOB "POST /tscaf.v1.Jobs/WatchJob HTTP/1.1\r\n" HOST

static int watch_job(const char *fields)
{
    char request[512];
    int n = snprintf(request, sizeof(request),
                     WATCH_JOB "Content-Type: application/connect+proto\r\n%s"
                               "Content-Length: 5\r\n\r\n",
                     fields);
    int fd = dial();

    memset(request + n, 0, 5);
    assert_true(put_n(fd, request, (size_t)n + 5));
    expect_head(fd, "Content-Type: application/connect+proto\r\n");
    return fd;
}

static void stream__its_key_is_revoked__ended_at_the_next_message(void **state)
{
    char secret[SRV_AUTH_SECRET_LEN], field[100], rest[400] = "";
    size_t len = 0;
    ssize_t n;
    int fd;

    (void)state;
    start();
    srv_auth_secret(secret, key.hash);
    ask(do_add_key);
    snprintf(field, sizeof(field), "X-API-Key: %s\r\n", secret);
    fd = watch_job(field);
    EXPECT(fd, "A\r\n\0\0\0\0\5\x0a\3now\r\n");
    ask(do_tell_watched);
    EXPECT(fd, "A\r\n\0\0\0\0\5\x0a\3new\r\n");
    ask(do_remove_key);
    ask(do_tell_watched);
    while (len < sizeof(rest) - 1 && !memmem(rest, len, "\r\n0\r\n\r\n", 7) &&
           (n = recv(fd, rest + len, sizeof(rest) - 1 - len, 0)) > 0)
        len += (size_t)n;
    assert_non_null(memmem(rest, len, "unauthenticated", 15));
    assert_null(memmem(rest, len, "new", 3));
    assert_null(the_watched.first);
    assert_true(counted("tscaf_rejections_total{reason=\"auth\"} 1"));
    close(fd);
}

static void watchers__at_limit_and_past_it(void **state)
{
    static int fds[SRV_HEALTH_MAX_WATCHERS];

    (void)state;
    start();
    for (int i = 0; i < SRV_HEALTH_MAX_WATCHERS; i++) {
        fds[i] = watch_health("");
        EXPECT(fds[i], "7\r\n\0\0\0\0\2\x08\1\r\n");
    }
    send_to("POST /grpc.health.v1.Health/Watch",
            "Content-Type: application/connect+proto\r\n", "\0\0\0\0\0", 5,
            200);
    has(body + 5, "256 streams of it are open, the limit");
    /* Those who watch what is not here are counted by themselves. */
    close(watch_health("none"));
    for (int i = 0; i < SRV_HEALTH_MAX_WATCHERS; i++)
        close(fds[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(connect__proto_and_json__answered_alike,
                                        prepare, finish),
        cmocka_unit_test_setup_teardown(connect__errors__typed_details, prepare,
                                        finish),
        cmocka_unit_test_setup_teardown(connect__get__only_without_side_effects,
                                        prepare, finish),
        cmocka_unit_test(gzip__accepted__as_its_own_weight_says),
        cmocka_unit_test_setup_teardown(gzip__both_ways__same_message, prepare,
                                        finish),
        cmocka_unit_test_setup_teardown(
            grpc__long_messages__packed_for_who_takes_it, prepare, finish),
        cmocka_unit_test_setup_teardown(gzip__bomb__refused_at_the_limit,
                                        prepare, finish),
        cmocka_unit_test_setup_teardown(grpc__frames_and_trailers, prepare,
                                        finish),
        cmocka_unit_test_setup_teardown(grpc__bad_frames__told_in_trailers,
                                        prepare, finish),
        cmocka_unit_test_setup_teardown(stream__messages_and_end__in_frames,
                                        prepare, finish),
        cmocka_unit_test_setup_teardown(
            stream__errors__before_and_after_the_first_message, prepare,
            finish),
        cmocka_unit_test_setup_teardown(stream__client_leaves__handler_told,
                                        prepare, finish),
        cmocka_unit_test_setup_teardown(
            duplex__messages__each_answered_then_the_end, prepare, finish),
        cmocka_unit_test_setup_teardown(duplex__first_broken_one__ends_it,
                                        prepare, finish),
        cmocka_unit_test_setup_teardown(
            duplex__body_over_the_limit__in_an_end_frame, prepare, finish),
        cmocka_unit_test_setup_teardown(
            duplex__draining__ends_after_the_one_at_work, prepare, finish),
        cmocka_unit_test_setup_teardown(duplex__deadline_of_the_stream__ends_it,
                                        prepare, finish),
        cmocka_unit_test_setup_teardown(duplex__no_deadline_of_its_own__goes_on,
                                        prepare, finish),
        cmocka_unit_test_setup_teardown(
            duplex__one_after_the_other__client_leaves, prepare, finish),
        cmocka_unit_test_setup_teardown(
            health__starting_ready_draining__checked_and_watched, prepare,
            finish),
        cmocka_unit_test_setup_teardown(keys__as_over_rest, prepare, finish),
        cmocka_unit_test_setup_teardown(
            stream__its_key_is_revoked__ended_at_the_next_message, prepare,
            finish),
        cmocka_unit_test_setup_teardown(watchers__at_limit_and_past_it, prepare,
                                        finish),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
