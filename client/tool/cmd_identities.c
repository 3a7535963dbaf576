/* tscaf identities: the gallery's identities and their faces. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/pictures.h"
#include "client/tool/cmd.h"

static const char help[] =
    "usage: tscaf identities list [--query TEXT] [--limit N] [--cursor C]\n"
    "       tscaf identities show ID\n"
    "       tscaf identities create NAME [--external-id X] [--consent-ref X]\n"
    "                                    [--metadata KEY=VALUE]...\n"
    "       tscaf identities update ID [--name X] [--external-id X]\n"
    "                               [--consent-ref X] [--metadata "
    "KEY=VALUE]...\n"
    "       tscaf identities delete ID\n"
    "       tscaf identities faces ID\n"
    "       tscaf identities add-face ID PICTURE [--input frame|crop] "
    "[--force]\n"
    "       tscaf identities delete-face ID FACE_ID\n"
    "       tscaf identities crop ID FACE_ID OUT.png\n"
    "\n"
    "list prints every page, or one of --limit from --cursor on. An empty "
    "VALUE\n"
    "removes the key.\n";

#define MAX_PAIRS 64

static const struct option options[] = {
    {"query", required_argument, NULL, 'q'},
    {"limit", required_argument, NULL, 'l'},
    {"cursor", required_argument, NULL, 'u'},
    {"name", required_argument, NULL, 'n'},
    {"external-id", required_argument, NULL, 'x'},
    {"consent-ref", required_argument, NULL, 'c'},
    {"metadata", required_argument, NULL, 'm'},
    {"input", required_argument, NULL, 'i'},
    {"force", no_argument, NULL, 'f'},
    CMD_OPTIONS,
    {0},
};

/* protobuf-c generates one pair type for each map. */
typedef Tscaf__V1__CreateIdentityRequest__MetadataEntry create_pair;
typedef Tscaf__V1__UpdateIdentityRequest__MetadataEntry update_pair;

struct arguments {
    struct cmd cmd;
    const char *query, *limit, *cursor, *name, *external_id, *consent, *input;
    bool force;
    char *keys[MAX_PAIRS], *values[MAX_PAIRS];
    int n_pairs;
    char **words; /* after the verb */
    int n_words;
    struct ut_buf path;
};

static void print_record(const Tscaf__V1__IdentityRecord *r)
{
    printf("%s  %u face%s  %s", r->id, r->face_count,
           r->face_count == 1 ? " " : "s", r->name);
    if (r->external_id[0])
        printf("  (%s)", r->external_id);
    putchar('\n');
}

static void print_one(const ProtobufCMessage *m)
{
    const Tscaf__V1__IdentityRecord *r = (const Tscaf__V1__IdentityRecord *)m;

    print_record(r);
    printf("  created %s, updated %s\n", r->created_at, r->updated_at);
    if (r->consent_ref[0])
        printf("  consent %s\n", r->consent_ref);
    for (size_t i = 0; i < r->n_metadata; i++)
        printf("  %s=%s\n", r->metadata[i]->key, r->metadata[i]->value);
}

static void print_face(const ProtobufCMessage *m)
{
    const Tscaf__V1__FaceRecord *f = (const Tscaf__V1__FaceRecord *)m;

    printf("%s  model %s  %s", f->id, f->model_version, f->created_at);
    for (size_t i = 0; i < f->n_quality_reasons; i++)
        printf("  %s", f->quality_reasons[i]);
    putchar('\n');
}

static void print_faces(const ProtobufCMessage *m)
{
    const Tscaf__V1__ListFacesResponse *r =
        (const Tscaf__V1__ListFacesResponse *)m;

    for (size_t i = 0; i < r->n_faces; i++)
        print_face(&r->faces[i]->base);
}

/* "/v1/identities[/a[/faces[/b]]]" in a->path. */
static enum ut_err make_path(struct arguments *a, const char *id,
                             const char *faces, const char *face,
                             struct ut_error *e)
{
    enum ut_err rc;

    ut_buf_fini(&a->path);
    ut_buf_init(&a->path, 4096);
    rc = ut_buf_addf(&a->path, e, "/v1/identities");
    if (!rc && id)
        rc = cl_path_segment(&a->path, id, e);
    if (!rc && faces)
        rc = cl_path_segment(&a->path, faces, e);
    if (!rc && face)
        rc = cl_path_segment(&a->path, face, e);
    return rc;
}

static int list(struct arguments *a)
{
    bool all = !a->limit && !a->cursor;
    char cursor[128] = "";
    struct cl_client *client = NULL;
    struct ut_error e;
    int code = CMD_OK;

    snprintf(cursor, sizeof(cursor), "%s", a->cursor ? a->cursor : "");
    if (cl_open(&a->cmd.client, &client, &e))
        return cmd_fail(&a->cmd, &e);
    do {
        struct cl_request r = {.method = "GET"};
        const Tscaf__V1__ListIdentitiesResponse *page;
        ProtobufCMessage *m = NULL;

        if (make_path(a, NULL, NULL, NULL, &e) ||
            cl_path_query(&a->path, "limit", a->limit ? a->limit : "500", &e) ||
            (a->query && cl_path_query(&a->path, "query", a->query, &e)) ||
            (cursor[0] && cl_path_query(&a->path, "cursor", cursor, &e))) {
            code = cmd_fail(&a->cmd, &e);
            break;
        }
        r.path = a->path.data;
        code = cmd_call(&a->cmd, client, &r,
                        &tscaf__v1__list_identities_response__descriptor, &m);
        if (code != CMD_OK)
            break;
        page = (const Tscaf__V1__ListIdentitiesResponse *)m;
        for (size_t i = 0; !a->cmd.json && i < page->n_identities; i++)
            print_record(page->identities[i]);
        snprintf(cursor, sizeof(cursor), "%s", page->next_cursor);
        protobuf_c_message_free_unpacked(m, NULL);
    } while (all && cursor[0]);
    if (code == CMD_OK && !all && cursor[0] && !a->cmd.json)
        printf("more: --cursor %s\n", cursor);
    cl_close(client);
    return code;
}

static int show(struct arguments *a)
{
    return cmd_exchange(&a->cmd, "GET", a->path.data, NULL,
                        &tscaf__v1__identity_record__descriptor, print_one);
}

static int create(struct arguments *a)
{
    Tscaf__V1__CreateIdentityRequest m =
        TSCAF__V1__CREATE_IDENTITY_REQUEST__INIT;
    create_pair pairs[MAX_PAIRS], *list_of[MAX_PAIRS];

    for (int i = 0; i < a->n_pairs; i++) {
        pairs[i] = (create_pair)
            TSCAF__V1__CREATE_IDENTITY_REQUEST__METADATA_ENTRY__INIT;
        pairs[i].key = a->keys[i];
        pairs[i].value = a->values[i];
        list_of[i] = &pairs[i];
    }
    m.name = a->words[0];
    if (a->external_id)
        m.external_id = (char *)(uintptr_t)a->external_id;
    if (a->consent)
        m.consent_ref = (char *)(uintptr_t)a->consent;
    m.n_metadata = (size_t)a->n_pairs;
    m.metadata = list_of;
    return cmd_exchange(&a->cmd, "POST", "/v1/identities", &m.base,
                        &tscaf__v1__identity_record__descriptor, print_one);
}

static int update(struct arguments *a)
{
    Tscaf__V1__UpdateIdentityRequest m =
        TSCAF__V1__UPDATE_IDENTITY_REQUEST__INIT;
    update_pair pairs[MAX_PAIRS], *list_of[MAX_PAIRS];

    for (int i = 0; i < a->n_pairs; i++) {
        pairs[i] = (update_pair)
            TSCAF__V1__UPDATE_IDENTITY_REQUEST__METADATA_ENTRY__INIT;
        pairs[i].key = a->keys[i];
        pairs[i].value = a->values[i];
        list_of[i] = &pairs[i];
    }
    m.id = a->words[0];
    if (a->name) {
        m.new_name_case = TSCAF__V1__UPDATE_IDENTITY_REQUEST__NEW_NAME_NAME;
        m.name = (char *)(uintptr_t)a->name;
    }
    if (a->external_id) {
        m.new_external_id_case =
            TSCAF__V1__UPDATE_IDENTITY_REQUEST__NEW_EXTERNAL_ID_EXTERNAL_ID;
        m.external_id = (char *)(uintptr_t)a->external_id;
    }
    if (a->consent) {
        m.new_consent_ref_case =
            TSCAF__V1__UPDATE_IDENTITY_REQUEST__NEW_CONSENT_REF_CONSENT_REF;
        m.consent_ref = (char *)(uintptr_t)a->consent;
    }
    m.n_metadata = (size_t)a->n_pairs;
    m.metadata = list_of;
    return cmd_exchange(&a->cmd, "PATCH", a->path.data, &m.base,
                        &tscaf__v1__identity_record__descriptor, print_one);
}

static int delete (struct arguments *a)
{
    return cmd_exchange(&a->cmd, "DELETE", a->path.data, NULL, NULL, NULL);
}

static int faces(struct arguments *a)
{
    return cmd_exchange(&a->cmd, "GET", a->path.data, NULL,
                        &tscaf__v1__list_faces_response__descriptor,
                        print_faces);
}

static int add_face(struct arguments *a)
{
    struct cl_request r = {.method = "POST"};
    struct cl_client *client = NULL;
    ProtobufCMessage *m = NULL;
    struct ut_error e;
    char *bytes;
    int code;

    if (cl_picture_read(a->words[1], &bytes, &r.len, &r.type, &e))
        return cmd_fail(&a->cmd, &e);
    r.body = bytes;
    if ((a->input && cl_path_query(&a->path, "input", a->input, &e)) ||
        (a->force && cl_path_query(&a->path, "force", "true", &e)) ||
        cl_open(&a->cmd.client, &client, &e)) {
        code = cmd_fail(&a->cmd, &e);
    } else {
        r.path = a->path.data;
        code = cmd_call(&a->cmd, client, &r,
                        &tscaf__v1__face_record__descriptor, &m);
    }
    if (m && !a->cmd.json)
        print_face(m);
    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
    cl_close(client);
    free(bytes);
    return code;
}

static int crop(struct arguments *a)
{
    struct cl_request r = {.method = "GET"};
    struct cl_client *client = NULL;
    struct cl_answer answer = {0};
    struct ut_error e;
    int code = CMD_OK;
    FILE *f;

    if (cl_path_segment(&a->path, "crop", &e) ||
        cl_open(&a->cmd.client, &client, &e))
        return cmd_fail(&a->cmd, &e);
    r.path = a->path.data;
    if (cl_call(client, &r, &answer, &e)) {
        code = cmd_fail(&a->cmd, &e);
    } else if (!answer.ok) {
        code = cmd_fail_answer(&a->cmd, &answer.err);
    } else {
        f = fopen(a->words[2], "wb");
        if (!f || fwrite(answer.body, 1, answer.len, f) != answer.len ||
            fflush(f)) {
            fprintf(stderr, "tscaf identities: %s: %s\n", a->words[2],
                    strerror(errno));
            code = CMD_FAILED;
        }
        if (f)
            fclose(f);
    }
    free(answer.body);
    cl_close(client);
    return code;
}

static const struct {
    const char *name;
    int (*run)(struct arguments *a);
    int words;         /* that follow it */
    const char *below; /* of the identity in words[0]: "faces" */
    bool names_face;   /* words[1] is a face's id */
} verbs[] = {
    {"list", list, 0, NULL, false},
    {"show", show, 1, NULL, false},
    {"create", create, 1, NULL, false},
    {"update", update, 1, NULL, false},
    {"delete", delete, 1, NULL, false},
    {"faces", faces, 1, "faces", false},
    {"add-face", add_face, 2, "faces", false},
    {"delete-face", delete, 2, "faces", true},
    {"crop", crop, 3, "faces", true},
};

static int parse(struct arguments *a, int argc, char **argv)
{
    int c, code;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'q':
            a->query = optarg;
            break;
        case 'l':
            a->limit = optarg;
            break;
        case 'u':
            a->cursor = optarg;
            break;
        case 'n':
            a->name = optarg;
            break;
        case 'x':
            a->external_id = optarg;
            break;
        case 'c':
            a->consent = optarg;
            break;
        case 'm':
            if (a->n_pairs == MAX_PAIRS || !strchr(optarg, '='))
                return cmd_usage(&a->cmd, "--metadata \"%s\" is no KEY=VALUE",
                                 optarg);
            a->keys[a->n_pairs] = strsep(&optarg, "=");
            a->values[a->n_pairs++] = optarg;
            break;
        case 'i':
            a->input = optarg;
            break;
        case 'f':
            a->force = true;
            break;
        default:
            code = cmd_option(&a->cmd, c);
            if (code >= 0)
                return code;
        }
    }
    if (optind == argc)
        return cmd_usage(&a->cmd, "say what to do: list, show, create...");
    a->words = argv + optind + 1;
    a->n_words = argc - optind - 1;
    return -1;
}

int cmd_identities(int argc, char **argv)
{
    struct arguments a = {0};
    struct ut_error e;
    int code;

    cmd_init(&a.cmd, "identities", help);
    code = parse(&a, argc, argv);
    if (code >= 0)
        return code;
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        if (strcmp(verbs[i].name, a.words[-1]))
            continue;
        if (a.n_words != verbs[i].words)
            return cmd_usage(&a.cmd, "%s takes %d words, not %d", verbs[i].name,
                             verbs[i].words, a.n_words);
        if (make_path(&a, a.n_words ? a.words[0] : NULL, verbs[i].below,
                      verbs[i].names_face ? a.words[1] : NULL, &e))
            code = cmd_fail(&a.cmd, &e);
        else
            code = verbs[i].run(&a);
        ut_buf_fini(&a.path);
        return code;
    }
    return cmd_usage(&a.cmd, "\"%s\" is nothing to do", a.words[-1]);
}
