/* Keys, and the audit log. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/store/store_sql.h"

/* ---- keys ---- */

void srv_key_fini(struct srv_key *x)
{
    free(x->name);
    memset(x, 0, sizeof(*x));
}

enum ut_err srv_store_key_create(struct srv_store *s, const char *actor,
                                 struct srv_key *x, struct ut_error *e)
{
    enum ut_err rc = srv_sql_begin(s, e);
    int64_t n = 0;

    if (rc)
        return rc;
    srv_store_new_id("key_", x->id);
    x->created_ms = ut_clock_unix_ms();
    rc = srv_sql_each(s, "SELECT COUNT(*) FROM api_key", SRV_NO_ARGS,
                      srv_sql_read_int, &n, e);
    /* Of several servers, and of those that start with one key more. */
    if (!rc && n >= SRV_MAX_KEYS)
        rc = ut_fail(e, UT_ESTATE, "there are %lld keys, %d is the limit",
                     (long long)n, SRV_MAX_KEYS);
    if (!rc)
        rc = srv_sql_run(
            s,
            "INSERT INTO api_key (id, name, role, hash, created_ms)"
            " VALUES ($1, $2, $3, $4, $5)",
            SRV_ARGS(SRV_TEXT(x->id), SRV_TEXT(x->name), SRV_INT(x->role),
                     SRV_BLOB(x->hash, sizeof(x->hash)),
                     SRV_INT(x->created_ms)),
            e);
    return srv_sql_end(s, rc, actor, "key.create", x->id, "{}", e);
}

struct key_list {
    struct srv_key *list;
    size_t n;
};

static enum ut_err read_key(struct srv_store *s, void *arg, struct ut_error *e)
{
    struct key_list *l = arg;
    struct srv_key *x = srv_sql_room(l->list, l->n, sizeof(*x));
    const void *hash;
    size_t len;

    if (!x)
        return ut_fail(e, UT_ENOMEM, "no memory for the keys");
    l->list = x;
    x += l->n++;
    snprintf(x->id, sizeof(x->id), "%s", srv_sql_text(s, 0));
    x->name = srv_sql_dup(s, 1);
    x->role = (int)srv_sql_int(s, 2);
    x->created_ms = srv_sql_int(s, 4);
    hash = srv_sql_blob(s, 3, &len);
    if (len != sizeof(x->hash))
        return ut_fail(e, UT_EIO, "%s: key %s has a hash of %zu bytes, not %zu",
                       s->where, x->id, len, sizeof(x->hash));
    memcpy(x->hash, hash, sizeof(x->hash));
    return x->name ? UT_OK : ut_fail(e, UT_ENOMEM, "no memory for the keys");
}

enum ut_err srv_store_key_list(struct srv_store *s, struct srv_key **out,
                               size_t *n, struct ut_error *e)
{
    struct key_list l = {0};
    enum ut_err rc = srv_sql_each(
        s, "SELECT id, name, role, hash, created_ms FROM api_key ORDER BY seq",
        SRV_NO_ARGS, read_key, &l, e);

    if (rc) {
        while (l.n)
            srv_key_fini(&l.list[--l.n]);
        free(l.list);
        l.list = NULL;
    }
    *out = l.list;
    *n = l.n;
    return rc;
}

enum ut_err srv_store_key_delete(struct srv_store *s, const char *actor,
                                 const char *id, struct ut_error *e)
{
    enum ut_err rc = srv_sql_begin(s, e);

    if (rc)
        return rc;
    rc = srv_sql_run_on(s, "DELETE FROM api_key WHERE id = $1",
                        SRV_ARGS(SRV_TEXT(id)), "key", id, e);
    return srv_sql_end(s, rc, actor, "key.delete", id, "{}", e);
}

/* ---- the audit log ---- */

void srv_audit_fini(struct srv_audit *x)
{
    free(x->actor);
    free(x->action);
    free(x->subject);
    free(x->detail);
    memset(x, 0, sizeof(*x));
}

struct audit_list {
    struct srv_audit *list;
    size_t n;
};

static enum ut_err read_audit(struct srv_store *s, void *arg,
                              struct ut_error *e)
{
    struct audit_list *l = arg;
    struct srv_audit *x = srv_sql_room(l->list, l->n, sizeof(*x));

    if (!x)
        return ut_fail(e, UT_ENOMEM, "no memory for the audit log");
    l->list = x;
    x += l->n++;
    x->seq = (uint64_t)srv_sql_int(s, 0);
    x->at_ms = srv_sql_int(s, 1);
    x->actor = srv_sql_dup(s, 2);
    x->action = srv_sql_dup(s, 3);
    x->subject = srv_sql_dup(s, 4);
    x->detail = srv_sql_dup(s, 5);
    return x->actor && x->action && x->subject && x->detail
               ? UT_OK
               : ut_fail(e, UT_ENOMEM, "no memory for the audit log");
}

static enum ut_err list_audit(struct srv_store *s, const char *sql,
                              uint64_t seq, uint32_t limit,
                              struct srv_audit **out, size_t *n,
                              struct ut_error *e)
{
    struct audit_list l = {0};
    enum ut_err rc = srv_sql_each(
        s, sql, SRV_ARGS(SRV_INT(seq), SRV_INT(limit)), read_audit, &l, e);

    if (rc) {
        while (l.n)
            srv_audit_fini(&l.list[--l.n]);
        free(l.list);
        l.list = NULL;
    }
    *out = l.list;
    *n = l.n;
    return rc;
}

#define LINES "SELECT seq, at_ms, actor, action, subject, detail FROM audit"

enum ut_err srv_store_audit_list(struct srv_store *s, uint64_t before,
                                 uint32_t limit, struct srv_audit **out,
                                 size_t *n, struct ut_error *e)
{
    return list_audit(
        s, LINES " WHERE $1 = 0 OR seq < $1 ORDER BY seq DESC LIMIT $2", before,
        limit, out, n, e);
}

enum ut_err srv_store_audit_from(struct srv_store *s, uint64_t seq,
                                 uint32_t limit, struct srv_audit **out,
                                 size_t *n, struct ut_error *e)
{
    return list_audit(s, LINES " WHERE seq >= $1 ORDER BY seq LIMIT $2", seq,
                      limit, out, n, e);
}
