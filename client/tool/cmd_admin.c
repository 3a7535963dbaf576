/* tscaf models, keys and audit: what the server is, who may use it, and who
 * did. */
#include <string.h>

#include "client/tool/cmd.h"

static const char models_help[] =
    "usage: tscaf models [list]\n"
    "       tscaf models activate VERSION [--force]\n"
    "       tscaf models rollback\n"
    "       tscaf models delete VERSION\n"
    "\n"
    "Versions of the model, the one that answers first. activate embeds the "
    "gallery by\n"
    "it in the background and then changes over; --force also one whose "
    "held-out\n"
    "figures did not pass. rollback returns to the one before.\n";

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

static void print_model(const ProtobufCMessage *m)
{
    static const char *const states[] = {"", "candidate", "activating",
                                         "active", "previous"};
    const Tscaf__V1__ModelInfo *x = (const Tscaf__V1__ModelInfo *)m;

    printf("%s  version %s  %s  %s\n", x->model ? x->model->name : "?",
           x->model ? x->model->version : "?",
           (unsigned)x->state < 5 ? states[x->state] : "?",
           x->model && x->model->trained ? "trained"
                                         : "UNTRAINED: numbers mean nothing");
    if (*x->reason)
        printf("  %s%s\n", x->passed ? "" : "did not pass: ", x->reason);
    printf("  %.2f M parameters, %.2f G multiply-adds a face\n",
           (double)x->parameters / 1e6, (double)x->multiply_adds / 1e9);
    printf("  drowsy from %.3f, match from %.3f\n",
           (double)x->fatigue_threshold, (double)x->identity_threshold);
    if (*x->backend)
        printf("  runs on %s in %s, %s\n", x->backend, x->precision,
               x->detector ? "finds faces in frames" : "crops only");
}

static void print_models(const ProtobufCMessage *m)
{
    const Tscaf__V1__ListModelsResponse *r =
        (const Tscaf__V1__ListModelsResponse *)m;

    for (size_t i = 0; i < r->n_models; i++)
        print_model(&r->models[i]->base);
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

static int on_version(const struct cmd *cmd, const char *verb,
                      const char *version, bool force)
{
    Tscaf__V1__ActivateModelRequest m = TSCAF__V1__ACTIVATE_MODEL_REQUEST__INIT;
    bool activate = !strcmp(verb, "activate");
    struct ut_buf path;
    struct ut_error e;
    int code;

    m.version = (char *)(uintptr_t)version;
    m.force = force;
    ut_buf_init(&path, 1024);
    if (ut_buf_addf(&path, &e, "/v1/models") ||
        cl_path_segment(&path, version, &e) ||
        (activate && ut_buf_addf(&path, &e, "/activate")))
        code = cmd_fail(cmd, &e);
    else if (activate)
        code = cmd_exchange(cmd, "POST", path.data, &m.base,
                            &tscaf__v1__model_info__descriptor, print_model);
    else
        code = cmd_exchange(cmd, "DELETE", path.data, NULL, NULL, NULL);
    ut_buf_fini(&path);
    return code;
}

int cmd_models(int argc, char **argv)
{
    static const struct option options[] = {
        {"force", no_argument, NULL, 'f'}, CMD_OPTIONS, {0}};
    const char *verb, *version;
    struct cmd cmd;
    bool force = false;
    int c, code;

    cmd_init(&cmd, "models", models_help);
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (c == 'f')
            force = true;
        else if ((code = cmd_option(&cmd, c)) >= 0)
            return code;
    verb = optind < argc ? argv[optind] : "list";
    version = optind + 1 < argc ? argv[optind + 1] : NULL;
    if (!strcmp(verb, "list") && !version)
        return cmd_exchange(&cmd, "GET", "/v1/models", NULL,
                            &tscaf__v1__list_models_response__descriptor,
                            print_models);
    if (!strcmp(verb, "rollback") && !version)
        return cmd_exchange(&cmd, "POST", "/v1/models/rollback", NULL,
                            &tscaf__v1__model_info__descriptor, print_model);
    if (version && optind + 2 == argc &&
        (!strcmp(verb, "activate") || !strcmp(verb, "delete")))
        return on_version(&cmd, verb, version, force);
    return cmd_usage(&cmd, "say list, activate VERSION, rollback or delete "
                           "VERSION");
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
    if (optind + 2 < argc)
        return cmd_usage(&cmd, "\"%s\" is too much", argv[optind + 2]);
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
