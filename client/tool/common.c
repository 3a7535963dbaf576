/* What the subcommands share: options, one exchange, errors, faces in words. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "client/tool/cmd.h"

void cmd_init(struct cmd *c, const char *name, const char *help)
{
    const char *url = getenv("TSCAF_URL"), *key = getenv("TSCAF_KEY");

    memset(c, 0, sizeof(*c));
    c->name = name;
    c->help = help;
    c->client.url = url && *url ? url : "http://127.0.0.1:8080";
    c->client.key = key && *key ? key : NULL;
    c->client.cacert = getenv("TSCAF_CACERT");
    c->client.timeout_ms = 30000;
    c->client.retries = 5;
    optind = 1;
}

int cmd_usage(const struct cmd *c, const char *fmt, ...)
{
    va_list args;

    fprintf(stderr, "tscaf %s: ", c->name);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fprintf(stderr, "; \"tscaf %s --help\" tells more\n", c->name);
    return CMD_USAGE;
}

long cmd_number(const struct cmd *c, const char *option, const char *text,
                long least, long most)
{
    char *end;
    long n;

    errno = 0;
    n = strtol(text, &end, 10);
    if (!*text || *end || errno || n < least || n > most) {
        cmd_usage(c, "%s \"%s\" is no number from %ld to %ld", option, text,
                  least, most);
        return -1;
    }
    return n;
}

static int read_key(struct cmd *c, const char *path)
{
    FILE *f = fopen(path, "r");
    bool ok = f && fgets(c->key, sizeof(c->key), f);

    if (f)
        fclose(f);
    c->key[strcspn(c->key, "\r\n")] = '\0';
    if (!ok || !c->key[0]) {
        fprintf(stderr, "tscaf: %s: has no key on its first line\n", path);
        return CMD_FAILED;
    }
    c->client.key = c->key;
    return -1;
}

int cmd_option(struct cmd *c, int option)
{
    long n;

    switch (option) {
    case 1000:
        c->client.url = optarg;
        return -1;
    case 1001:
        return read_key(c, optarg);
    case 1002:
        c->client.cacert = optarg;
        return -1;
    case 1003:
        n = cmd_number(c, "--timeout", optarg, 1, 3600000);
        c->client.timeout_ms = (int)n;
        return n < 0 ? CMD_USAGE : -1;
    case 1004:
        n = cmd_number(c, "--retries", optarg, 0, 1000);
        c->client.retries = (int)n;
        return n < 0 ? CMD_USAGE : -1;
    case 1005:
        c->json = true;
        return -1;
    case 1006:
        fputs(c->help, stdout);
        return CMD_OK;
    default:
        /* getopt has said what is wrong. */
        fprintf(stderr, "\"tscaf %s --help\" tells more\n", c->name);
        return CMD_USAGE;
    }
}

enum ut_err cmd_query(struct ut_buf *path, const char *option,
                      const char *value, struct ut_error *e)
{
    char name[32];

    snprintf(name, sizeof(name), "%s", option);
    for (char *p = name; (p = strchr(p, '-')) != NULL;)
        *p = '_';
    return cl_path_query(path, name, value, e);
}

int cmd_fail(const struct cmd *c, const struct ut_error *e)
{
    fprintf(stderr, "tscaf %s: %s\n", c->name, e->msg);
    return e->code == UT_EINVAL ? CMD_USAGE : CMD_FAILED;
}

int cmd_exit_of(const struct api_error *err)
{
    return err->code == API_UNAVAILABLE || err->code == API_DEADLINE_EXCEEDED
               ? CMD_UNREACHABLE
               : CMD_REFUSED;
}

int cmd_exit_of_one(const struct api_error *err)
{
    switch (err->code) {
    case API_UNAVAILABLE:
    case API_DEADLINE_EXCEEDED:
    case API_UNAUTHENTICATED:
    case API_PERMISSION_DENIED:
        return cmd_exit_of(err);
    default:
        return CMD_SOME;
    }
}

int cmd_fail_answer(const struct cmd *c, const struct api_error *err)
{
    fprintf(stderr, "tscaf %s: %s: %s", c->name, api_code_name(err->code),
            err->message);
    if (err->reason[0])
        fprintf(stderr, " (%s%s%s)", err->reason, err->value[0] ? ": " : "",
                err->value);
    fputc('\n', stderr);
    return cmd_exit_of(err);
}

int cmd_call(const struct cmd *c, struct cl_client *client,
             const struct cl_request *r,
             const ProtobufCMessageDescriptor *descriptor,
             ProtobufCMessage **out)
{
    struct api_error err;
    struct cl_answer a;
    struct ut_error e;
    int code = CMD_OK;

    *out = NULL;
    if (cl_call(client, r, &a, &e))
        return cmd_fail(c, &e);
    if (!a.ok)
        code = cmd_fail_answer(c, &a.err);
    else if (descriptor &&
             api_json_read_answer(descriptor, a.body, a.len, out, &err))
        code = cmd_fail_answer(c, &err);
    if (c->json && a.len)
        printf("%s\n", a.body);
    free(a.body);
    return code;
}

int cmd_ask(const struct cmd *c, const char *method, const char *path,
            const ProtobufCMessage *send,
            const ProtobufCMessageDescriptor *descriptor,
            ProtobufCMessage **out)
{
    struct cl_request r = {.method = method, .path = path};
    struct cl_client *client = NULL;
    struct ut_error e;
    char *json = NULL;
    int code;

    *out = NULL;
    if (send && api_json_write(send, API_JSON_REST, &json, &r.len, &e))
        return cmd_fail(c, &e);
    if (send) {
        r.type = "application/json";
        r.body = json;
    }
    if (cl_open(&c->client, &client, &e))
        code = cmd_fail(c, &e);
    else
        code = cmd_call(c, client, &r, descriptor, out);
    cl_close(client);
    free(json);
    return code;
}

int cmd_exchange(const struct cmd *c, const char *method, const char *path,
                 const ProtobufCMessage *send,
                 const ProtobufCMessageDescriptor *descriptor, cmd_print *print)
{
    ProtobufCMessage *m;
    int code = cmd_ask(c, method, path, send, descriptor, &m);

    if (m) {
        if (!c->json)
            print(m);
        protobuf_c_message_free_unpacked(m, NULL);
    }
    return code;
}

static const char *verdict(Tscaf__V1__Verdict v)
{
    static const char *const words[] = {"?", "match", "unknown", "ambiguous"};

    return (unsigned)v < 4 ? words[v] : "?";
}

void cmd_print_face(const Tscaf__V1__Face *f, const char *indent)
{
    if (f->box)
        printf("%sface at %.0f,%.0f %.0fx%.0f", indent, f->box->x, f->box->y,
               f->box->width, f->box->height);
    if (f->detection_score > 0)
        printf("  score %.3f", f->detection_score);
    if (f->fatigue)
        printf("  fatigue %.3f %s", f->fatigue->probability,
               f->fatigue->drowsy ? "DROWSY" : "alert");
    if (f->identity)
        printf("  identity %s", verdict(f->identity->verdict));
    for (size_t i = 0; i < f->n_quality_reasons; i++)
        printf("  %s", f->quality_reasons[i]);
    putchar('\n');
    for (size_t i = 0; f->identity && i < f->identity->n_matches; i++)
        printf("%s  %+.4f  %s  %s\n", indent,
               f->identity->matches[i]->similarity,
               f->identity->matches[i]->identity_id,
               f->identity->matches[i]->name);
}
