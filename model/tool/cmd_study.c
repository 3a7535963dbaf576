/* tscaf-model study: the paper's tables, a training at a time. Each training is
 * a `tscaf-model train` of its own, which resumes from its checkpoint; what it
 * came to lies in the work folder as RUN.json, so that a study that was killed
 * goes on where it was. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "model/tool/cmd.h"
#include "model/tool/study.h"

static const char help[] =
    "usage: tscaf-model study --work DIR --report FILE [OPTIONS] -- TRAIN "
    "OPTIONS\n"
    "\n"
    "Trains the rows of the paper's tables, tests each, and writes FILE, as "
    "markdown,\n"
    "after every one. TRAIN OPTIONS are those of `tscaf-model train`: data, "
    "steps,\n"
    "batch and so on; model, seed, mode and precision are set by the study. "
    "Stopped\n"
    "or killed, the same line goes on.\n"
    "\n"
    "  --networks LIST     mobilenetv2, iresnet50, mobilenetv2:0.5 (a width); "
    "Table 2\n"
    "                      takes all, the others the first (mobilenetv2)\n"
    "  --seeds LIST        a training for each (1)\n"
    "  --dim N             numbers of an embedding (512)\n"
    "  --tables LIST       1 sizes, 2 the full network, 3 attention, 4 "
    "alternating\n"
    "                      against accumulation, 5 tree against parallel "
    "(1,2,3,4,5)\n"
    "  --test-fatigue DATA, --pairs FILE, --pictures DIR, --faces DATA\n"
    "                      what is tested on, as in eval; at least one\n"
    "  --precision P       of trainings that begin, float32 or bfloat16: what "
    "the\n"
    "                      machine is good at; FILE tells which had which "
    "(float32)\n"
    "  --backend NAME      of the tests\n"
    "\n"
    "DIR keeps a model, a log for `plot training`, and figures of every "
    "training.\n";

extern char **environ;

static volatile sig_atomic_t stopped;
static volatile pid_t child;

/* The training is told too: it writes its checkpoint. */
static void on_signal(int number)
{
    stopped = 1;
    if (child > 0)
        kill(child, number);
}

/* ---- the list ---- */

static enum ut_err add(struct study *s, const char *network, const char *module,
                       bool parallel, int tenths, struct ut_error *e)
{
    char mode[16] = "alternate";

    if (tenths)
        snprintf(mode, sizeof(mode), "accumulate0.%d", tenths);
    for (int i = 0; i < s->n_seeds; i++) {
        struct study_run r = {
            .parallel = parallel, .weight = tenths / 10.0, .seed = s->seeds[i]};
        bool known = false;

        snprintf(r.network, sizeof(r.network), "%s", network);
        snprintf(r.module, sizeof(r.module), "%s", module);
        snprintf(r.row, sizeof(r.row), "%s-%s-%s", module,
                 parallel ? "parallel" : "tree", mode);
        snprintf(r.id, sizeof(r.id), "%s-%s-s%d", network, r.row, r.seed);
        for (int k = 0; k < s->n_runs; k++)
            known |= !strcmp(s->runs[k].id, r.id);
        if (known)
            continue;
        if (s->n_runs == STUDY_RUNS)
            return ut_fail(e, UT_EINVAL, "over %d trainings", STUDY_RUNS);
        s->runs[s->n_runs++] = r;
    }
    return UT_OK;
}

static enum ut_err list_runs(struct study *s, struct ut_error *e)
{
    static const char *const modules[] = {"none", "la", "se", "lase"};
    const char *first = s->networks[0];
    enum ut_err rc = UT_OK;

    for (int i = 0; i < s->n_networks && s->tables[2] && !rc; i++)
        rc = add(s, s->networks[i], "lase", false, 0, e);
    for (int i = 0; i < 4 && s->tables[3] && !rc; i++)
        rc = add(s, first, modules[i], false, 0, e);
    for (int w = 0; w <= 9 && s->tables[4] && !rc; w++)
        rc = add(s, first, "lase", false, w, e);
    for (int i = 0; i < 2 && s->tables[5] && !rc; i++)
        rc = add(s, first, "lase", i, 0, e);
    return rc;
}

/* ---- the work folder ---- */

static void path_of(const struct study *s, const char *name, const char *end,
                    char out[4096])
{
    snprintf(out, 4096, "%.3900s/%.100s%s", s->work, name, end);
}

static enum ut_err write_text(const char *path, const char *text,
                              struct ut_error *e)
{
    char part[4200];
    FILE *f;
    bool ok;

    snprintf(part, sizeof(part), "%s.part", path);
    f = fopen(part, "w");
    ok = f && fputs(text, f) >= 0;
    if (f && fclose(f))
        ok = false;
    return ok && !rename(part, path)
               ? UT_OK
               : ut_fail(e, UT_EIO, "%.150s: cannot be written: %m", path);
}

/* One study at a time in a folder. A training inherits the lock: one that
 * outlives a killed study keeps the next from training beside it. */
static enum ut_err lock(const struct study *s, struct ut_error *e)
{
    char path[4096];
    int fd;

    if (mkdir(s->work, 0777) && errno != EEXIST)
        return ut_fail(e, UT_EIO, "%.150s: %m", s->work);
    path_of(s, "lock", "", path);
    fd = open(path, O_RDWR | O_CREAT, 0666);
    if (fd < 0)
        return ut_fail(e, UT_EIO, "%.150s: %m", path);
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        close(fd);
        return ut_fail(e, UT_EBUSY,
                       "%.150s: another study, or its last training, is at "
                       "work here",
                       s->work);
    }
    return UT_OK; /* held until the end */
}

/* A folder belongs to one set of options: rows must be comparable. */
static enum ut_err check_settings(const struct study *s, struct ut_error *e)
{
    const char *tests[] = {s->tests.fatigue, s->tests.pairs, s->tests.pictures,
                           s->tests.faces};
    struct ut_buf now, before;
    char path[4096];
    enum ut_err rc = UT_OK;

    ut_buf_init(&now, 1 << 20);
    ut_buf_init(&before, 1 << 20);
    for (int i = 0; i < s->n_train && !rc; i++)
        rc = ut_buf_addf(&now, e, "%s\n", s->train[i]);
    for (int i = 0; i < 4 && !rc; i++)
        rc = ut_buf_addf(&now, e, "test %s\n", tests[i] ? tests[i] : "-");
    if (!rc)
        rc = ut_buf_addf(&now, e, "dim %d\n", s->dim);
    path_of(s, "settings", "", path);
    if (!rc && access(path, F_OK))
        rc = write_text(path, now.data, e);
    else if (!rc)
        rc = ut_buf_add_file(&before, path, e);
    if (!rc && before.data && strcmp(before.data, now.data))
        rc = ut_fail(e, UT_EINVAL,
                     "%.150s: was begun with other options; see its file "
                     "\"settings\"",
                     s->work);
    ut_buf_fini(&now);
    ut_buf_fini(&before);
    return rc;
}

static enum ut_err write_base(const struct study *s, const struct study_run *r,
                              const char *path, struct ut_error *e)
{
    struct mdl_st_pair meta[] = {{"name", r->id}, {"trained", "false"}};
    struct mdl_spec *spec = malloc(sizeof(*spec));
    struct mdl_model m = {0};
    enum ut_err rc =
        spec ? study_spec(r->network, r->module, r->parallel, s->dim, spec, e)
             : ut_fail(e, UT_ENOMEM, "no memory");

    if (!rc)
        rc = mdl_model_fresh(spec, (uint64_t)r->seed, &m, e);
    if (!rc)
        rc = mdl_model_write(path, &m.spec, &m.graph, meta, 2, NULL, 0, e);
    mdl_model_close(&m);
    free(spec);
    return rc;
}

/* ---- one training ---- */

/* Runs `tscaf-model ARGV` with its output appended to log. */
static enum ut_err run_child(char *const *argv, const char *log, int *code,
                             struct ut_error *e)
{
    posix_spawn_file_actions_t a;
    int failed = posix_spawn_file_actions_init(&a), status;
    pid_t pid;

    if (failed)
        return ut_fail(e, UT_ENOMEM, "no memory to start a training");
    posix_spawn_file_actions_addopen(&a, STDOUT_FILENO, log,
                                     O_WRONLY | O_CREAT | O_APPEND, 0666);
    failed = posix_spawn(&pid, "/proc/self/exe", &a, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&a);
    if (failed)
        return ut_fail(e, UT_EIO, "a training cannot be started: %s",
                       strerror(failed));
    child = pid;
    if (stopped) /* between the last look and child's being set */
        kill(pid, SIGTERM);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return ut_fail(e, UT_EIO, "waiting for a training: %m");
    child = 0;
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return UT_OK;
}

/* What a training was begun in, it is in to its end. */
static enum ut_err begun_in(const struct study *s, const struct study_run *r,
                            enum mdl_precision *out, struct ut_error *e)
{
    char path[4096];
    struct ut_buf text;
    enum ut_err rc = UT_OK;
    int precision;

    ut_buf_init(&text, 64);
    path_of(s, r->id, ".precision", path);
    if (access(path, F_OK))
        rc = write_text(path, mdl_precision_name(s->precision), e);
    if (!rc)
        rc = ut_buf_add_file(&text, path, e);
    precision = rc ? 0 : mdl_precision_parse(text.data ? text.data : "");
    if (!rc && precision < 0)
        rc = ut_fail(e, UT_EINVAL, "%.150s: is not a precision", path);
    *out = (enum mdl_precision)precision;
    ut_buf_fini(&text);
    return rc;
}

/* The study's own options come last: they win. */
static enum ut_err train(const struct study *s, const struct study_run *r,
                         enum mdl_precision precision, const char *out,
                         struct ut_error *e)
{
    char base[4096], log[4096], seed[16], weight[16];
    const char *own[] = {
        "--model",     base,
        "--out",       out,
        "--name",      r->id,
        "--seed",      seed,
        "--mode",      r->weight > 0 ? "accumulate" : "alternate",
        "--weight",    weight,
        "--precision", mdl_precision_name(precision),
        "--resume",    "--json"};
    int n_own = (int)(sizeof(own) / sizeof(own[0])), code = 0;
    char **argv = calloc((size_t)(s->n_train + n_own) + 3, sizeof(*argv));
    enum ut_err rc = UT_OK;

    if (!argv)
        return ut_fail(e, UT_ENOMEM, "no memory to start a training");
    path_of(s, r->id, ".base", base);
    path_of(s, r->id, ".log", log);
    snprintf(seed, sizeof(seed), "%d", r->seed);
    snprintf(weight, sizeof(weight), "%g", r->weight > 0 ? r->weight : 0.5);
    argv[0] = (char *)(uintptr_t) "tscaf-model";
    argv[1] = (char *)(uintptr_t) "train";
    memcpy(argv + 2, s->train, (size_t)s->n_train * sizeof(*argv));
    for (int i = 0; i < n_own; i++)
        argv[2 + s->n_train + i] = (char *)(uintptr_t)own[i];
    if (access(base, F_OK))
        rc = write_base(s, r, base, e);
    if (!rc)
        rc = run_child(argv, log, &code, e);
    if (!rc && code)
        rc = ut_fail(e, UT_ESTATE, "%.90s: the training ended with %d", r->id,
                     code);
    if (!rc)
        unlink(base);
    free(argv);
    return rc;
}

static enum ut_err test(const struct study *s, const char *path, json_t *into,
                        struct ut_error *e)
{
    struct mdl_evaluator *v = NULL;
    struct mdl_model m;
    json_t *o = NULL;
    enum ut_err rc = mdl_model_open(path, &m, e);

    if (!rc)
        rc = mdl_evaluator_new(&m, s->backend, MDL_PREC_F32, 0, &v, e);
    if (!rc && s->tests.fatigue) {
        rc = tool_figures_fatigue(v, &m, &s->tests, &o, e);
        json_object_set_new(into, "fatigue", o);
    }
    if (!rc && s->tests.pairs) {
        rc = tool_figures_pairs(v, &s->tests, &o, e);
        json_object_set_new(into, "pairs", o);
    }
    if (!rc && s->tests.faces) {
        rc = tool_figures_faces(v, &s->tests, &o, e);
        json_object_set_new(into, "faces", o);
    }
    if (!rc)
        json_object_set_new(into, "version", json_string(m.version));
    mdl_evaluator_free(v);
    mdl_model_close(&m);
    return rc;
}

/* From whatever is there already to the figures. */
static enum ut_err do_run(const struct study *s, struct study_run *r,
                          struct ut_error *e)
{
    char model[4096], figures[4096], *text;
    enum mdl_precision precision;
    enum ut_err rc;
    json_t *o;

    path_of(s, r->id, ".safetensors", model);
    path_of(s, r->id, ".json", figures);
    r->figures = json_load_file(figures, 0, NULL);
    if (r->figures)
        return UT_OK;
    rc = begun_in(s, r, &precision, e);
    if (!rc && access(model, F_OK))
        rc = train(s, r, precision, model, e);
    if (rc)
        return rc;
    o = json_pack("{s:s}", "precision", mdl_precision_name(precision));
    rc = test(s, model, o, e);
    text = rc ? NULL : json_dumps(o, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    if (!rc)
        rc = text ? write_text(figures, text, e)
                  : ut_fail(e, UT_ENOMEM, "no memory for figures");
    free(text);
    if (rc)
        json_decref(o);
    else
        r->figures = o;
    return rc;
}

static enum ut_err study(struct study *s, struct ut_error *e)
{
    enum ut_err rc = list_runs(s, e);

    if (!rc)
        rc = lock(s, e);
    if (!rc)
        rc = check_settings(s, e);
    if (!rc)
        rc = study_write_report(s, e);
    for (int i = 0; i < s->n_runs && !rc && !stopped; i++) {
        fprintf(stderr, "study: %d of %d, %s\n", i + 1, s->n_runs,
                s->runs[i].id);
        rc = do_run(s, &s->runs[i], e);
        if (!rc)
            rc = study_write_report(s, e);
    }
    return rc;
}

/* ---- options ---- */

static bool set_networks(struct study *s, const char *text)
{
    struct mdl_spec *spec = malloc(sizeof(*spec));
    char copy[256], *at = copy, *one;
    bool ok = spec && strlen(text) < sizeof(copy);
    struct ut_error e;

    s->n_networks = 0;
    snprintf(copy, sizeof(copy), "%s", text);
    while (ok && (one = strsep(&at, ","))) {
        ok = s->n_networks < STUDY_NETWORKS && *one &&
             strlen(one) < sizeof(s->networks[0]) && !strchr(one, '/') &&
             !study_spec(one, "lase", false, 512, spec, &e);
        if (ok)
            snprintf(s->networks[s->n_networks++], sizeof(s->networks[0]), "%s",
                     one);
    }
    free(spec);
    return ok;
}

/* Whole numbers between commas; how many, or 0. */
static int numbers(const char *text, int least, int most, int *out, int max)
{
    int n = 0;

    for (const char *at = text; n < max; at++) {
        char *end;
        long v = strtol(at, &end, 10);

        if (end == at || v < least || v > most)
            return 0;
        out[n++] = (int)v;
        if (!*end)
            return n;
        if (*end != ',')
            return 0;
        at = end;
    }
    return 0;
}

static bool set(struct study *s, int option, const char *text)
{
    int list[STUDY_TABLES], n;

    switch (option) {
    case 'w':
        s->work = text;
        return true;
    case 'o':
        s->report = text;
        return true;
    case 'n':
        return set_networks(s, text);
    case 's':
        s->n_seeds = numbers(text, 0, 1000000, s->seeds, STUDY_SEEDS);
        return s->n_seeds;
    case 'D':
        return numbers(text, 2, 4096, &s->dim, 1);
    case 't':
        n = numbers(text, 1, STUDY_TABLES, list, STUDY_TABLES);
        memset(s->tables, 0, sizeof(s->tables));
        for (int i = 0; i < n; i++)
            s->tables[list[i]] = true;
        return n;
    case 'f':
        s->tests.fatigue = text;
        return true;
    case 'p':
        s->tests.pairs = text;
        return true;
    case 'd':
        s->tests.pictures = text;
        return true;
    case 'i':
        s->tests.faces = text;
        return true;
    case 'P':
        n = mdl_precision_parse(text);
        s->precision = (enum mdl_precision)n;
        return n == MDL_PREC_F32 || n == MDL_PREC_BF16;
    case 'b':
        s->backend = text;
        return true;
    default:
        return false;
    }
}

static int parse(struct study *s, int argc, char **argv)
{
    static const struct option options[] = {
        {"work", required_argument, NULL, 'w'},
        {"report", required_argument, NULL, 'o'},
        {"networks", required_argument, NULL, 'n'},
        {"seeds", required_argument, NULL, 's'},
        {"dim", required_argument, NULL, 'D'},
        {"tables", required_argument, NULL, 't'},
        {"test-fatigue", required_argument, NULL, 'f'},
        {"pairs", required_argument, NULL, 'p'},
        {"pictures", required_argument, NULL, 'd'},
        {"faces", required_argument, NULL, 'i'},
        {"precision", required_argument, NULL, 'P'},
        {"backend", required_argument, NULL, 'b'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int c, index;

    while ((c = getopt_long(argc, argv, "+", options, &index)) != -1) {
        if (c == 'h')
            return fputs(help, stdout) < 0;
        if (c == '?')
            return 2;
        if (!set(s, c, optarg)) {
            fprintf(stderr, "tscaf-model study: --%s cannot be \"%s\"\n",
                    options[index].name, optarg);
            return 2;
        }
    }
    s->train = argv + optind;
    s->n_train = argc - optind;
    for (int i = 0; i < s->n_train; i++)
        if (!strncmp(s->train[i], "--precision", 11)) {
            fprintf(stderr, "tscaf-model study: --precision stands before "
                            "--, as the study may change it\n");
            return 2;
        }
    if (!s->work || !s->report || !s->n_train ||
        (!s->tests.fatigue && !s->tests.pairs && !s->tests.faces)) {
        fputs(help, stderr);
        return 2;
    }
    return -1;
}

int cmd_study(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    struct study *s = calloc(1, sizeof(*s));
    struct ut_error e = {0};
    enum ut_err rc;
    int code;

    if (!s)
        return 1;
    *s = (struct study){.networks = {"mobilenetv2"},
                        .n_networks = 1,
                        .seeds = {1},
                        .n_seeds = 1,
                        .dim = 512,
                        .precision = MDL_PREC_F32,
                        .tables = {false, true, true, true, true, true},
                        .tests.false_match_rate = 1e-3};
    code = parse(s, argc, argv);
    if (code < 0) {
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        rc = study(s, &e);
        code = stopped ? 3 : rc ? cmd_fail(&e) : 0;
        if (stopped)
            fprintf(stderr, "study: stopped; the same line goes on\n");
    }
    for (int i = 0; i < s->n_runs; i++)
        json_decref(s->runs[i].figures);
    free(s);
    return code;
}
