/* tscaf enroll: a folder per identity into the gallery. Identities are found
 * again by their external id, the folder's name; enrolled pictures by the
 * journal, which is believed only where the server still has the face. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/escape.h"
#include "api/json.h"
#include "base/clock.h"
#include "client/pictures.h"
#include "client/tool/cmd.h"
#include "client/tool/journal.h"

#define MAX_PARALLEL 256
#define JOURNAL ".tscaf-enrolled"

static const char help[] =
    "usage: tscaf enroll [OPTIONS] DIR\n"
    "\n"
    "Every folder in DIR becomes an identity: its name is the folder's, its\n"
    "external id too, and every picture below it is enrolled. Run it again "
    "and it\n"
    "goes on: identities that exist are used, pictures that are enrolled are\n"
    "left out. What is refused is reported with its reason. Interrupted, it "
    "waits\n"
    "for the requests that are on their way; twice, it does not.\n"
    "\n"
    "  --input frame|crop   camera frames, or aligned faces (frame)\n"
    "  --force              enrol poor faces and look-alikes too\n"
    "  --consent-ref TEXT   where the persons' consent is recorded\n"
    "  --parallel N         requests on their way at once (4)\n"
    "  --journal FILE       what was enrolled (DIR/" JOURNAL ")\n"
    "  --no-progress        no progress bar (there is none without a "
    "terminal)\n"
    "\n"
    "--json prints a line for each picture: path, identity_id, and face_id or\n"
    "error. Exit code 1 if a picture was refused, 3 if one got no answer in "
    "time or\n"
    "the server was overloaded. A refused key ends it with 4.\n";

static const struct option options[] = {
    {"input", required_argument, NULL, 'i'},
    {"force", no_argument, NULL, 'f'},
    {"consent-ref", required_argument, NULL, 'c'},
    {"parallel", required_argument, NULL, 'p'},
    {"journal", required_argument, NULL, 'j'},
    {"no-progress", no_argument, NULL, 'n'},
    CMD_OPTIONS,
    {0},
};

/* A folder. Its requests run one after another until its identity is known;
 * then its pictures join the queue of all. */
struct person {
    struct enrolment *all;
    char *name;
    char id[64];
    char cursor[64];
    struct cl_pictures files;
    bool *enrolled; /* by file: the server has it */
};

struct picture {
    struct person *person;
    int file;
    char *bytes; /* while it is sent */
};

struct enrolment {
    struct cmd cmd;
    struct cl_client *client;
    const char *dir, *input, *consent, *journal_path;
    struct journal journal;
    bool force, progress;
    int parallel, exit;

    struct person *people;
    int n_people, next_person;
    struct picture *ready; /* pictures whose identity is known */
    int n_ready, cap_ready, next_ready;

    int n_pictures, enrolled, kept, refused;
    struct ut_buf report; /* a line for each refusal */
    int64_t started_us;
    enum ut_err rc; /* what stops all: memory, the server's refusal */
    struct ut_error e;
};

static const char *relative(const struct enrolment *all, const char *path)
{
    size_t n = strlen(all->dir);

    return !strncmp(path, all->dir, n) ? path + n + strspn(path + n, "/")
                                       : path;
}

/* ---- telling ---- */

static void show_progress(const struct enrolment *all)
{
    int done = all->enrolled + all->kept + all->refused;
    double s = (double)(ut_clock_us() - all->started_us) / 1e6;
    double rate = s > 0 ? done / s : 0;
    char bar[31];

    if (!all->progress)
        return;
    for (int i = 0; i < 30; i++)
        bar[i] = (int64_t)i * all->n_pictures < (int64_t)30 * done ? '#' : '.';
    bar[30] = '\0';
    fprintf(stderr, "\r[%s] %d/%d  %d refused  %.0f/s  %.0f s left   ", bar,
            done, all->n_pictures, all->refused, rate,
            rate > 0 ? (all->n_pictures - done) / rate : 0.0);
}

static void tell(struct enrolment *all, const struct person *p,
                 const char *path, const char *face,
                 const struct api_error *err)
{
    struct ut_buf line;
    struct ut_error e;
    char *error = NULL;

    if (!all->cmd.json)
        return;
    ut_buf_init(&line, 1 << 20);
    if (ut_buf_addf(&line, &e, "{\"path\":") ||
        api_escape(&line, relative(all, path), &e) ||
        ut_buf_addf(&line, &e, ",\"identity_id\":\"%s\",", p->id) ||
        (err && api_error_json(err, &error, &e)) ||
        (err ? ut_buf_addf(&line, &e, "\"error\":%s}\n", error)
             : ut_buf_addf(&line, &e, "\"face_id\":\"%s\"}\n", face)))
        fprintf(stderr, "tscaf enroll: %s\n", e.msg);
    else
        fputs(line.data, stdout);
    free(error);
    ut_buf_fini(&line);
}

static void refuse(struct enrolment *all, const struct person *p,
                   const char *path, const struct api_error *err)
{
    int code = cmd_exit_of_one(err);
    struct ut_error e;

    all->refused++;
    if (all->exit < code)
        all->exit = code;
    tell(all, p, path, NULL, err);
    if (ut_buf_addf(&all->report, &e, "  %s: %s: %s%s%s%s\n",
                    relative(all, path), api_code_name(err->code), err->message,
                    err->reason[0] ? " (" : "", err->reason,
                    err->reason[0] ? ")" : ""))
        fprintf(stderr, "tscaf enroll: the report is full: %s\n", e.msg);
    show_progress(all);
}

/* Nothing new is started from then on; the first error is the one told. */
static void stop(struct enrolment *all, enum ut_err rc,
                 const struct ut_error *e)
{
    if (!rc || all->rc)
        return;
    all->rc = rc;
    all->e = *e;
}

/* True, and everything stops, where going on would only repeat the error. */
static bool fatal(struct enrolment *all, const struct cl_answer *a)
{
    bool no_server = !a->status && a->err.code == API_UNAVAILABLE;
    struct ut_error e;

    if (!no_server && a->err.code != API_UNAUTHENTICATED &&
        a->err.code != API_PERMISSION_DENIED &&
        a->err.code != API_FAILED_PRECONDITION)
        return false;
    if (!all->rc)
        all->exit = cmd_exit_of(&a->err);
    stop(all,
         ut_fail(&e, UT_ESTATE, "%s: %s", api_code_name(a->err.code),
                 a->err.message),
         &e);
    return true;
}

/* ---- a person: create or find, then list the faces ---- */

static void on_created(void *ctx, struct cl_answer *a);
static void on_found(void *ctx, struct cl_answer *a);
static void on_faces(void *ctx, struct cl_answer *a);

static void person_fail(struct person *p, const struct cl_answer *a)
{
    if (fatal(p->all, a))
        return;
    for (int i = 0; i < p->files.n; i++)
        refuse(p->all, p, p->files.paths[i], &a->err);
}

static void get(struct person *p, struct ut_buf *path, cl_done *done)
{
    struct cl_request r = {.method = "GET", .path = path->data};
    struct ut_error e;

    if (!p->all->rc)
        stop(p->all, cl_start(p->all->client, &r, done, p, &e), &e);
    ut_buf_fini(path);
}

static void person_start(struct person *p)
{
    struct enrolment *all = p->all;
    Tscaf__V1__CreateIdentityRequest m =
        TSCAF__V1__CREATE_IDENTITY_REQUEST__INIT;
    struct cl_request r = {
        .method = "POST", .path = "/v1/identities", .type = "application/json"};
    struct cl_answer a;
    struct ut_error e;
    char *json = NULL;
    enum ut_err rc;

    m.name = m.external_id = p->name;
    m.consent_ref = (char *)(uintptr_t)all->consent;
    rc = api_json_write(&m.base, API_JSON_REST, &json, &r.len, &e);
    r.body = json;
    /* Small enough to wait for: the body need not outlive this call. */
    if (!rc)
        rc = cl_call(all->client, &r, &a, &e);
    free(json);
    stop(all, rc, &e);
    if (!rc) {
        on_created(p, &a);
        free(a.body);
    }
}

static void find(struct person *p)
{
    struct ut_buf path;
    struct ut_error e;
    enum ut_err rc;

    ut_buf_init(&path, 4096);
    rc = ut_buf_addf(&path, &e, "/v1/identities");
    if (!rc)
        rc = cl_path_query(&path, "query", p->name, &e);
    if (!rc)
        rc = cl_path_query(&path, "limit", "500", &e);
    if (!rc && p->cursor[0])
        rc = cl_path_query(&path, "cursor", p->cursor, &e);
    stop(p->all, rc, &e);
    get(p, &path, on_found);
}

static void queue_pictures(struct person *p)
{
    struct enrolment *all = p->all;

    for (int i = 0; i < p->files.n; i++) {
        if (p->enrolled[i]) {
            all->kept++;
            show_progress(all);
            continue;
        }
        all->ready[all->n_ready++] = (struct picture){.person = p, .file = i};
    }
}

static void on_created(void *ctx, struct cl_answer *a)
{
    struct person *p = ctx;
    struct api_error err;
    ProtobufCMessage *m;

    if (!a->ok && a->err.code == API_ALREADY_EXISTS) {
        find(p);
    } else if (!a->ok) {
        person_fail(p, a);
    } else if (api_json_read_answer(&tscaf__v1__identity_record__descriptor,
                                    a->body, a->len, &m, &err)) {
        a->err = err;
        person_fail(p, a);
    } else {
        snprintf(p->id, sizeof(p->id), "%s",
                 ((const Tscaf__V1__IdentityRecord *)m)->id);
        protobuf_c_message_free_unpacked(m, NULL);
        queue_pictures(p);
    }
}

static void on_found(void *ctx, struct cl_answer *a)
{
    struct person *p = ctx;
    const Tscaf__V1__ListIdentitiesResponse *r;
    ProtobufCMessage *m;
    struct ut_buf path;
    struct ut_error e;

    if (!a->ok ||
        api_json_read_answer(&tscaf__v1__list_identities_response__descriptor,
                             a->body, a->len, &m, &a->err)) {
        person_fail(p, a);
        return;
    }
    r = (const Tscaf__V1__ListIdentitiesResponse *)m;
    for (size_t i = 0; i < r->n_identities && !p->id[0]; i++)
        if (!strcmp(r->identities[i]->external_id, p->name))
            snprintf(p->id, sizeof(p->id), "%s", r->identities[i]->id);
    snprintf(p->cursor, sizeof(p->cursor), "%s", r->next_cursor);
    protobuf_c_message_free_unpacked(m, NULL);

    if (!p->id[0] && p->cursor[0]) {
        find(p);
    } else if (!p->id[0]) {
        api_fail(&a->err, API_NOT_FOUND,
                 "an identity with external id \"%.100s\" exists, but cannot "
                 "be found",
                 p->name);
        person_fail(p, a);
    } else {
        ut_buf_init(&path, 4096);
        stop(p->all, ut_buf_addf(&path, &e, "/v1/identities/%s/faces", p->id),
             &e);
        get(p, &path, on_faces);
    }
}

static void on_faces(void *ctx, struct cl_answer *a)
{
    struct person *p = ctx;
    const Tscaf__V1__ListFacesResponse *r;
    ProtobufCMessage *m;

    if (!a->ok ||
        api_json_read_answer(&tscaf__v1__list_faces_response__descriptor,
                             a->body, a->len, &m, &a->err)) {
        person_fail(p, a);
        return;
    }
    r = (const Tscaf__V1__ListFacesResponse *)m;
    for (int i = 0; i < p->files.n; i++) {
        const struct journal_entry *x =
            journal_find(&p->all->journal, relative(p->all, p->files.paths[i]));

        for (size_t k = 0; x && k < r->n_faces && !p->enrolled[i]; k++)
            p->enrolled[i] = !strcmp(x->face, r->faces[k]->id);
    }
    protobuf_c_message_free_unpacked(m, NULL);
    queue_pictures(p);
}

/* ---- a picture ---- */

static void on_enrolled(void *ctx, struct cl_answer *a)
{
    struct picture *x = ctx;
    struct person *p = x->person;
    struct enrolment *all = p->all;
    const char *path = p->files.paths[x->file];
    ProtobufCMessage *m;
    struct ut_error e;

    free(x->bytes);
    x->bytes = NULL;
    if (!a->ok) {
        if (!fatal(all, a))
            refuse(all, p, path, &a->err);
        return;
    }
    if (api_json_read_answer(&tscaf__v1__face_record__descriptor, a->body,
                             a->len, &m, &a->err)) {
        refuse(all, p, path, &a->err);
        return;
    }
    all->enrolled++;
    stop(all,
         journal_add(&all->journal, ((Tscaf__V1__FaceRecord *)m)->id, p->id,
                     relative(all, path), &e),
         &e);
    tell(all, p, path, ((Tscaf__V1__FaceRecord *)m)->id, NULL);
    protobuf_c_message_free_unpacked(m, NULL);
    show_progress(all);
}

static void picture_start(struct picture *x)
{
    struct person *p = x->person;
    struct enrolment *all = p->all;
    struct cl_request r = {.method = "POST"};
    struct api_error err;
    struct ut_buf path;
    struct ut_error e;
    enum ut_err rc;

    if (strchr(relative(all, p->files.paths[x->file]), '\n'))
        rc =
            ut_fail(&e, UT_EINVAL,
                    "a path with a newline cannot be in the journal, and would "
                    "be enrolled again and again");
    else
        rc = cl_picture_read(p->files.paths[x->file], &x->bytes, &r.len,
                             &r.type, &e);
    if (rc && rc != UT_ENOMEM) {
        api_fail(&err, API_INVALID_ARGUMENT, "%s", e.msg);
        refuse(all, p, p->files.paths[x->file], &err);
        return;
    }
    r.body = x->bytes;
    ut_buf_init(&path, 4096);
    if (!rc)
        rc = ut_buf_addf(&path, &e, "/v1/identities/%s/faces", p->id);
    if (!rc && all->input)
        rc = cl_path_query(&path, "input", all->input, &e);
    if (!rc && all->force)
        rc = cl_path_query(&path, "force", "true", &e);
    r.path = path.data;
    if (!rc)
        rc = cl_start(all->client, &r, on_enrolled, x, &e);
    ut_buf_fini(&path);
    stop(all, rc, &e);
}

/* ---- all of it ---- */

/* Folders of dir, each with its pictures. */
static enum ut_err find_people(struct enrolment *all)
{
    struct dirent **entries;
    enum ut_err rc = UT_OK;
    int n = scandir(all->dir, &entries, NULL, alphasort);

    if (n < 0)
        return ut_fail(&all->e, UT_EIO, "%.150s: %s", all->dir,
                       strerror(errno));
    all->people = calloc((size_t)n + 1, sizeof(*all->people));
    if (!all->people)
        rc = ut_fail(&all->e, UT_ENOMEM, "no memory");
    for (int i = 0; i < n; i++) {
        struct person *p = rc ? NULL : &all->people[all->n_people];
        char path[4096];
        DIR *d = NULL;

        if (p && entries[i]->d_name[0] != '.' &&
            snprintf(path, sizeof(path), "%s/%s", all->dir,
                     entries[i]->d_name) < (int)sizeof(path))
            d = opendir(path);
        if (d) {
            closedir(d);
            p->all = all;
            p->name = strdup(entries[i]->d_name);
            rc = cl_pictures_add(&p->files, path, &all->e);
            p->enrolled = calloc((size_t)p->files.n + 1, sizeof(bool));
            if (!rc && (!p->enrolled || !p->name))
                rc = ut_fail(&all->e, UT_ENOMEM, "no memory");
            all->n_pictures += p->files.n;
            all->n_people++;
        }
        free(entries[i]);
    }
    free(entries);
    if (!rc && !all->n_pictures)
        rc = ut_fail(&all->e, UT_EINVAL,
                     "%.150s: has no folder with pictures; there must be one "
                     "for each identity",
                     all->dir);
    all->ready = calloc((size_t)all->n_pictures + 1, sizeof(*all->ready));
    if (!rc && !all->ready)
        rc = ut_fail(&all->e, UT_ENOMEM, "no memory");
    return rc;
}

static volatile sig_atomic_t interrupted; /* by this signal */

static void on_signal(int signum)
{
    interrupted = signum;
}

/* Once: the second time it ends the program at once. */
static void heed(int signum)
{
    struct sigaction ours = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND},
                     old;

    if (!sigaction(signum, NULL, &old) && old.sa_handler != SIG_IGN)
        sigaction(signum, &ours, NULL);
}

static void run(struct enrolment *all)
{
    struct ut_error e;

    all->started_us = ut_clock_us();
    heed(SIGINT);
    heed(SIGTERM);
    while (!all->rc) {
        while (!all->rc && !interrupted &&
               cl_busy(all->client) < all->parallel) {
            if (all->next_ready < all->n_ready)
                picture_start(&all->ready[all->next_ready++]);
            else if (all->next_person < all->n_people) {
                struct person *p = &all->people[all->next_person++];

                if (p->files.n)
                    person_start(p);
            } else
                break;
        }
        if (interrupted)
            stop(all, ut_fail(&e, UT_ESTATE, "interrupted"), &e);
        if (all->rc ||
            (!cl_busy(all->client) && all->next_person == all->n_people &&
             all->next_ready == all->n_ready))
            break;
        stop(all, cl_wait(all->client, 1000, &e), &e);
    }
    /* What is on its way may be stored: the journal has to know. */
    while (cl_busy(all->client) && !cl_wait(all->client, 1000, &e))
        ;
}

static int parse(struct enrolment *all, int argc, char **argv)
{
    int c, code;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'i':
            all->input = optarg;
            break;
        case 'f':
            all->force = true;
            break;
        case 'c':
            all->consent = optarg;
            break;
        case 'p':
            all->parallel = (int)cmd_number(&all->cmd, "--parallel", optarg, 1,
                                            MAX_PARALLEL);
            if (all->parallel < 0)
                return CMD_USAGE;
            break;
        case 'j':
            all->journal_path = optarg;
            break;
        case 'n':
            all->progress = false;
            break;
        default:
            code = cmd_option(&all->cmd, c);
            if (code >= 0)
                return code;
        }
    }
    if (optind + 1 != argc)
        return cmd_usage(&all->cmd, "there must be one DIR");
    all->dir = argv[optind];
    return -1;
}

static void enrolment_fini(struct enrolment *all)
{
    cl_close(all->client);
    journal_close(&all->journal);
    for (int i = 0; all->ready && i < all->n_ready; i++)
        free(all->ready[i].bytes);
    for (int i = 0; i < all->n_people; i++) {
        free(all->people[i].name);
        free(all->people[i].enrolled);
        cl_pictures_fini(&all->people[i].files);
    }
    free(all->ready);
    free(all->people);
    ut_buf_fini(&all->report);
}

int cmd_enroll(int argc, char **argv)
{
    struct enrolment all = {
        .parallel = 4, .consent = "", .progress = isatty(STDERR_FILENO)};
    char beside[4096];
    int code;

    cmd_init(&all.cmd, "enroll", help);
    ut_buf_init(&all.report, 64u << 20);
    code = parse(&all, argc, argv);
    if (code >= 0)
        return code;
    if (!all.journal_path) {
        snprintf(beside, sizeof(beside), "%s/%s", all.dir, JOURNAL);
        all.journal_path = beside;
    }
    all.rc = find_people(&all);
    if (!all.rc)
        all.rc = journal_open(&all.journal, all.journal_path, &all.e);
    if (!all.rc)
        all.rc = cl_open(&all.cmd.client, &all.client, &all.e);
    if (!all.rc) {
        run(&all);
        if (all.progress)
            fputc('\n', stderr);
        if (!all.cmd.json) {
            printf("%d identities: %d pictures enrolled, %d were already, %d "
                   "refused, %d left\n",
                   all.n_people, all.enrolled, all.kept, all.refused,
                   all.n_pictures - all.enrolled - all.kept - all.refused);
            fputs(all.report.data ? all.report.data : "", stdout);
        }
    }
    code = all.exit;
    if (all.rc) {
        int failed = cmd_fail(&all.cmd, &all.e);

        code = code > CMD_SOME ? code : failed;
    }
    enrolment_fini(&all);
    if (interrupted) { /* as whoever sent it expects */
        fflush(stdout);
        raise(interrupted);
    }
    return code;
}
