/* Making, starting, asking and stopping a real PostgreSQL. */
#include "tests/support/postgres.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <glob.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/unit.h"

#define PATIENCE_S 120

/* The folder of postgres and initdb, "" if there is none. */
static const char *programs(void)
{
    static char dir[256];
    const char *given = getenv("POSTGRES_BIN");
    glob_t g;

    if (given) {
        snprintf(dir, sizeof(dir), "%s", given);
    } else if (!dir[0] &&
               !glob("/usr/lib/postgresql/*/bin/initdb", 0, NULL, &g)) {
        snprintf(dir, sizeof(dir), "%s", g.gl_pathv[g.gl_pathc - 1]);
        *strrchr(dir, '/') = '\0';
        globfree(&g);
    }
    return dir;
}

/* It refuses to run as root: then it is the user that Debian made for it. */
static const struct passwd *user(void)
{
    return geteuid() ? NULL : getpwnam("postgres");
}

static void become(const struct passwd *u)
{
    if (u && (setgid(u->pw_gid) || setuid(u->pw_uid)))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGQUIT); /* a failed test leaves nothing */
}

static pid_t spawn(const struct test_postgres *p, char *const *argv)
{
    const struct passwd *u = user();
    char log[96];
    pid_t pid;

    snprintf(log, sizeof(log), "%s/log", p->dir);
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0666);

        become(u);
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
        (void)!chdir(p->dir);
        execv(argv[0], argv);
        _exit(127);
    }
    return pid;
}

/* Below those that the system gives to others meanwhile, and not where other
 * tests begin to look. */
static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int port = 20000 + (int)getpid() % 12000, fd, taken;

    do {
        port++;
        assert_in_range(port, 20000, 32767);
        a.sin_port = htons((uint16_t)port);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        assert_true(fd >= 0);
        taken = bind(fd, (struct sockaddr *)&a, sizeof(a));
        close(fd);
    } while (taken);
    return port;
}

static void fail_with_log(const struct test_postgres *p, const char *what)
{
    char line[128];

    snprintf(line, sizeof(line), "cat %s/log >&2", p->dir);
    (void)!system(line);
    fail_msg("%s failed", what);
}

static void make_cluster(struct test_postgres *p)
{
    const struct passwd *u = user();
    char program[300], data[96], secret[96], flag[120];
    char *argv[] = {
        program, "-D", data, "-U",   "tscaf",      "-A", "scram-sha-256",
        flag,    "-N", "-E", "UTF8", "--locale=C", NULL};
    FILE *f;
    int status;

    snprintf(program, sizeof(program), "%s/initdb", programs());
    snprintf(data, sizeof(data), "%s/data", p->dir);
    snprintf(secret, sizeof(secret), "%s/secret", p->dir);
    snprintf(flag, sizeof(flag), "--pwfile=%s", secret);
    f = fopen(secret, "w");
    assert_non_null(f);
    fprintf(f, TEST_POSTGRES_PASSWORD "\n");
    fclose(f);
    if (u)
        assert_int_equal(chown(p->dir, u->pw_uid, u->pw_gid), 0);
    assert_int_equal(chmod(secret, 0644), 0);
    waitpid(spawn(p, argv), &status, 0);
    if (status)
        fail_with_log(p, "initdb");
}

bool test_postgres_new(struct test_postgres *p, const char *name)
{
    const char *dir = programs();

    *p = (struct test_postgres){0};
    if (!*dir || (!geteuid() && !user())) {
        if (getenv("REQUIRE_POSTGRES"))
            fail_msg("%s: there is no PostgreSQL, which is required", name);
        printf("SKIPPED %s: there is no PostgreSQL (scripts/install-deps "
               "test)\n",
               name);
        return false;
    }
    snprintf(p->dir, sizeof(p->dir), "/tmp/tscaf-postgres-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    assert_int_equal(chmod(p->dir, 0755), 0);
    make_cluster(p);
    p->port = free_port();
    snprintf(p->url, sizeof(p->url),
             "postgres://tscaf:" TEST_POSTGRES_PASSWORD
             "@127.0.0.1:%d/postgres?connect_timeout=60",
             p->port);
    test_postgres_start(p);
    return true;
}

static int psql(const struct test_postgres *p, const char *database,
                const char *sql, char out[200])
{
    char path[300], text[200] = "";
    size_t n = 0;
    int ends[2], status;
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    snprintf(path, sizeof(path),
             "postgres://tscaf:" TEST_POSTGRES_PASSWORD "@127.0.0.1:%d/%s",
             p->port, database);
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        execlp("psql", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", path, "-c",
               sql, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    for (char c; read(ends[0], &c, 1) == 1;)
        if (n < sizeof(text) - 1)
            text[n++] = c;
    text[n] = '\0';
    if (n && text[n - 1] == '\n')
        text[n - 1] = '\0';
    close(ends[0]);
    waitpid(pid, &status, 0);
    if (out)
        memcpy(out, text, sizeof(text));
    return status;
}

void test_postgres_start(struct test_postgres *p)
{
    char program[300], data[96], port[16], why[200];
    char *argv[] = {program, "-D", data,        "-p", port, "-k",
                    p->dir,  "-h", "127.0.0.1", "-F", NULL};

    snprintf(program, sizeof(program), "%s/postgres", programs());
    snprintf(data, sizeof(data), "%s/data", p->dir);
    snprintf(port, sizeof(port), "%d", p->port);
    p->pid = spawn(p, argv);
    for (int tries = 0; psql(p, "postgres", "SELECT 1", why); tries++) {
        if (waitpid(p->pid, NULL, WNOHANG) || tries > PATIENCE_S * 20)
            fail_with_log(p, why);
        usleep(50000);
    }
}

void test_postgres_stop(struct test_postgres *p)
{
    if (!p->pid)
        return;
    kill(p->pid, SIGQUIT);
    waitpid(p->pid, NULL, 0);
    p->pid = 0;
}

void test_postgres_free(struct test_postgres *p)
{
    char line[96];

    if (!p->dir[0])
        return;
    test_postgres_stop(p);
    snprintf(line, sizeof(line), "rm -rf %s", p->dir);
    (void)!system(line);
    p->dir[0] = '\0';
}

void test_postgres_sql(const struct test_postgres *p, const char *database,
                       const char *sql, char out[200])
{
    char text[200];

    if (psql(p, database, sql, text))
        fail_msg("%s: %s", sql, text);
    if (out)
        memcpy(out, text, sizeof(text));
}

void test_postgres_database(const struct test_postgres *p, const char *name,
                            char url[160])
{
    char sql[80];

    snprintf(sql, sizeof(sql), "CREATE DATABASE %s", name);
    test_postgres_sql(p, "postgres", sql, NULL);
    snprintf(url, 160,
             "postgres://tscaf:" TEST_POSTGRES_PASSWORD
             "@127.0.0.1:%d/%s?connect_timeout=60",
             p->port, name);
}
