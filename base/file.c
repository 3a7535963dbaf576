/* Files that are there whole or not at all, and folders that go whole. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define CUT_OFF ".tmp-" /* what a file is called until it is whole */

static bool write_all(int fd, const void *data, size_t len)
{
    const char *at = data;

    while (len) {
        ssize_t n = write(fd, at, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

/* So that the name outlives a power cut too. */
static bool sync_folder(const char *path)
{
    char copy[PATH_MAX];
    bool ok;
    int fd;

    snprintf(copy, sizeof(copy), "%s", path);
    fd = open(dirname(copy), O_RDONLY | O_CLOEXEC);
    /* Not every file system syncs folders. */
    ok = fd >= 0 &&
         (!fsync(fd) || errno == EINVAL || errno == ENOTSUP || errno == ENOSYS);
    if (fd >= 0)
        close(fd);
    return ok;
}

enum ut_err ut_file_write_parts(const char *path, unsigned mode,
                                const struct ut_file_part *parts, size_t n,
                                struct ut_error *e)
{
    char fresh[PATH_MAX];
    unsigned mine = 0;
    bool ok = true;
    int fd;

    /* A process's number is another's in the next container. */
    if (getrandom(&mine, sizeof(mine), 0) != sizeof(mine))
        return ut_fail(e, UT_EIO, "%.150s: no random number: %m", path);
    if (snprintf(fresh, sizeof(fresh), "%s" CUT_OFF "%08x", path, mine) >=
        (int)sizeof(fresh))
        return ut_fail(e, UT_EIO, "%.100s...: is too long a path", path);
    fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return ut_fail(e, UT_EIO, "%.150s: cannot be made: %m", path);
    for (size_t i = 0; ok && i < n; i++)
        ok = write_all(fd, parts[i].data, parts[i].len);
    if (!ok || fsync(fd) || rename(fresh, path) || !sync_folder(path)) {
        ut_fail(e, UT_EIO, "%.150s: cannot be written: %m", path);
        close(fd);
        unlink(fresh);
        return UT_EIO;
    }
    close(fd);
    return UT_OK;
}

enum ut_err ut_file_write(const char *path, const void *data, size_t len,
                          struct ut_error *e)
{
    const struct ut_file_part part = {data, len};

    return ut_file_write_parts(path, 0600, &part, 1, e);
}

void ut_file_sweep(const char *folder)
{
    DIR *d = opendir(folder);
    const struct dirent *f;

    while (d && (f = readdir(d)))
        if (strstr(f->d_name, CUT_OFF))
            unlinkat(dirfd(d), f->d_name, 0);
    if (d)
        closedir(d);
}

enum ut_err ut_file_copy(const char *from, const char *to, struct ut_error *e)
{
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    void *data = NULL;
    struct stat st;
    enum ut_err rc;

    if (fd < 0)
        return ut_fail(e, UT_EIO, "%.150s: %m", from);
    if (fstat(fd, &st) ||
        (st.st_size && (data = mmap(NULL, (size_t)st.st_size, PROT_READ,
                                    MAP_PRIVATE, fd, 0)) == MAP_FAILED)) {
        rc = ut_fail(e, UT_EIO, "%.150s: %m", from);
    } else {
        rc = ut_file_write(to, data, (size_t)st.st_size, e);
        if (st.st_size)
            munmap(data, (size_t)st.st_size);
    }
    close(fd);
    return rc;
}

enum ut_err ut_file_move(const char *from, const char *to, struct ut_error *e)
{
    enum ut_err rc;

    if (!rename(from, to))
        return UT_OK;
    if (errno != EXDEV)
        return ut_fail(e, UT_EIO, "%.100s to %.100s: %m", from, to);
    rc = ut_file_copy(from, to, e);
    if (!rc)
        unlink(from);
    return rc;
}

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    (void)!remove(path); /* the rest goes even where one stays */
    return 0;
}

void ut_remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
