/* Any bytes as a detector's list of faces, and as one of negatives. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/data/frames.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    int fd = memfd_create("list", 0);
    struct mdl_frames f;
    struct ut_error e;
    char path[40];

    if (fd < 0 || write(fd, data, len) != (ssize_t)len)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    for (int both = 0; both < 2; both++) {
        volatile float sum = 0;

        if (mdl_frames_open(path, both ? path : NULL, &f, &e))
            continue;
        for (int i = 0; i < f.n; i++)
            for (int k = 0; k < f.frames[i].n; k++)
                sum = sum + f.faces[f.frames[i].first + k].w;
        mdl_frames_fini(&f);
    }
    close(fd);
    return 0;
}
