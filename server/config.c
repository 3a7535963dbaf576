/* The options, once. */
#include "server/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/inference/engine.h"

enum kind { TEXT, LISTEN, INT, INT64, BYTES, POWER, BOOL, PRECISION, LEVEL };
enum place { ANYWHERE, NOT_IN_FILE, COMMAND_LINE };

struct option {
    const char *name; /* of the flag; '-' is '_' elsewhere */
    enum kind kind;
    enum place place;
    size_t at; /* in struct srv_config */
    long long min, max;
    const char *value; /* default; NULL: none */
    const char *what;  /* a value's name in the help, NULL for a switch */
    const char *help;
};

#define AT(field) offsetof(struct srv_config, field)
#define MIB (1024LL * 1024)
#define HOUR_MS (3600 * 1000LL)

static const struct option options[] = {
    {"listen", LISTEN, ANYWHERE, AT(listen), 0, 0, "127.0.0.1:8080",
     "ADDR:PORT",
     "where to listen; beyond this machine only with an API key in the store; "
     "port 0 picks a free one"},
    {"grpc", LISTEN, ANYWHERE, AT(grpc), 0, 0, NULL, "ADDR:PORT",
     "where to listen for gRPC, and all else, over HTTP/2; without it nowhere"},
    {"grpc-cert", TEXT, ANYWHERE, AT(grpc_cert), 0, 0, NULL, "FILE",
     "the certificate, and those up to its root, for TLS on --grpc (PEM); "
     "without it no TLS; read once"},
    {"grpc-key", TEXT, ANYWHERE, AT(grpc_key), 0, 0, NULL, "FILE",
     "the private key of --grpc-cert (PEM)"},
    {"data", TEXT, ANYWHERE, AT(data), 0, 0, "tscaf-data", "DIR",
     "the folder of the database, of models, datasets and jobs; made if it is "
     "missing"},
    {"store", TEXT, ANYWHERE, AT(store), 0, 0, NULL, "URL",
     "a PostgreSQL database that several servers share "
     "(postgres://USER@HOST/NAME); without it SQLite in --data"},
    {"model", TEXT, ANYWHERE, AT(model), 0, 0, NULL, "FILE",
     "the network (safetensors); without it the one that ships; where none "
     "does, or with none: an untrained one"},
    {"detector", TEXT, ANYWHERE, AT(detector), 0, 0, NULL, "FILE",
     "the face detector (safetensors); without it the one that ships; none: "
     "only crops are taken"},
    {"backend", TEXT, ANYWHERE, AT(backend), 0, 0, NULL, "NAME",
     "where the network runs: cpu, ref, cuda, or auto, as without it: cuda "
     "where it can be used, else cpu"},
    {"precision", PRECISION, ANYWHERE, AT(precision), 0, 0, "float32", "NAME",
     "float32 or bfloat16; on cuda also float16 and tf32"},
    {"max-batch", POWER, ANYWHERE, AT(max_batch), 1, SRV_MAX_BATCH, "8", "N",
     "faces per batch"},
    {"batch-delay-us", INT64, ANYWHERE, AT(batch_delay_us), 0, 1000000, "0",
     "N", "how long an idle executor waits for a fuller batch"},
    {"max-queue", INT64, ANYWHERE, AT(max_queue), 1, 1000000, "512", "N",
     "faces waiting; over it calls are refused with 503, one that alone has "
     "more with 400"},
    {"max-queue-bytes", BYTES, ANYWHERE, AT(max_queue_bytes), MIB,
     1024 * 1024 * MIB, "256MiB", "BYTES",
     "request bodies in memory, of each listener; over it calls are "
     "refused with 503"},
    {"decode-threads", INT, ANYWHERE, AT(decode_threads), 0, 256, "0", "N",
     "threads that decode pictures and find faces; 0: one for each processor "
     "that it may use"},
    {"max-body-bytes", BYTES, ANYWHERE, AT(max_body_bytes), 1024, 1024 * MIB,
     "32MiB", "BYTES", "one request's body; over it 413"},
    {"max-connections", INT, ANYWHERE, AT(max_connections), 1, 100000, "1024",
     "N",
     "open connections of each listener; over it 503, or over HTTP/2 a word to "
     "go away"},
    {"header-timeout-ms", INT64, ANYWHERE, AT(header_timeout_ms), 100, HOUR_MS,
     "10000", "N", "time for a request's header, however it drips"},
    {"idle-timeout-ms", INT64, ANYWHERE, AT(idle_timeout_ms), 1000, HOUR_MS,
     "60000", "N", "time that a connection may rest between requests"},
    {"request-timeout-ms", INT64, ANYWHERE, AT(request_timeout_ms), 100,
     HOUR_MS, "60000", "N",
     "time for a request's body to arrive and for its answer to leave"},
    {"default-deadline-ms", INT64, ANYWHERE, AT(default_deadline_ms), 1,
     HOUR_MS, "10000", "N",
     "a call's deadline when it names none (Connect-Timeout-Ms, grpc-timeout)"},
    {"drain-timeout-ms", INT64, ANYWHERE, AT(drain_timeout_ms), 0, HOUR_MS,
     "30000", "N", "time to answer what was accepted, after SIGTERM"},
    {"gallery-max-faces", INT64, ANYWHERE, AT(gallery_max_faces), 1, 100000000,
     "1000000", "N", "faces that can be enrolled"},
    {"store-crops", BOOL, ANYWHERE, AT(store_crops), 0, 0, "true", "BOOL",
     "keep enrolled faces' crops, for re-embedding by later models"},
    {"dataset-root", TEXT, ANYWHERE, AT(dataset_root), 0, 0, NULL, "DIR",
     "folders below it can be registered as datasets; without it none"},
    {"dataset-max-bytes", BYTES, ANYWHERE, AT(dataset_max_bytes), MIB,
     1024 * 1024 * MIB, "8GiB", "BYTES", "one dataset's uploaded pictures"},
    {"max-jobs", INT, ANYWHERE, AT(max_jobs), 0, 64, "1", "N",
     "training jobs that run at once; others wait"},
    {"job-threads", INT, ANYWHERE, AT(job_threads), 1, 256, "1", "N",
     "threads of a training job"},
    {"job-nice", INT, ANYWHERE, AT(job_nice), 0, 19, "10", "N",
     "niceness of a job beside serving; 19: only what is idle"},
    {"job-memory", BYTES, ANYWHERE, AT(job_memory), 0, 1024 * 1024 * MIB,
     "8GiB", "BYTES", "data of a job's process; 0: no limit"},
    {"log-level", LEVEL, ANYWHERE, AT(log_level), 0, 0, "info", "LEVEL",
     "error, warn, info or debug"},
    {"config", TEXT, NOT_IN_FILE, AT(config), 0, 0, NULL, "FILE",
     "lines of \"key = value\"; keys are these names with _ for -"},
    {"create-key", TEXT, COMMAND_LINE, AT(create_key), 0, 0, NULL, "ROLE:NAME",
     "make an API key in the store (roles analyze, enroll, admin), print its "
     "secret and exit; a running server knows it after a restart, or at once "
     "where --store is given"},
    {"if-none", BOOL, COMMAND_LINE, AT(if_none), 0, 0, "false", NULL,
     "with --create-key: only if there is no key yet, and else print nothing"},
    {"add-model", TEXT, COMMAND_LINE, AT(add_model), 0, 0, NULL, "FILE",
     "take a model file into the repository of --data, as a candidate, print "
     "its version and exit; `tscaf models activate VERSION --force` uses it"},
    {"copy-store", BOOL, COMMAND_LINE, AT(copy_store), 0, 0, "false", NULL,
     "with --store: copy all that the SQLite file in --data holds into that "
     "database, which must be empty, and exit"},
    {"healthcheck", BOOL, COMMAND_LINE, AT(healthcheck), 0, 0, "false", NULL,
     "ask the server that listens at --listen whether it is ready, and exit "
     "with 0 if it is, with 1 if not"},
    {"version", BOOL, COMMAND_LINE, AT(version), 0, 0, "false", NULL,
     "print the version and exit"},
    {"help", BOOL, COMMAND_LINE, AT(help), 0, 0, "false", NULL,
     "print this and exit"},
};
#define N_OPTIONS (sizeof(options) / sizeof(options[0]))

static const char *const levels[] = {"error", "warn", "info", "debug"};

/* ---- Values ---- */

static enum ut_err parse_int(const struct option *o, const char *text,
                             long long *out)
{
    static const struct {
        const char *unit;
        long long factor;
    } units[] = {{"", 1}, {"KiB", 1024}, {"MiB", MIB}, {"GiB", 1024 * MIB}};
    size_t n_units = o->kind == BYTES ? 4 : 1;
    char *end;
    long long v;

    if ((*text < '0' || *text > '9') && *text != '-')
        return UT_EINVAL;
    errno = 0;
    v = strtoll(text, &end, 10);
    if (errno)
        return UT_EINVAL;
    for (size_t i = 0; i < n_units; i++) {
        if (strcasecmp(end, units[i].unit) != 0)
            continue;
        if (v > o->max / units[i].factor || v < o->min / units[i].factor)
            return UT_EINVAL;
        *out = v * units[i].factor;
        if (*out < o->min || *out > o->max ||
            (o->kind == POWER && (*out & (*out - 1))))
            return UT_EINVAL;
        return UT_OK;
    }
    return UT_EINVAL;
}

static enum ut_err parse_bool(const char *text, bool *out)
{
    static const char *const yes[] = {"true", "1", "yes", "on"};
    static const char *const no[] = {"false", "0", "no", "off"};

    for (int i = 0; i < 4; i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *out = strcasecmp(text, yes[i]) == 0;
            return UT_OK;
        }
    }
    return UT_EINVAL;
}

/* "127.0.0.1:8080", "localhost:80", "[::1]:0". Whether the name exists is
 * found out when listening. */
static enum ut_err parse_listen(const char *text, char address[64],
                                int *at_port)
{
    const char *colon = strrchr(text, ':'), *host = text;
    const struct option port = {.kind = INT, .min = 0, .max = 65535};
    long long number;
    size_t len;

    if (!colon || colon == text || parse_int(&port, colon + 1, &number))
        return UT_EINVAL;
    len = (size_t)(colon - text);
    if (*host == '[') {
        if (len < 3 || host[len - 1] != ']')
            return UT_EINVAL;
        host++;
        len -= 2;
    } else if (memchr(host, ':', len)) {
        return UT_EINVAL; /* an IPv6 address needs its brackets */
    }
    if (len >= 64)
        return UT_EINVAL;
    memcpy(address, host, len);
    address[len] = '\0';
    *at_port = (int)number;
    return UT_OK;
}

/* What would have been right, for messages and the help. */
static void describe(const struct option *o, char *out, size_t size)
{
    switch (o->kind) {
    case TEXT:
        snprintf(out, size, "a text");
        break;
    case LISTEN:
        snprintf(out, size, "ADDR:PORT, such as 127.0.0.1:8080 or [::1]:8080");
        break;
    case INT:
    case INT64:
        snprintf(out, size, "a whole number from %lld to %lld", o->min, o->max);
        break;
    case BYTES:
        snprintf(out, size,
                 "bytes from %lld to %lld, also with KiB, MiB or GiB", o->min,
                 o->max);
        break;
    case POWER:
        snprintf(out, size, "a power of two from %lld to %lld", o->min, o->max);
        break;
    case BOOL:
        snprintf(out, size, "true or false");
        break;
    case PRECISION:
        snprintf(out, size,
                 "float32 or bfloat16; on cuda also float16 and tf32");
        break;
    case LEVEL:
        snprintf(out, size, "error, warn, info or debug");
        break;
    }
}

static enum ut_err set_text(char **at, const char *text, struct ut_error *e)
{
    char *copy = NULL;

    if (*text) { /* an empty text means: not given */
        copy = strdup(text);
        if (!copy)
            return ut_fail(e, UT_ENOMEM, "no memory for \"%s\"", text);
    }
    free(*at);
    *at = copy;
    return UT_OK;
}

/* where: the option as it was given ("--max-batch", "tscafd.conf:3:
 * max_batch"). */
static enum ut_err set(struct srv_config *c, const struct option *o,
                       const char *where, const char *text, struct ut_error *e)
{
    char *at = (char *)c + o->at, wanted[128];
    enum ut_err rc = UT_EINVAL;
    long long number = 0;
    int word;

    switch (o->kind) {
    case TEXT:
        return set_text((char **)(void *)at, text, e);
    case LISTEN:
        if (!*text && !o->value)
            return set_text((char **)(void *)at, text, e);
        rc = o->at == AT(grpc) ? parse_listen(text, c->grpc_host, &c->grpc_port)
                               : parse_listen(text, c->host, &c->port);
        if (!rc)
            return set_text((char **)(void *)at, text, e);
        break;
    case INT:
    case POWER:
        rc = parse_int(o, text, &number);
        if (!rc)
            *(int *)(void *)at = (int)number;
        break;
    case INT64:
    case BYTES:
        rc = parse_int(o, text, &number);
        if (!rc)
            *(int64_t *)(void *)at = number;
        break;
    case BOOL:
        rc = parse_bool(text, (bool *)at);
        break;
    case PRECISION:
        word = mdl_precision_parse(text);
        if (word >= 0) {
            c->precision = (enum mdl_precision)word;
            rc = UT_OK;
        }
        break;
    case LEVEL:
        for (word = 0; word < 4; word++)
            if (strcmp(text, levels[word]) == 0) {
                c->log_level = (enum srv_log_level)word;
                rc = UT_OK;
            }
        break;
    }
    if (!rc)
        return UT_OK;
    describe(o, wanted, sizeof(wanted));
    return ut_fail(e, UT_EINVAL, "%s: \"%.60s\" is not %s", where, text,
                   wanted);
}

/* ---- Where values come from ---- */

static const struct option *find(const char *name, size_t len)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const char *n = options[i].name;

        if (strlen(n) == len && memcmp(n, name, len) == 0)
            return &options[i];
    }
    return NULL;
}

/* "--max-batch 8", "--max-batch=8", and switches without a value.
 * only_config: the file's name must be known before the rest is read. */
static enum ut_err read_flags(int argc, char *const *argv, bool only_config,
                              struct srv_config *c, struct ut_error *e)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *value = NULL;
        const struct option *o = NULL;
        char where[64];
        size_t len;
        enum ut_err rc;

        if (strncmp(arg, "--", 2) == 0) {
            len = strcspn(arg + 2, "=");
            o = find(arg + 2, len);
            value = arg[2 + len] == '=' ? arg + 3 + len : NULL;
        } else if (strcmp(arg, "-h") == 0) {
            o = find("help", 4);
        }
        if (!o)
            return ut_fail(e, UT_EINVAL,
                           "%.100s: no such option; --help lists them", arg);
        if (!value && !o->what)
            value = "true";
        if (!value && i + 1 == argc)
            return ut_fail(e, UT_EINVAL, "--%s: needs a value: %s", o->name,
                           o->what);
        if (!value)
            value = argv[++i];
        if (only_config && o->at != AT(config))
            continue;
        snprintf(where, sizeof(where), "--%s", o->name);
        rc = set(c, o, where, value, e);
        if (rc)
            return rc;
    }
    return UT_OK;
}

static enum ut_err read_env(char *const *env, bool only_config,
                            struct srv_config *c, struct ut_error *e)
{
    static const char PREFIX[] = "TSCAF_";

    for (; env && *env; env++) {
        char name[64], where[80];
        const struct option *o;
        size_t len = 0;
        enum ut_err rc;

        if (strncmp(*env, PREFIX, sizeof(PREFIX) - 1) != 0)
            continue;
        for (const char *p = *env + sizeof(PREFIX) - 1;
             *p && *p != '=' && len < sizeof(name) - 1; p++)
            name[len++] =
                *p == '_' ? '-' : (*p >= 'A' && *p <= 'Z' ? *p + 32 : '?');
        o = find(name, len);
        /* Others may use our prefix (clients, tests): not ours to refuse. */
        if (!o || o->place == COMMAND_LINE ||
            (only_config && o->at != AT(config)) || !strchr(*env, '='))
            continue;
        snprintf(where, sizeof(where), "%.*s", (int)strcspn(*env, "="), *env);
        rc = set(c, o, where, strchr(*env, '=') + 1, e);
        if (rc)
            return rc;
    }
    return UT_OK;
}

static char *trim(char *s)
{
    char *end = s + strlen(s);

    while (end > s && strchr(" \t\r\n", end[-1]))
        *--end = '\0';
    return s + strspn(s, " \t");
}

static enum ut_err read_line(struct srv_config *c, const char *path, int number,
                             char *line, struct ut_error *e)
{
    char *key = trim(line), *eq = strchr(key, '='), where[160];
    const struct option *o;

    if (!*key || *key == '#')
        return UT_OK;
    if (!eq)
        return ut_fail(e, UT_EINVAL, "%s:%d: no \"key = value\"", path, number);
    *eq = '\0';
    key = trim(key);
    snprintf(where, sizeof(where), "%.100s:%d: %.40s", path, number, key);
    for (char *p = key; *p; p++)
        *p = *p == '_' ? '-' : (*p == '-' ? '?' : *p);
    o = find(key, strlen(key));
    if (!o || o->place != ANYWHERE)
        return ut_fail(e, UT_EINVAL, "%s: no such key", where);
    return set(c, o, where, trim(eq + 1), e);
}

static enum ut_err read_file(struct srv_config *c, struct ut_error *e)
{
    char line[4096];
    enum ut_err rc = UT_OK;
    int number = 0;
    FILE *f = fopen(c->config, "re");

    if (!f)
        return ut_fail(e, UT_EIO, "%s: %s", c->config, strerror(errno));
    while (!rc && fgets(line, sizeof(line), f)) {
        number++;
        if (!strchr(line, '\n') && !feof(f))
            rc = ut_fail(e, UT_EINVAL, "%s:%d: longer than %zu bytes",
                         c->config, number, sizeof(line) - 2);
        else
            rc = read_line(c, c->config, number, line, e);
    }
    if (!rc && ferror(f))
        rc = ut_fail(e, UT_EIO, "%s: cannot be read", c->config);
    fclose(f);
    return rc;
}

enum ut_err srv_config_read(int argc, char *const *argv, char *const *env,
                            struct srv_config *out, struct ut_error *e)
{
    struct srv_config c = {0};
    enum ut_err rc = UT_OK;

    for (size_t i = 0; !rc && i < N_OPTIONS; i++)
        if (options[i].value)
            rc = set(&c, &options[i], options[i].name, options[i].value, e);
    if (!rc)
        rc = read_env(env, true, &c, e);
    if (!rc)
        rc = read_flags(argc, argv, true, &c, e);
    if (!rc && c.config)
        rc = read_file(&c, e);
    if (!rc)
        rc = read_env(env, false, &c, e);
    if (!rc)
        rc = read_flags(argc, argv, false, &c, e);
    if (!rc && !c.data)
        rc = ut_fail(e, UT_EINVAL, "--data: needs a folder");
    /* Not shown: it may hold a password. */
    if (!rc && c.store && strncmp(c.store, "postgres://", 11) &&
        strncmp(c.store, "postgresql://", 13))
        rc = ut_fail(e, UT_EINVAL, "--store: does not begin with postgres://");
    if (!rc && !c.grpc_cert != !c.grpc_key)
        rc = ut_fail(e, UT_EINVAL,
                     "--grpc-cert and --grpc-key: one of them is "
                     "missing");
    if (!rc && c.grpc_cert && !c.grpc)
        rc = ut_fail(e, UT_EINVAL, "--grpc-cert: needs --grpc ADDR:PORT");
    if (!rc && c.max_body_bytes > c.max_queue_bytes)
        rc = ut_fail(e, UT_EINVAL,
                     "--max-body-bytes: %lld is over --max-queue-bytes, %lld, "
                     "the room for all bodies; give a smaller one",
                     (long long)c.max_body_bytes, (long long)c.max_queue_bytes);
    if (!rc && c.if_none && !c.create_key)
        rc = ut_fail(e, UT_EINVAL, "--if-none: needs --create-key ROLE:NAME");
    if (!rc && c.copy_store && !c.store)
        rc = ut_fail(e, UT_EINVAL,
                     "--copy-store: needs --store URL, where to copy to");
    if (rc) {
        srv_config_fini(&c);
        return rc;
    }
    *out = c;
    return UT_OK;
}

void srv_config_fini(struct srv_config *c)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (options[i].kind == TEXT || options[i].kind == LISTEN)
            free(*(char **)(void *)((char *)c + options[i].at));
    *c = (struct srv_config){0};
}

bool srv_config_loopback(const char *host)
{
    struct in6_addr in6;
    struct in_addr in4;

    /* "127.example.org" is a name, not an address. */
    if (inet_pton(AF_INET, host, &in4) == 1)
        return ntohl(in4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &in6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&in6);
    return strcasecmp(host, "localhost") == 0;
}

void srv_config_help(FILE *f)
{
    fprintf(f, "usage: tscafd [OPTION]...\n\n"
               "Serves driver fatigue and identity over HTTP. Every option "
               "before --create-key may\nalso be an environment variable "
               "(--max-batch: TSCAF_MAX_BATCH), and all but\n--config a line "
               "of a file (max_batch = 8). Flags go before the environment,\n"
               "which goes before the file.\n\n");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        char flag[64], wanted[128];

        snprintf(flag, sizeof(flag), "--%s%s%s", o->name, o->what ? " " : "",
                 o->what ? o->what : "");
        fprintf(f, "  %-24s %s", flag, o->help);
        if (o->kind == INT || o->kind == INT64 || o->kind == BYTES ||
            o->kind == POWER) {
            describe(o, wanted, sizeof(wanted));
            fprintf(f, "; %s", wanted);
        }
        if (o->what && o->value)
            fprintf(f, " (default %s)", o->value);
        fputc('\n', f);
    }
}
