/* Any bytes as an inference request: JSON with lists of numbers, tensors after
 * it. The first two bytes say how much is JSON. */
#include <stdlib.h>
#include <string.h>

#include "api/oip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    Inference__ModelInferRequest *m;
    struct api_error err = {0};
    size_t json_len, size = 0;
    char *body;

    if (len < 2)
        return 0;
    json_len = data[0] | (size_t)data[1] << 8;
    if (json_len == 0xffff)
        json_len = API_OIP_ALL_JSON;
    /* Of its own, so that a byte too far is seen. */
    body = malloc(len - 2 + !(len - 2));
    memcpy(body, data + 2, len - 2);
    if (api_oip_read(body, len - 2, json_len, &m, &err)) {
        if (!err.code || !err.message[0])
            abort(); /* an error says what it is */
    } else {
        if (m->n_raw_input_contents != m->n_inputs)
            abort();
        for (size_t i = 0; i < m->n_inputs; i++)
            size += m->raw_input_contents[i].len;
        if (size > 4 * len)
            abort(); /* a number has a character at least */
        protobuf_c_message_free_unpacked(&m->base, NULL);
    }
    free(body);
    return 0;
}
