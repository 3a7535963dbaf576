/* tscaf datasets and jobs: what is trained on, and training. */
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "api/json.h"
#include "base/buf.h"
#include "client/tool/cmd.h"

#define MAX_ARCHIVE_BYTES (1024u * 1024 * 1024)
#define LOOK_S 1 /* between two looks at a job */

static const char datasets_help[] =
    "usage: tscaf datasets list\n"
    "       tscaf datasets create NAME --kind fatigue|recognition [--path P]\n"
    "       tscaf datasets upload ID ARCHIVE...\n"
    "       tscaf datasets show ID\n"
    "       tscaf datasets delete ID\n"
    "\n"
    "ARCHIVE is a tar (also compressed) or zip of aligned faces: a folder for "
    "each\n"
    "class (alert, drowsy; or a person's name), or a manifest.tsv. P is a "
    "folder below\n"
    "the server's --dataset-root.\n";

static const char jobs_help[] =
    "usage: tscaf jobs list\n"
    "       tscaf jobs start [--fatigue DATASET] [--recognition DATASET]\n"
    "                        [--name NAME] [--base VERSION] [--set "
    "KEY=VALUE]...\n"
    "       tscaf jobs show|watch|losses|cancel|pause|resume|"
    "compare|delete ID\n"
    "\n"
    "KEY is one of the settings of POST /v1/jobs (steps, batch, rate, mode, "
    "held_out,\n"
    "frozen_root...). watch shows the progress to the job's end; it ends with "
    "1 if the\n"
    "job made no model. compare: the model that it made, with the one that "
    "answers\n"
    "now. losses prints how they went, a line an update, "
    "thinned.\n";

/* ---- printing ---- */

static const char *const job_states[] = {
    "?", "queued", "running", "paused", "succeeded", "failed", "cancelled"};

static const char *state_of(const Tscaf__V1__JobRecord *x)
{
    return (unsigned)x->state < 7 ? job_states[x->state] : "?";
}

static void print_dataset(const ProtobufCMessage *m)
{
    const Tscaf__V1__DatasetRecord *x = (const Tscaf__V1__DatasetRecord *)m;

    printf("%s  %-11s  %u pictures, %u classes, %u groups  %s\n", x->id,
           x->kind == TSCAF__V1__DATASET_KIND__DATASET_KIND_FATIGUE
               ? "fatigue"
               : "recognition",
           x->pictures, x->classes, x->groups, x->name);
    if (x->problem_count)
        printf("  %u files left out, the last:\n", x->problem_count);
    for (size_t i = 0; i < x->n_problems; i++)
        printf("    %s\n", x->problems[i]);
}

static void print_datasets(const ProtobufCMessage *m)
{
    const Tscaf__V1__ListDatasetsResponse *r =
        (const Tscaf__V1__ListDatasetsResponse *)m;

    for (size_t i = 0; i < r->n_datasets; i++)
        print_dataset(&r->datasets[i]->base);
}

static void print_losses(const ProtobufCMessage *m)
{
    const Tscaf__V1__JobLosses *x = (const Tscaf__V1__JobLosses *)m;

    printf("step\tfatigue_loss\trecognition_loss\n");
    for (size_t i = 0; i < x->n_losses; i++)
        printf("%u\t%.4f\t%.4f\n", x->losses[i]->step,
               (double)x->losses[i]->fatigue_loss,
               (double)x->losses[i]->recognition_loss);
}

static void print_job(const ProtobufCMessage *m)
{
    const Tscaf__V1__JobRecord *x = (const Tscaf__V1__JobRecord *)m;

    printf("%s  %-9s  %s", x->id, state_of(x), x->name);
    if (x->progress)
        printf("  step %u of %u", x->progress->step, x->progress->steps);
    printf("%s%s\n", *x->model_version ? "  model " : "", x->model_version);
    if (*x->reason)
        printf("  %s\n", x->reason);
    for (size_t i = 0; x->progress && i < x->progress->n_warnings; i++)
        printf("  %s\n", x->progress->warnings[i]);
    for (size_t i = 0; i < x->n_figures; i++) {
        const Tscaf__V1__JobFigures *f = x->figures[i];

        printf("  %s, held out: AUC %.4f (base %.4f, in use %.4f), EER %.4f "
               "(base %.4f, in use %.4f)\n",
               f->task, (double)f->auc, (double)f->base_auc,
               (double)f->active_auc, (double)f->equal_error_rate,
               (double)f->base_equal_error_rate,
               (double)f->active_equal_error_rate);
    }
}

static void print_jobs(const ProtobufCMessage *m)
{
    const Tscaf__V1__ListJobsResponse *r =
        (const Tscaf__V1__ListJobsResponse *)m;

    for (size_t i = 0; i < r->n_jobs; i++)
        print_job(&r->jobs[i]->base);
}

/* ---- datasets ---- */

static const char *media_of(const char *file)
{
    size_t n = strlen(file);

    return n > 4 && !strcasecmp(file + n - 4, ".zip")   ? "application/zip"
           : n > 4 && !strcasecmp(file + n - 4, ".tar") ? "application/x-tar"
                                                        : "application/gzip";
}

static int upload(const struct cmd *c, const char *path, const char *file)
{
    struct cl_client *client;
    struct cl_request r = {.method = "POST", .type = media_of(file)};
    ProtobufCMessage *m = NULL;
    struct ut_buf b;
    struct ut_error e;
    int code;

    ut_buf_init(&b, MAX_ARCHIVE_BYTES);
    if (ut_buf_add_file(&b, file, &e) || cl_open(&c->client, &client, &e)) {
        ut_buf_fini(&b);
        return cmd_fail(c, &e);
    }
    r.path = path;
    r.body = b.data;
    r.len = b.len;
    code = cmd_call(c, client, &r, &tscaf__v1__dataset_record__descriptor, &m);
    if (!code && m && !c->json)
        print_dataset(m);
    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
    cl_close(client);
    ut_buf_fini(&b);
    return code;
}

static int path_to(const struct cmd *c, struct ut_buf *path, const char *root,
                   const char *id, const char *tail)
{
    struct ut_error e;

    ut_buf_init(path, 4096);
    if (ut_buf_addf(path, &e, "%s", root) || cl_path_segment(path, id, &e) ||
        ut_buf_addf(path, &e, "%s", tail))
        return cmd_fail(c, &e);
    return CMD_OK;
}

/* method on root/id/tail. */
static int on_id(const struct cmd *c, const char *method, const char *root,
                 const char *id, const char *tail,
                 const ProtobufCMessageDescriptor *d, cmd_print *print)
{
    struct ut_buf path;
    int code = path_to(c, &path, root, id, tail);

    if (!code)
        code = cmd_exchange(c, method, path.data, NULL, d, print);
    ut_buf_fini(&path);
    return code;
}

static int upload_all(const struct cmd *c, char **args, int n)
{
    struct ut_buf path;
    int code = path_to(c, &path, "/v1/datasets", args[0], "/archive");

    for (int i = 1; i < n && !code; i++)
        code = upload(c, path.data, args[i]);
    ut_buf_fini(&path);
    return code;
}

int cmd_datasets(int argc, char **argv)
{
    static const struct option options[] = {
        CMD_OPTIONS,
        {"kind", required_argument, NULL, 'k'},
        {"path", required_argument, NULL, 'p'},
        {0},
    };
    static const ProtobufCMessageDescriptor *const record =
        &tscaf__v1__dataset_record__descriptor;
    Tscaf__V1__CreateDatasetRequest r = TSCAF__V1__CREATE_DATASET_REQUEST__INIT;
    struct cmd c;
    char **args;
    int option, code, n;

    cmd_init(&c, "datasets", datasets_help);
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'p')
            r.path = optarg;
        else if (option == 'k' && !strcmp(optarg, "fatigue"))
            r.kind = TSCAF__V1__DATASET_KIND__DATASET_KIND_FATIGUE;
        else if (option == 'k' && !strcmp(optarg, "recognition"))
            r.kind = TSCAF__V1__DATASET_KIND__DATASET_KIND_RECOGNITION;
        else if (option == 'k')
            return cmd_usage(&c, "--kind is fatigue or recognition");
        else if ((code = cmd_option(&c, option)) >= 0)
            return code;
    }
    args = argv + optind + 1;
    n = argc - optind - 1;
    if (n < 0)
        return cmd_usage(&c, "say what to do");
    if (!strcmp(argv[optind], "list") && !n)
        return cmd_exchange(&c, "GET", "/v1/datasets", NULL,
                            &tscaf__v1__list_datasets_response__descriptor,
                            print_datasets);
    if (!strcmp(argv[optind], "create") && n == 1) {
        r.name = args[0];
        return cmd_exchange(&c, "POST", "/v1/datasets", &r.base, record,
                            print_dataset);
    }
    if (!strcmp(argv[optind], "upload") && n >= 2)
        return upload_all(&c, args, n);
    if (!strcmp(argv[optind], "show") && n == 1)
        return on_id(&c, "GET", "/v1/datasets", args[0], "", record,
                     print_dataset);
    if (!strcmp(argv[optind], "delete") && n == 1)
        return on_id(&c, "DELETE", "/v1/datasets", args[0], "", NULL, NULL);
    return cmd_usage(&c, "\"%s\" is nothing to do so; see the usage",
                     argv[optind]);
}

/* ---- jobs ---- */

/* A bar that redraws itself on a terminal, lines elsewhere. */
static void draw(const Tscaf__V1__JobRecord *x)
{
    static const char full[] = "####################";
    const Tscaf__V1__JobProgress *p = x->progress;
    int done = p && p->steps ? (int)(20.0 * p->step / p->steps) : 0;

    fprintf(stderr, "[%-20.*s] %s", done, full, state_of(x));
    if (p)
        fprintf(stderr,
                "  %u/%u  fatigue %.3f  recognition %.3f  %.0f images/s  "
                "%.0f s left",
                p->step, p->steps, (double)p->fatigue_loss,
                (double)p->recognition_loss, (double)p->images_per_second,
                (double)p->seconds_left);
    fputs(isatty(STDERR_FILENO) ? "\033[K\r" : "\n", stderr);
}

static int watch(const struct cmd *c, const char *id)
{
    uint32_t step = UINT32_MAX;
    bool ended = false;
    struct ut_buf path;
    int code = path_to(c, &path, "/v1/jobs", id, ""), state = -1;

    while (!code && !ended) {
        ProtobufCMessage *m = NULL;
        const Tscaf__V1__JobRecord *x;

        code = cmd_ask(c, "GET", path.data, NULL,
                       &tscaf__v1__job_record__descriptor, &m);
        if (code || !m)
            break;
        x = (const Tscaf__V1__JobRecord *)m;
        ended = x->state >= TSCAF__V1__JOB_STATE__JOB_STATE_SUCCEEDED;
        if (!c->json && ((int)x->state != state ||
                         (x->progress && x->progress->step != step)))
            draw(x);
        state = (int)x->state;
        step = x->progress ? x->progress->step : step;
        if (ended && !c->json) {
            fputc('\n', stderr);
            print_job(m);
        }
        protobuf_c_message_free_unpacked(m, NULL);
        if (!ended)
            sleep(LOOK_S);
    }
    ut_buf_fini(&path);
    if (code)
        return code;
    return state == TSCAF__V1__JOB_STATE__JOB_STATE_SUCCEEDED ? CMD_OK
                                                              : CMD_SOME;
}

/* "steps=100" into the settings, which the server checks. */
static bool set(Tscaf__V1__JobSettings *s, char *pair, struct api_error *err)
{
    char *eq = strchr(pair, '=');

    if (!eq)
        return false;
    *eq = '\0';
    return !api_json_set(&s->base, pair, eq + 1, err);
}

int cmd_jobs(int argc, char **argv)
{
    static const struct option options[] = {
        CMD_OPTIONS,
        {"fatigue", required_argument, NULL, 'f'},
        {"recognition", required_argument, NULL, 'r'},
        {"name", required_argument, NULL, 'n'},
        {"base", required_argument, NULL, 'b'},
        {"set", required_argument, NULL, 's'},
        {0},
    };
    static const ProtobufCMessageDescriptor *const record =
        &tscaf__v1__job_record__descriptor;
    Tscaf__V1__CreateJobRequest r = TSCAF__V1__CREATE_JOB_REQUEST__INIT;
    Tscaf__V1__JobSettings settings = TSCAF__V1__JOB_SETTINGS__INIT;
    struct api_error err;
    const char *verb;
    char tail[16];
    struct cmd c;
    int option, code, n;

    cmd_init(&c, "jobs", jobs_help);
    r.settings = &settings;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'f')
            r.fatigue_dataset = optarg;
        else if (option == 'r')
            r.recognition_dataset = optarg;
        else if (option == 'n')
            r.name = optarg;
        else if (option == 'b')
            r.base_version = optarg;
        else if (option == 's' && !set(&settings, optarg, &err))
            return cmd_usage(&c, "--set %s is no setting", optarg);
        else if (option != 's' && (code = cmd_option(&c, option)) >= 0)
            return code;
    }
    n = argc - optind - 1;
    if (n < 0)
        return cmd_usage(&c, "say what to do");
    verb = argv[optind];
    if (!strcmp(verb, "list") && !n)
        return cmd_exchange(&c, "GET", "/v1/jobs", NULL,
                            &tscaf__v1__list_jobs_response__descriptor,
                            print_jobs);
    if (!strcmp(verb, "start") && !n)
        return cmd_exchange(&c, "POST", "/v1/jobs", &r.base, record, print_job);
    if (n != 1)
        return cmd_usage(&c, "\"%s\" is nothing to do so; see the usage", verb);
    if (!strcmp(verb, "watch"))
        return watch(&c, argv[optind + 1]);
    if (!strcmp(verb, "show"))
        return on_id(&c, "GET", "/v1/jobs", argv[optind + 1], "", record,
                     print_job);
    if (!strcmp(verb, "losses"))
        return on_id(&c, "GET", "/v1/jobs", argv[optind + 1], "/losses",
                     &tscaf__v1__job_losses__descriptor, print_losses);
    if (!strcmp(verb, "delete"))
        return on_id(&c, "DELETE", "/v1/jobs", argv[optind + 1], "", NULL,
                     NULL);
    if (strcmp(verb, "cancel") && strcmp(verb, "pause") &&
        strcmp(verb, "resume") && strcmp(verb, "compare"))
        return cmd_usage(&c, "\"%s\" is nothing to do so; see the usage", verb);
    snprintf(tail, sizeof(tail), "/%s", verb);
    return on_id(&c, "POST", "/v1/jobs", argv[optind + 1], tail, record,
                 print_job);
}
