/* Starting, asking and stopping a real server. */
#include "tests/support/server.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/unit.h"

#define MAX_FLAGS 48
#define PATIENCE_S 120 /* sanitizers and busy machines are slow */

const char *test_programs(void)
{
    static char dir[512];
    ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);

    assert_true(n > 0);
    dir[n] = '\0';
    for (int up = 0; up < 3; up++) { /* tests/integration/test_x */
        char *slash = strrchr(dir, '/');

        assert_non_null(slash);
        *slash = '\0';
    }
    return dir;
}

/* ---- Processes ---- */

/* Runs argv to its end; its exit code. out may be NULL. */
static int run(char *const *argv, char *out, size_t size)
{
    int ends[2], status;
    size_t len = 0;
    pid_t pid;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        execv(argv[0], argv);
        _exit(127);
    }
    close(ends[1]);
    for (;;) {
        char text[1024];
        ssize_t n = read(ends[0], text, sizeof(text));

        if (n <= 0)
            break;
        for (ssize_t i = 0; out && i < n && len < size - 1; i++)
            out[len++] = text[i];
    }
    if (out)
        out[len] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* tscaf-model with up to 16 arguments; must succeed. */
static void tool(const char *const *args)
{
    char path[600], out[1024], *argv[18] = {path};
    int n = 1;

    snprintf(path, sizeof(path), "%s/tscaf-model", test_programs());
    while (*args && n < 17)
        argv[n++] = (char *)(uintptr_t)*args++;
    if (run(argv, out, sizeof(out)))
        fail_msg("%s %s: %s", path, argv[1], out);
}

static char model_path[64];

static void forget_model(void)
{
    unlink(model_path);
}

const char *test_model(void)
{
    char path[64];

    if (!model_path[0]) {
        snprintf(path, sizeof(path), "/tmp/tscaf-tiny-%d", (int)getpid());
        tool((const char *const[]){"init", "--name", "tiny",
                                   "tests/support/tiny.json", path, NULL});
        strcpy(model_path, path); /* only once it is there */
        atexit(forget_model);
    }
    return model_path;
}

static char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    char *data = NULL;
    long n;

    if (f && !fseek(f, 0, SEEK_END) && (n = ftell(f)) >= 0) {
        rewind(f);
        data = malloc((size_t)n + 1);
        assert_non_null(data);
        *len = fread(data, 1, (size_t)n, f);
        data[*len] = '\0';
    }
    if (f)
        fclose(f);
    return data;
}

static char *draw(int identity, int variant, const char *light, size_t *len)
{
    char path[64], who[16], noise[16], *data;

    snprintf(path, sizeof(path), "/tmp/tscaf-face-%d.png", (int)getpid());
    snprintf(who, sizeof(who), "%d", identity);
    snprintf(noise, sizeof(noise), "%d", variant);
    tool((const char *const[]){"sample", "--identity", who, "--eyes", "1",
                               "--mouth", "0.1", "--light", light, "--noise",
                               noise, path, NULL});
    data = read_file(path, len);
    assert_non_null(data);
    unlink(path);
    return data;
}

char *test_face(int identity, int variant, size_t *len)
{
    return draw(identity, variant, "0.9", len);
}

char *test_dark_face(size_t *len)
{
    return draw(1, 1, "0", len);
}

/* argv of tscafd with these flags. */
static void arguments(const struct test_server *s, const char *const *flags,
                      bool serve, char texts[2][600], char **argv)
{
    const char *program = getenv("TSCAFD");
    int n = 0;

    snprintf(texts[0], 600, "%s/tscafd", test_programs());
    snprintf(texts[1], 600, "%s/data", s->dir);
    argv[n++] = program ? (char *)(uintptr_t)program : texts[0];
    argv[n++] = "--data";
    argv[n++] = texts[1];
    if (serve) {
        argv[n++] = "--listen";
        argv[n++] = "127.0.0.1:0";
        argv[n++] = "--model";
        argv[n++] = (char *)(uintptr_t)test_model();
        argv[n++] = (char *)(uintptr_t) "--detector=none";
        /* A busy machine is slow, which is no failure. */
        argv[n++] = (char *)(uintptr_t) "--default-deadline-ms=100000";
    }
    while (flags && *flags && n < MAX_FLAGS - 1)
        argv[n++] = (char *)(uintptr_t)*flags++;
    argv[n] = NULL;
}

char *test_server_log(const struct test_server *s)
{
    char path[80], *text;
    size_t len;

    snprintf(path, sizeof(path), "%s/log", s->dir);
    text = read_file(path, &len);
    return text ? text : strdup("");
}

/* Waits for the port in the log, then, if told to, for /readyz. */
static void wait_for(struct test_server *s, bool ready)
{
    struct test_answer a = {0};

    for (int tries = 0;; tries++) {
        int status;

        if (waitpid(s->pid, &status, WNOHANG) == s->pid ||
            tries > PATIENCE_S * 100)
            fail_msg("tscafd does not get ready:\n%s", test_server_log(s));
        if (!s->port) {
            char *log = test_server_log(s), *at = strstr(log, "listens on");

            at = at ? strstr(at, " port ") : NULL;
            if (at)
                s->port = atoi(at + 6);
            free(log);
        } else if (!ready || test_get(s, "/readyz", &a) == 200) {
            break;
        }
        usleep(10000);
    }
    test_answer_fini(&a);
}

static void launch(struct test_server *s, const char *const *flags)
{
    char texts[2][600], *argv[MAX_FLAGS], log[80];

    arguments(s, flags, true, texts, argv);
    snprintf(log, sizeof(log), "%s/log", s->dir);
    s->port = 0;
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (!s->pid) {
        int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);

        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves nothing */
#ifdef __SANITIZE_ADDRESS__
        /* The shadow of its memory alone is past any limit. */
        setenv("TSCAF_JOB_MEMORY", "0", 1);
#endif
        dup2(fd, STDERR_FILENO);
        execv(argv[0], argv);
        _exit(127);
    }
}

void test_server_restart(struct test_server *s, const char *const *flags)
{
    launch(s, flags);
    wait_for(s, true);
}

static void make_dir(struct test_server *s)
{
    *s = (struct test_server){0};
    snprintf(s->dir, sizeof(s->dir), "/tmp/tscaf-server-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
}

void test_server_launch(struct test_server *s, const char *const *flags)
{
    make_dir(s);
    launch(s, flags);
    wait_for(s, false);
}

void test_server_start(struct test_server *s, const char *const *flags)
{
    make_dir(s);
    test_server_restart(s, flags);
}

int test_server_run(struct test_server *s, const char *const *flags, char *out,
                    size_t size)
{
    char texts[2][600], *argv[MAX_FLAGS];

    if (!s->dir[0])
        make_dir(s);
    arguments(s, flags, false, texts, argv);
    return run(argv, out, size);
}

void test_server_signal(const struct test_server *s, int signum)
{
    assert_int_equal(kill(s->pid, signum), 0);
}

int test_server_wait(struct test_server *s)
{
    char log[80], old[96];
    int status;

    assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
    s->pid = 0;
    /* A server that starts again must not be taken for this one. */
    snprintf(log, sizeof(log), "%s/log", s->dir);
    if (WIFSIGNALED(status) || WEXITSTATUS(status)) {
        char *text = test_server_log(s);

        if (strstr(text, "Sanitizer"))
            fail_msg("%s", text);
        free(text);
    }
    snprintf(old, sizeof(old), "%s.old", log);
    assert_int_equal(rename(log, old), 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void test_server_remove(struct test_server *s)
{
    char *argv[] = {"/bin/rm", "-rf", s->dir, NULL};

    if (s->dir[0])
        assert_int_equal(run(argv, NULL, 0), 0);
    s->dir[0] = '\0';
}

int test_server_stop(struct test_server *s)
{
    int code;

    test_server_signal(s, SIGTERM);
    code = test_server_wait(s);
    test_server_remove(s);
    return code;
}

/* ---- Exchanges ---- */

struct sink {
    char *data;
    size_t len;
};

static size_t on_bytes(char *bytes, size_t size, size_t n, void *arg)
{
    struct sink *s = arg;
    char *more = realloc(s->data, s->len + size * n + 1);

    if (!more)
        return 0;
    memcpy(more + s->len, bytes, size * n);
    s->data = more;
    s->len += size * n;
    more[s->len] = '\0';
    return size * n;
}

static void write_string(FILE *f, const char *text)
{
    fputc('"', f);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fprintf(f, "\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            fprintf(f, "\\u%04x", (unsigned)*text);
        else
            fputc(*text, f);
    }
    fputc('"', f);
}

/* By one write: other threads and other tests append to the same file. */
static void record(const char *method, const struct test_request *r,
                   const struct test_answer *a)
{
    const char *path = getenv("TSCAF_EXCHANGES");
    char *line = NULL;
    size_t len = 0;
    FILE *f;
    int fd;

    if (!path || !a->status)
        return;
    f = open_memstream(&line, &len);
    assert_non_null(f);
    fprintf(f, "{\"method\":\"%s\",\"path\":", method);
    write_string(f, r->path);
    fprintf(f, ",\"status\":%ld,\"content_type\":", a->status);
    write_string(f, a->type);
    fprintf(f, ",\"body\":");
    if (strstr(a->type, "json") || strncmp(a->type, "text/", 5) == 0)
        write_string(f, a->body);
    else
        fprintf(f, "null");
    fprintf(f, "}\n");
    assert_int_equal(fclose(f), 0);
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, line, len), len);
    close(fd);
    free(line);
}

static struct curl_slist *fields(const struct test_server *s,
                                 const struct test_request *r)
{
    struct curl_slist *list = NULL;
    char line[256];

    snprintf(line, sizeof(line), "Content-Type:%s%s", r->body ? " " : "",
             !r->body  ? ""
             : r->type ? r->type
                       : "application/json");
    list = curl_slist_append(list, line);
    if (s->key[0]) {
        snprintf(line, sizeof(line), "Authorization: Bearer %s", s->key);
        list = curl_slist_append(list, line);
    }
    for (const char *const *h = r->headers; h && *h; h++)
        list = curl_slist_append(list, *h);
    return list;
}

void test_send(const struct test_server *s, const struct test_request *r,
               struct test_answer *a)
{
    const char *method = r->method ? r->method : r->body ? "POST" : "GET";
    struct curl_slist *list = fields(s, r);
    struct sink body = {0}, head = {0};
    CURL *c = curl_easy_init();
    char url[2048], *type = NULL;

    test_answer_fini(a);
    assert_non_null(c);
    snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", s->port, r->path);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)PATIENCE_S);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &body);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, &head);
    if (r->body) {
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, r->body);
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE,
                         (curl_off_t)(r->len ? r->len : strlen(r->body)));
    }
    curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, method);
    if (strcmp(method, "HEAD") == 0)
        curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
    if (curl_easy_perform(c) == CURLE_OK) {
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &a->status);
        curl_easy_getinfo(c, CURLINFO_CONTENT_TYPE, &type);
        snprintf(a->type, sizeof(a->type), "%s", type ? type : "");
    }
    a->headers = head.data ? head.data : strdup("");
    a->body = body.data ? body.data : strdup("");
    a->len = body.len;
    curl_easy_cleanup(c);
    curl_slist_free_all(list);
    record(method, r, a);
}

long test_get(const struct test_server *s, const char *path,
              struct test_answer *a)
{
    test_send(s, &(struct test_request){.path = path}, a);
    return a->status;
}

long test_json(const struct test_server *s, const char *method,
               const char *path, const char *json, struct test_answer *a)
{
    test_send(
        s, &(struct test_request){.method = method, .path = path, .body = json},
        a);
    return a->status;
}

long test_png(const struct test_server *s, const char *path, const char *bytes,
              size_t len, struct test_answer *a)
{
    test_send(s,
              &(struct test_request){
                  .path = path, .type = "image/png", .body = bytes, .len = len},
              a);
    return a->status;
}

void test_answer_fini(struct test_answer *a)
{
    free(a->headers);
    free(a->body);
    *a = (struct test_answer){0};
}

void test_member(const struct test_answer *a, const char *name, char *out,
                 size_t size)
{
    char key[80];
    const char *at;

    snprintf(key, sizeof(key), "\"%s\":\"", name);
    at = strstr(a->body, key);
    at = at ? at + strlen(key) : "";
    snprintf(out, size, "%.*s", (int)strcspn(at, "\""), at);
}
