/* One server's hold on its folder, and its name. */
#include "server/data_folder.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* "host-a1b2c3": the host's name as it was then, and what tells two of them
 * apart. */
static enum ut_err make_name(int fd, char name[SRV_SERVER_NAME_LEN])
{
    char host[40] = "";
    size_t n = 0;
    ssize_t len;

    gethostname(host, sizeof(host) - 1);
    while (isalnum((unsigned char)host[n]) || host[n] == '-')
        n++;
    len = snprintf(name, SRV_SERVER_NAME_LEN, "%.*s-%06x\n", (int)n,
                   n ? host : "tscafd", randombytes_uniform(0x1000000));
    return pwrite(fd, name, (size_t)len, 0) == len && !fsync(fd) ? UT_OK
                                                                 : UT_EIO;
}

enum ut_err srv_data_folder_claim(const char *dir, struct srv_data_folder *d,
                                  struct ut_error *e)
{
    char path[PATH_MAX];
    enum ut_err rc = UT_OK;
    ssize_t n;

    d->fd = 0;
    if (mkdir(dir, 0700) && errno != EEXIST)
        return ut_fail(e, UT_EIO, "%.150s: cannot be made: %m", dir);
    snprintf(path, sizeof(path), "%.4000s/server", dir);
    d->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (d->fd < 0)
        return ut_fail(e, UT_EIO, "%.150s: %s", path, strerror(errno));
    if (flock(d->fd, LOCK_EX | LOCK_NB))
        rc = errno == EWOULDBLOCK
                 ? ut_fail(e, UT_ESTATE,
                           "%.150s is in use by another server: each needs a "
                           "folder of its own",
                           dir)
                 : ut_fail(e, UT_EIO, "%.150s: %s", path, strerror(errno));
    if (!rc) {
        n = pread(d->fd, d->name, sizeof(d->name) - 1, 0);
        if (n < 0 || (!n && make_name(d->fd, d->name)))
            rc = ut_fail(e, UT_EIO, "%.150s: %s", path, strerror(errno));
        else
            d->name[n ? (size_t)n : strlen(d->name)] = '\0';
    }
    if (rc)
        srv_data_folder_release(d);
    else
        d->name[strcspn(d->name, "\n")] = '\0';
    return rc;
}

void srv_data_folder_release(struct srv_data_folder *d)
{
    if (d->fd > 0)
        close(d->fd);
    d->fd = 0;
}
