/* libarchive reads, we write: names and sizes are checked here. */
#include "server/datasets/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

void srv_problem(struct srv_problems *p, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(p->text[p->n++ % SRV_PROBLEMS_KEPT], sizeof(p->text[0]), fmt,
              args);
    va_end(args);
}

bool srv_archive_name_ok(const char *name)
{
    int depth = 0;

    if (!*name || strlen(name) > SRV_ARCHIVE_MAX_NAME)
        return false;
    for (const char *p = name;; p++) {
        size_t n = strcspn(p, "/");

        if (!n || *p == '.' || ++depth > SRV_ARCHIVE_MAX_DEPTH)
            return false;
        for (size_t i = 0; i < n; i++)
            if ((unsigned char)p[i] < ' ' || p[i] == '\\' || p[i] == 127)
                return false;
        p += n;
        if (!*p)
            return true;
    }
}

static bool wanted(const char *name)
{
    static const char *const ends[] = {".jpg", ".jpeg", ".png", ".tsv"};
    size_t len = strlen(name);

    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        size_t n = strlen(ends[i]);

        if (len > n && strcasecmp(name + len - n, ends[i]) == 0)
            return true;
    }
    return false;
}

struct unpacker {
    struct archive *in;
    const char *folder;
    int64_t bytes, limit; /* of what is unpacked */
    struct srv_problems *problems;
};

static enum ut_err over(const struct unpacker *u, struct ut_error *e)
{
    return ut_fail(e, UT_EBUSY,
                   "the archive unpacks to over %lld bytes, the limit",
                   (long long)u->limit);
}

/* Opens folder/name for writing, its folders made. */
static int create(const struct unpacker *u, const char *name)
{
    char path[4096];
    size_t at;

    if (snprintf(path, sizeof(path), "%s/%s", u->folder, name) >=
        (int)sizeof(path))
        return -1;
    at = strlen(u->folder) + 1;
    for (char *slash; (slash = strchr(path + at, '/'));
         at = (size_t)(slash - path) + 1) {
        *slash = '\0';
        if (mkdir(path, 0700) && errno != EEXIST)
            return -1;
        *slash = '/';
    }
    return open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                0600);
}

static enum ut_err write_entry(struct unpacker *u, const char *name,
                               struct ut_error *e)
{
    static const char broken[] = "%.100s: %.50s";
    char block[64 * 1024];
    int fd = create(u, name);
    enum ut_err rc = UT_OK;
    la_ssize_t n = 0;

    if (fd < 0 && errno == EEXIST) {
        srv_problem(u->problems, "%.100s: is there twice", name);
        return UT_OK;
    }
    if (fd < 0)
        return ut_fail(e, UT_EIO, "%.100s: cannot be made: %m", name);
    while (!rc && (n = archive_read_data(u->in, block, sizeof(block))) > 0) {
        u->bytes += n;
        if (u->bytes > u->limit)
            rc = over(u, e);
        else if (write(fd, block, (size_t)n) != n)
            rc = ut_fail(e, UT_EIO, "%.100s: cannot be written: %m", name);
    }
    if (!rc && n < 0) {
        const char *why = archive_error_string(u->in);

        srv_problem(u->problems, broken, name, why ? why : "is damaged");
    }
    close(fd);
    return rc;
}

static enum ut_err unpack_entry(struct unpacker *u, struct archive_entry *entry,
                                struct ut_error *e)
{
    const char *name = archive_entry_pathname(entry);

    if (archive_entry_filetype(entry) == AE_IFDIR)
        return UT_OK;
    while (name && strncmp(name, "./", 2) == 0)
        name += 2;
    /* Passing over a compressed entry unpacks it all the same. */
    if (archive_entry_size_is_set(entry) &&
        archive_entry_size(entry) > u->limit - u->bytes)
        return over(u, e);
    if (!name || !srv_archive_name_ok(name)) {
        srv_problem(u->problems, "\"%.100s\": a name that is not taken",
                    name ? name : "");
        return UT_OK;
    }
    if (archive_entry_filetype(entry) != AE_IFREG ||
        archive_entry_hardlink(entry)) {
        srv_problem(u->problems, "%.100s: is no plain file", name);
        return UT_OK;
    }
    if (!wanted(name)) {
        srv_problem(u->problems, "%.100s: is no .jpg, .png or .tsv", name);
        return UT_OK;
    }
    return write_entry(u, name, e);
}

static enum ut_err unpack_all(struct unpacker *u, struct ut_error *e)
{
    struct archive_entry *entry;
    enum ut_err rc = UT_OK;
    int code = ARCHIVE_OK;

    for (int n = 0; !rc; n++) {
        code = archive_read_next_header(u->in, &entry);
        if (code == ARCHIVE_EOF)
            return UT_OK;
        if (code < ARCHIVE_WARN) {
            const char *why = archive_error_string(u->in);

            return ut_fail(e, UT_EFORMAT, "archive: %.150s",
                           why ? why : "cannot be read");
        }
        if (n == SRV_ARCHIVE_MAX_FILES)
            return ut_fail(e, UT_EBUSY, "archive: over %d files, the limit",
                           SRV_ARCHIVE_MAX_FILES);
        rc = unpack_entry(u, entry, e);
    }
    return rc;
}

enum ut_err srv_archive_unpack(const void *data, size_t len, const char *folder,
                               int64_t max_bytes, int64_t *bytes,
                               struct srv_problems *problems,
                               struct ut_error *e)
{
    int64_t ratio = (int64_t)len * SRV_ARCHIVE_MAX_RATIO + SRV_ARCHIVE_FREE;
    struct unpacker u = {.folder = folder,
                         .limit = ratio < max_bytes ? ratio : max_bytes,
                         .problems = problems};
    enum ut_err rc;

    *bytes = 0;
    u.in = archive_read_new();
    if (!u.in)
        return ut_fail(e, UT_ENOMEM, "no memory for an archive");
    /* Named one by one: "all" would start programs for some. */
    archive_read_support_filter_gzip(u.in);
    archive_read_support_filter_bzip2(u.in);
    archive_read_support_filter_xz(u.in);
    archive_read_support_filter_zstd(u.in);
    archive_read_support_format_tar(u.in);
    archive_read_support_format_zip(u.in);
    if (archive_read_open_memory(u.in, data, len)) {
        const char *why = archive_error_string(u.in);

        rc = ut_fail(e, UT_EFORMAT, "archive: %.150s",
                     why ? why : "cannot be read");
    } else {
        rc = unpack_all(&u, e);
    }
    archive_read_free(u.in);
    *bytes = u.bytes;
    return rc;
}
