/* tscaf analyze: many pictures, some at a time, answers in order. */
#include <stdlib.h>
#include <string.h>

#include "api/escape.h"
#include "api/json.h"
#include "client/pictures.h"
#include "client/tool/cmd.h"

#define MAX_PARALLEL 256

static const char help[] =
    "usage: tscaf analyze [OPTIONS] PATH...\n"
    "\n"
    "Sends every picture (folders: every .jpg, .jpeg, .png below) and prints\n"
    "what the server says of each face, in the order of the paths.\n"
    "\n"
    "  --input frame|crop        a camera frame, or one aligned face (frame)\n"
    "  --tasks LIST              fatigue,recognition (all of the model's)\n"
    "  --max-faces N             faces of a frame, largest first (10)\n"
    "  --min-score X             least detection score (0.5)\n"
    "  --top-k N                 nearest identities per face (1)\n"
    "  --fatigue-threshold X     drowsy from this probability on (the "
    "model's)\n"
    "  --identity-threshold X    match from this similarity on (the model's)\n"
    "  --return LIST             landmarks,embedding,crop,attention: seen with "
    "--json\n"
    "  --priority live|bulk      bulk gives way to live requests (live)\n"
    "  --parallel N              requests on their way at once (4)\n"
    "\n"
    "--json prints {\"path\":...,\"answer\":...} or "
    "{\"path\":...,\"error\":...}\n"
    "for each picture. Exit code 1 if a picture was refused, 3 if one got no "
    "answer\n"
    "in time or the server was overloaded. A refused key ends it with 4.\n";

/* Their values are the server's query parameters, which it checks. */
static const struct option options[] = {
    {"input", required_argument, NULL, 'q'},
    {"tasks", required_argument, NULL, 'q'},
    {"max-faces", required_argument, NULL, 'q'},
    {"min-score", required_argument, NULL, 'q'},
    {"top-k", required_argument, NULL, 'q'},
    {"fatigue-threshold", required_argument, NULL, 'q'},
    {"identity-threshold", required_argument, NULL, 'q'},
    {"return", required_argument, NULL, 'q'},
    {"priority", required_argument, NULL, 'q'},
    {"parallel", required_argument, NULL, 'p'},
    CMD_OPTIONS,
    {0},
};

struct analysis;

struct picture {
    struct analysis *all;
    char *bytes; /* while it is sent */
    bool done;
    struct cl_answer answer; /* body owned */
};

struct analysis {
    struct cmd cmd;
    struct cl_client *client;
    struct cl_pictures files;
    struct picture *pictures;
    struct ut_buf path;
    int parallel, next, printed;
    int exit;     /* the worst of the answers' */
    bool useless; /* going on would only repeat the last answer */
};

static void print_answer(const char *path, const ProtobufCMessage *m)
{
    const Tscaf__V1__AnalyzeResponse *r = (const Tscaf__V1__AnalyzeResponse *)m;

    for (size_t i = 0; i < r->n_frames; i++) {
        const Tscaf__V1__Frame *f = r->frames[i];

        printf("%s: %ux%u, %zu face%s%s\n", path, f->width, f->height,
               f->n_faces, f->n_faces == 1 ? "" : "s",
               r->model && !r->model->trained
                   ? " (UNTRAINED model: numbers mean nothing)"
                   : "");
        for (size_t k = 0; k < f->n_faces; k++)
            cmd_print_face(f->faces[k], "  ");
    }
}

/* False, and a has failed, if it cannot be read. */
static bool read_answer(struct cl_answer *a, ProtobufCMessage **m)
{
    struct api_error why;

    if (!api_json_read_answer(&tscaf__v1__analyze_response__descriptor, a->body,
                              a->len, m, &why))
        return true;
    a->ok = false;
    api_fail(&a->err, API_UNKNOWN, "the answer cannot be read: %s",
             why.message);
    return false;
}

static void print_json(const char *path, const struct cl_answer *a)
{
    struct ut_buf name;
    struct ut_error e;
    char *error = NULL;

    ut_buf_init(&name, 65536);
    if (api_escape(&name, path, &e) ||
        (!a->ok && api_error_json(&a->err, &error, &e)))
        fprintf(stderr, "tscaf analyze: %s\n", e.msg);
    else if (a->ok)
        printf("{\"path\":%s,\"answer\":%s}\n", name.data, a->body);
    else
        printf("{\"path\":%s,\"error\":%s}\n", name.data, error);
    ut_buf_fini(&name);
    free(error);
}

static void print_one(struct analysis *all, const char *path,
                      struct cl_answer *a)
{
    ProtobufCMessage *m = NULL;
    int code = CMD_OK;

    if (!a->ok) {
        code = cmd_exit_of_one(&a->err);
        all->useless =
            code == CMD_REFUSED ||
            (!a->status && a->err.code == API_UNAVAILABLE); /* no server */
    } else if (!read_answer(a, &m)) { /* it is no tscafd */
        code = CMD_REFUSED;
        all->useless = true;
    }
    if (code > all->exit)
        all->exit = code;
    if (all->cmd.json)
        print_json(path, a);
    else if (m)
        print_answer(path, m);
    else
        printf("%s: %s: %s\n", path, api_code_name(a->err.code),
               a->err.message);
    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
    fflush(stdout);
}

/* Everything that is done and whose turn it is. */
static void print_ready(struct analysis *all)
{
    while (!all->useless && all->printed < all->next &&
           all->pictures[all->printed].done) {
        struct cl_answer *a = &all->pictures[all->printed].answer;

        print_one(all, all->files.paths[all->printed++], a);
        free(a->len ? a->body : NULL);
    }
}

static void on_answer(void *ctx, struct cl_answer *a)
{
    struct picture *p = ctx;

    free(p->bytes);
    p->bytes = NULL;
    p->answer = *a;
    p->done = true;
    a->body = NULL;
}

static enum ut_err send_next(struct analysis *all, struct ut_error *e)
{
    struct picture *p = &all->pictures[all->next];
    struct cl_request r = {.method = "POST", .path = all->path.data};
    enum ut_err rc;

    p->all = all;
    rc = cl_picture_read(all->files.paths[all->next++], &p->bytes, &r.len,
                         &r.type, e);
    if (rc && rc != UT_ENOMEM) { /* told in its turn; the others go on */
        api_fail(&p->answer.err, API_INVALID_ARGUMENT, "%s", e->msg);
        p->answer.status = 400;
        p->done = true;
        return UT_OK;
    }
    r.body = p->bytes;
    return rc ? rc : cl_start(all->client, &r, on_answer, p, e);
}

static enum ut_err run(struct analysis *all, struct ut_error *e)
{
    enum ut_err rc = cl_open(&all->cmd.client, &all->client, e);

    all->pictures = calloc((size_t)all->files.n + 1, sizeof(*all->pictures));
    if (!rc && !all->pictures)
        rc = ut_fail(e, UT_ENOMEM, "no memory");
    while (!rc && !all->useless && all->printed < all->files.n) {
        /* Answers wait for their turn: no more of them than are sent. */
        while (!rc && all->next < all->files.n &&
               all->next - all->printed < 4 * all->parallel &&
               cl_busy(all->client) < all->parallel)
            rc = send_next(all, e);
        if (!rc && cl_busy(all->client))
            rc = cl_wait(all->client, 1000, e);
        print_ready(all);
    }
    return rc;
}

static int parse(struct analysis *all, int argc, char **argv)
{
    struct ut_error e;
    int c, index, code;

    while ((c = getopt_long(argc, argv, "", options, &index)) != -1) {
        if (c == 'p') {
            all->parallel = (int)cmd_number(&all->cmd, "--parallel", optarg, 1,
                                            MAX_PARALLEL);
            if (all->parallel < 0)
                return CMD_USAGE;
        } else if (c == 'q') {
            if (cmd_query(&all->path, options[index].name, optarg, &e))
                return cmd_fail(&all->cmd, &e);
        } else if ((code = cmd_option(&all->cmd, c)) >= 0) {
            return code;
        }
    }
    if (optind == argc)
        return cmd_usage(&all->cmd, "there is no PATH");
    for (; optind < argc; optind++)
        if (cl_pictures_add(&all->files, argv[optind], &e))
            return cmd_fail(&all->cmd, &e);
    return -1;
}

int cmd_analyze(int argc, char **argv)
{
    struct analysis all = {.parallel = 4};
    struct ut_error e;
    int code;

    cmd_init(&all.cmd, "analyze", help);
    ut_buf_init(&all.path, 1024);
    if (ut_buf_addf(&all.path, &e, "/v1/analyze"))
        return cmd_fail(&all.cmd, &e);
    code = parse(&all, argc, argv);
    if (code < 0)
        code = run(&all, &e) ? cmd_fail(&all.cmd, &e) : all.exit;
    cl_close(all.client);
    for (int i = 0; all.pictures && i < all.files.n; i++)
        free(all.pictures[i].bytes);
    for (int i = all.printed; i < all.next; i++)
        if (all.pictures[i].answer.len)
            free(all.pictures[i].answer.body);
    free(all.pictures);
    cl_pictures_fini(&all.files);
    ut_buf_fini(&all.path);
    return code;
}
