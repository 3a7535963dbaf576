#include "base/processors.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Source: the kernel's Documentation/admin-guide/cgroup-v2.rst, cpu.max: quota
 * and period in microseconds, or "max". */
static int quota_of(const char *file)
{
    long long quota = 0, period = 0;
    FILE *f = fopen(file, "re");
    int n;

    if (!f)
        return 0;
    n = fscanf(f, "%lld %lld", &quota, &period);
    fclose(f);
    if (n != 2 || quota <= 0 || period <= 0 || quota / period >= INT_MAX)
        return 0;
    return (int)((quota + period - 1) / period);
}

int ut_processors_quota(const char *root, const char *path)
{
    char group[PATH_MAX], file[PATH_MAX + 16];
    int least = 0;

    snprintf(group, sizeof(group), "%s%s", root, path);
    while (strlen(group) >= strlen(root)) {
        char *end = strrchr(group, '/');
        int n;

        snprintf(file, sizeof(file), "%s/cpu.max", group);
        n = quota_of(file);
        if (n && (!least || n < least))
            least = n;
        if (!end)
            break;
        *end = '\0';
    }
    return least;
}

/* Of the line "0::/path". */
static int quota(void)
{
    char line[PATH_MAX] = "";
    FILE *f = fopen("/proc/self/cgroup", "re");
    int n = 0;

    while (f && !n && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        if (!strncmp(line, "0::/", 4))
            n = ut_processors_quota("/sys/fs/cgroup", line + 3);
    }
    if (f)
        fclose(f);
    return n;
}

int ut_processors(void)
{
    cpu_set_t allowed;
    long most = sched_getaffinity(0, sizeof(allowed), &allowed)
                    ? sysconf(_SC_NPROCESSORS_ONLN)
                    : CPU_COUNT(&allowed);
    int limit = quota();

    if (limit && limit < most)
        most = limit;
    return most < 1 ? 1 : (int)most;
}
