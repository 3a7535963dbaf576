/* Any bytes as a multipart body; its views must lie inside it. */
#include <stdlib.h>

#include "api/multipart.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t len);

static void inside(const char *body, size_t len, const char *p, size_t n)
{
    if (p && n && (p < body || n > len || p + n > body + len))
        abort();
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t len)
{
    const char *body = (const char *)data;
    struct api_part parts[API_MULTIPART_MAX_PARTS];
    struct api_error err;
    int n;

    if (api_multipart_parse("multipart/form-data; boundary=x", body, len, parts,
                            &n, &err))
        return 0;
    for (int i = 0; i < n; i++) {
        inside(body, len, parts[i].name, parts[i].name_len);
        inside(body, len, parts[i].filename, parts[i].filename_len);
        inside(body, len, parts[i].type, parts[i].type_len);
        inside(body, len, parts[i].data, parts[i].data_len);
    }
    return 0;
}
