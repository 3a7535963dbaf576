/* Any bytes as an uploaded archive, unpacked into a folder within another:
 * nothing may come to lie beside it, and no more bytes than the limit. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "server/datasets/archive.h"

#define LIMIT (256 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int entries(const char *folder)
{
    DIR *d = opendir(folder);
    int n = 0;

    if (!d)
        return -1;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char outer[] = "/tmp/tscaf-fuzz-archive-XXXXXX", inner[64];
    struct srv_problems problems = {0};
    struct ut_error e;
    int64_t bytes;
    enum ut_err rc;

    if (!mkdtemp(outer))
        abort();
    snprintf(inner, sizeof(inner), "%s/in", outer);
    if (mkdir(inner, 0700))
        abort();
    rc = srv_archive_unpack(data, len, inner, LIMIT, &bytes, &problems, &e);
    if ((!rc && bytes > LIMIT) || entries(outer) != 3) /* ".", "..", "in" */
        abort();
    ut_remove_tree(outer);
    return 0;
}
