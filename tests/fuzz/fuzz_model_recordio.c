/* Any bytes as a RecordIO file: walked, and each record read. */
#include "model/data/recordio.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    FILE *f = len ? fmemopen((void *)(uintptr_t)data, len, "r") : NULL;
    struct mdl_records r;
    struct mdl_record one;
    struct ut_error e;
    struct ut_buf b;
    bool end = false;

    if (!f)
        return 0;
    ut_buf_init(&b, 1 << 20);
    if (!mdl_records_open(f, "fuzz", &r, &e))
        while (!mdl_records_next(&r, &one, &end, &e) && !end) {
            int64_t next = ftello(f);

            b.len = 0;
            if (mdl_records_picture(&r, one.at, &b, &e) ||
                fseeko(f, next, SEEK_SET))
                break;
        }
    ut_buf_fini(&b);
    fclose(f);
    return 0;
}
