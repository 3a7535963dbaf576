/* Any bytes as what RPC clients send: protobuf of any request, frames of it,
 * gzip, base64 in pieces, a grpc-timeout. */
#include <stdlib.h>
#include <string.h>

#include "api/frame.h"
#include "api/gzip.h"
#include "api/proto.h"
#include "api/tscaf.pb-c.h"

#define UNPACKED_LIMIT (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void read_message(unsigned which, const char *data, size_t len)
{
    static const ProtobufCServiceDescriptor *const services[] = {
        &tscaf__v1__driver_monitor__descriptor,
        &tscaf__v1__identities__descriptor,
        &tscaf__v1__admin__descriptor,
    };
    const ProtobufCServiceDescriptor *s = services[which % 3];
    const ProtobufCMessageDescriptor *d =
        s->methods[which / 3 % s->n_methods].input;
    struct api_error err;
    ProtobufCMessage *m;
    struct ut_error e;
    struct ut_buf b;

    if (api_proto_read(d, data, len, &m, &err))
        return;
    ut_buf_init(&b, UNPACKED_LIMIT);
    if (!api_proto_write(m, &b, &e)) {
        protobuf_c_message_free_unpacked(m, NULL);
        if (api_proto_read(d, b.data, b.len, &m, &err))
            abort(); /* what we write, we read */
    }
    protobuf_c_message_free_unpacked(m, NULL);
    ut_buf_fini(&b);
}

static void read_frames(unsigned which, const char *at, size_t len)
{
    const char *end = at + len, *data;
    struct api_error err;
    unsigned flags;
    char *plain;
    size_t n;

    while (at < end && !api_frame_next(&at, end, &flags, &data, &n, &err)) {
        if (!(flags & API_FRAME_GZIP)) {
            read_message(which, data, n);
        } else if (!api_gunzip(data, n, UNPACKED_LIMIT, &plain, &n, &err)) {
            read_message(which, plain, n);
            free(plain);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const char *at = (const char *)data + 1;
    struct api_error err;
    char text[16] = "";
    char *bytes;
    size_t n;

    if (!len)
        return 0;
    len--;
    memcpy(text, at, len < sizeof(text) - 1 ? len : sizeof(text) - 1);
    (void)api_grpc_timeout_us(text);
    read_message(data[0] >> 2, at, len);
    read_frames(data[0] >> 2, at, len);
    if (!api_gunzip(at, len, UNPACKED_LIMIT, &bytes, &n, &err))
        free(bytes);
    if (!api_frame_untext(at, len, &bytes, &n, &err)) {
        read_frames(data[0] >> 2, bytes, n);
        free(bytes);
    }
    return 0;
}
