/* Files that are there whole or not at all, and folders that go whole. */
#include "base/file.h"

#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

enum ut_err ut_file_write(const char *path, const void *data, size_t len,
                          struct ut_error *e)
{
    const char *at = data;
    char fresh[PATH_MAX];
    ssize_t n = 0;
    int fd;

    if (snprintf(fresh, sizeof(fresh), "%s.new", path) >= (int)sizeof(fresh))
        return ut_fail(e, UT_EIO, "%.100s...: is too long a path", path);
    fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return ut_fail(e, UT_EIO, "%.150s: cannot be made: %m", path);
    while (len && (n = write(fd, at, len)) > 0) {
        at += n;
        len -= (size_t)n;
    }
    if (len || fsync(fd) || rename(fresh, path)) {
        ut_fail(e, UT_EIO, "%.150s: cannot be written: %m", path);
        close(fd);
        unlink(fresh);
        return UT_EIO;
    }
    close(fd);
    return UT_OK;
}

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

void ut_remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
