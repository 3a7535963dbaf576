/* tscaf models, keys and audit: what the server is, who may use it, and who
 * did. */
#include <string.h>

#include "client/tool/cmd.h"

static const char models_help[] =
    "usage: tscaf models\n\nThe models that the server answers with.\n";

static const char keys_help[] =
    "usage: tscaf keys list\n"
    "       tscaf keys create NAME --role analyze|enroll|admin\n"
    "       tscaf keys delete ID\n"
    "\n"
    "The secret of a new key is printed once, on a line of its own. Create an\n"
    "admin key first: from the first key on, every request needs one.\n";

static const char audit_help[] =
    "usage: tscaf audit [--limit N] [--cursor C]\n\n"
    "Who changed what, newest first (100 lines).\n";

static void print_models(const ProtobufCMessage *m)
{
    const Tscaf__V1__ListModelsResponse *r =
        (const Tscaf__V1__ListModelsResponse *)m;

    for (size_t i = 0; i < r->n_models; i++) {
        const Tscaf__V1__ModelInfo *x = r->models[i];

        printf("%s  version %s  %s\n", x->model ? x->model->name : "?",
               x->model ? x->model->version : "?",
               x->model && x->model->trained
                   ? "trained"
                   : "UNTRAINED: numbers mean nothing");
        printf("  %s %s, %.2f M parameters, %.2f G multiply-adds a face\n",
               x->backend, x->precision, (double)x->parameters / 1e6,
               (double)x->multiply_adds / 1e9);
        printf("  drowsy from %.3f, match from %.3f, %s\n",
               x->fatigue_threshold, x->identity_threshold,
               x->detector ? "finds faces in frames" : "crops only");
    }
}

static void print_key(const Tscaf__V1__KeyRecord *k)
{
    static const char *const roles[] = {"?", "analyze", "enroll", "admin"};

    printf("%s  %-7s  %s  %s\n", k->id,
           (unsigned)k->role < 4 ? roles[k->role] : "?", k->created_at,
           k->name);
}

static void print_keys(const ProtobufCMessage *m)
{
    const Tscaf__V1__ListKeysResponse *r =
        (const Tscaf__V1__ListKeysResponse *)m;

    for (size_t i = 0; i < r->n_keys; i++)
        print_key(r->keys[i]);
}

static void print_created(const ProtobufCMessage *m)
{
    const Tscaf__V1__CreateKeyResponse *r =
        (const Tscaf__V1__CreateKeyResponse *)m;

    fprintf(stderr, "Key %s; its secret, shown only now:\n",
            r->key ? r->key->id : "?");
    printf("%s\n", r->secret);
}

static void print_audit(const ProtobufCMessage *m)
{
    const Tscaf__V1__ListAuditResponse *r =
        (const Tscaf__V1__ListAuditResponse *)m;

    for (size_t i = 0; i < r->n_records; i++) {
        const Tscaf__V1__AuditRecord *x = r->records[i];

        printf("%s  %-16s  %s  by %s  %s\n", x->at, x->action, x->subject,
               x->actor, x->detail);
    }
    if (r->next_cursor[0])
        printf("more: --cursor %s\n", r->next_cursor);
}

int cmd_models(int argc, char **argv)
{
    static const struct option options[] = {CMD_OPTIONS, {0}};
    struct cmd cmd;
    int c, code;

    cmd_init(&cmd, "models", models_help);
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        if ((code = cmd_option(&cmd, c)) >= 0)
            return code;
    if (optind != argc)
        return cmd_usage(&cmd, "\"%s\" is too much", argv[optind]);
    return cmd_exchange(&cmd, "GET", "/v1/models", NULL,
                        &tscaf__v1__list_models_response__descriptor,
                        print_models);
}

static int create_key(const struct cmd *cmd, const char *name, const char *role)
{
    static const char *const roles[] = {"analyze", "enroll", "admin"};
    Tscaf__V1__CreateKeyRequest m = TSCAF__V1__CREATE_KEY_REQUEST__INIT;

    m.name = (char *)(uintptr_t)name;
    for (int i = 0; role && i < 3; i++)
        if (!strcmp(role, roles[i]))
            m.role = (Tscaf__V1__Role)(TSCAF__V1__ROLE__ROLE_ANALYZE + i);
    if (!m.role)
        return cmd_usage(cmd, "--role must be analyze, enroll or admin");
    return cmd_exchange(cmd, "POST", "/v1/keys", &m.base,
                        &tscaf__v1__create_key_response__descriptor,
                        print_created);
}

int cmd_keys(int argc, char **argv)
{
    static const struct option options[] = {
        {"role", required_argument, NULL, 'r'}, CMD_OPTIONS, {0}};
    const char *role = NULL, *verb, *word;
    struct ut_buf path;
    struct ut_error e;
    struct cmd cmd;
    int c, code;

    cmd_init(&cmd, "keys", keys_help);
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'r')
            role = optarg;
        else if ((code = cmd_option(&cmd, c)) >= 0)
            return code;
    }
    verb = optind < argc ? argv[optind] : "";
    word = optind + 1 < argc ? argv[optind + 1] : NULL;
    if (!strcmp(verb, "list") && !word)
        return cmd_exchange(&cmd, "GET", "/v1/keys", NULL,
                            &tscaf__v1__list_keys_response__descriptor,
                            print_keys);
    if (!strcmp(verb, "create") && word)
        return create_key(&cmd, word, role);
    if (strcmp(verb, "delete") != 0 || !word)
        return cmd_usage(&cmd, "say list, create NAME or delete ID");
    ut_buf_init(&path, 1024);
    if (ut_buf_addf(&path, &e, "/v1/keys") || cl_path_segment(&path, word, &e))
        code = cmd_fail(&cmd, &e);
    else
        code = cmd_exchange(&cmd, "DELETE", path.data, NULL, NULL, NULL);
    ut_buf_fini(&path);
    return code;
}

int cmd_audit(int argc, char **argv)
{
    static const struct option options[] = {
        {"limit", required_argument, NULL, 'l'},
        {"cursor", required_argument, NULL, 'u'},
        CMD_OPTIONS,
        {0},
    };
    struct ut_buf path;
    struct ut_error e;
    struct cmd cmd;
    int c, code = -1;
    enum ut_err rc;

    cmd_init(&cmd, "audit", audit_help);
    ut_buf_init(&path, 1024);
    rc = ut_buf_addf(&path, &e, "/v1/audit");
    while (code < 0 && !rc &&
           (c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'l' || c == 'u')
            rc =
                cl_path_query(&path, c == 'l' ? "limit" : "cursor", optarg, &e);
        else
            code = cmd_option(&cmd, c);
    }
    if (rc)
        code = cmd_fail(&cmd, &e);
    else if (code < 0 && optind != argc)
        code = cmd_usage(&cmd, "\"%s\" is too much", argv[optind]);
    else if (code < 0)
        code = cmd_exchange(&cmd, "GET", path.data, NULL,
                            &tscaf__v1__list_audit_response__descriptor,
                            print_audit);
    ut_buf_fini(&path);
    return code;
}
