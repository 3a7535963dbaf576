/* Any bytes as JSON of any request, and what was read written again. */
#include <stdlib.h>

#include "api/json.h"
#include "api/oip/inference.pb-c.h"
#include "api/tscaf.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const ProtobufCMessageDescriptor *const messages[] = {
        &tscaf__v1__analyze_request__descriptor,
        &tscaf__v1__verify_request__descriptor,
        &tscaf__v1__create_identity_request__descriptor,
        &tscaf__v1__update_identity_request__descriptor,
        &tscaf__v1__list_identities_response__descriptor,
        &tscaf__v1__model_info__descriptor,
        &inference__model_infer_request__descriptor,
    };
    struct api_error err;
    ProtobufCMessage *m;
    struct ut_error e;
    char *text;
    size_t n;

    if (!len)
        return 0;
    if (api_json_read(messages[data[0] % 7], (const char *)data + 1, len - 1,
                      &m, &err))
        return 0;
    if (!api_json_write(m, data[0] & 64 ? API_JSON_REST : 0, &text, &n, &e))
        free(text);
    protobuf_c_message_free_unpacked(m, NULL);
    return 0;
}
