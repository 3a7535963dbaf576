/* What a job's process may take of the machine. */
#include "server/jobs/job_limits.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define CRASH_SLACK (8 << 20) /* bytes */

static void set_own(const char *path, int value)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    dprintf(fd, "%d", value);
    close(fd);
}

/* Serving goes first: less weight of processor time, first to go when memory
 * is short. What is not allowed here is left as it is. A session of its own is
 * its own scheduling group where the kernel makes such, and then only the
 * group's niceness counts against the server's (sched(7), autogroup). */
void srv_job_limit(int niceness, long long memory)
{
    const struct sched_param none = {0};
    struct rlimit data = {(rlim_t)memory, (rlim_t)memory};

    set_own("/proc/self/oom_score_adj", 1000);
    if (getsid(0) == getpid())
        set_own("/proc/self/autogroup", niceness);
    setpriority(PRIO_PROCESS, 0, niceness);
    sched_setscheduler(0, niceness >= 19 ? SCHED_IDLE : SCHED_BATCH, &none);
    if (memory > 0)
        setrlimit(RLIMIT_DATA, &data);
}

static struct {
    char path[PATH_MAX + 32], text[160];
} crash; /* what a handler needs, made before */

/* oneDNN 2 does not check all of its allocations. A crash where little more
 * can be had is told as the lack of memory that it most likely is; the signal
 * then ends the process. Only what is safe in a handler. */
static void on_crash(int number)
{
    void *more = mmap(NULL, CRASH_SLACK, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd;

    if (more == MAP_FAILED) {
        fd = open(crash.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        (void)!write(fd, crash.text, strlen(crash.text));
        close(fd);
    }
    raise(number); /* by its default: SA_RESETHAND */
}

void srv_job_watch_for_crash(const char *dir, long long memory)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT};
    struct sigaction action = {.sa_handler = on_crash,
                               .sa_flags = SA_RESETHAND};

    snprintf(crash.path, sizeof(crash.path), "%s/error", dir);
    snprintf(crash.text, sizeof(crash.text),
             "crashed where memory ran out: " SRV_JOB_MEMORY_LIMIT, memory);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &action, NULL);
}
