/* Keys and the audit log. The store's thread writes; the table of keys that
 * requests are checked against changes on the loop, before the answer. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/app.h"
#include "server/auth.h"
#include "server/calls/answer.h"
#include "server/calls/store_call.h"
#include "server/log.h"
#include "server/methods/handlers.h"

#define DEFAULT_LIMIT 100
#define MAX_LIMIT 1000

struct key_record {
    Tscaf__V1__KeyRecord msg;
    char created[SRV_LOG_TIME_LEN];
};

/* r views x. */
static void fill_key(struct key_record *r, const struct srv_key *x)
{
    tscaf__v1__key_record__init(&r->msg);
    r->msg.id = (char *)(uintptr_t)x->id;
    r->msg.name = x->name;
    r->msg.role = (Tscaf__V1__Role)x->role;
    srv_log_time(x->created_ms, r->created);
    r->msg.created_at = r->created;
}

/* ---- Making a key ---- */

struct new_key {
    struct srv_key key;
    char secret[SRV_AUTH_SECRET_LEN];
};

static void free_new_key(void *result)
{
    struct new_key *k = result;

    srv_key_fini(&k->key);
    explicit_bzero(k, sizeof(*k));
    free(k);
}

static enum ut_err create_key(struct srv_store_call *w, struct ut_error *e)
{
    struct new_key *k = w->result;

    return srv_store_key_create(w->call->app->store, w->call->actor, &k->key,
                                e);
}

static void reply_new_key(struct srv_store_call *w)
{
    Tscaf__V1__CreateKeyResponse r = TSCAF__V1__CREATE_KEY_RESPONSE__INIT;
    struct new_key *k = w->result;
    struct key_record record;
    struct ut_error e;

    if (srv_auth_add(w->call->app->auth, &k->key, &e)) {
        srv_answer_fail(w->call, &e);
        return;
    }
    fill_key(&record, &k->key);
    r.key = &record.msg;
    r.secret = k->secret;
    w->call->reply(w->call, &r.base);
}

void srv_handle_create_key(struct srv_call *c)
{
    const Tscaf__V1__CreateKeyRequest *r = (const void *)c->request;
    struct ut_error e;
    struct new_key *k;

    if (srv_auth_name(r->name, &e)) {
        srv_answer_invalid(c, "name", *r->name ? "OUT_OF_RANGE" : "REQUIRED",
                           "%s", e.msg);
        return;
    }
    if (r->role < TSCAF__V1__ROLE__ROLE_ANALYZE ||
        r->role > TSCAF__V1__ROLE__ROLE_ADMIN) {
        srv_answer_invalid(c, "role", "REQUIRED",
                           "one of analyze, enroll, admin");
        return;
    }
    k = calloc(1, sizeof(*k));
    if (k)
        k->key.name = strdup(r->name);
    if (!k || !k->key.name) {
        free(k);
        ut_fail(&e, UT_ENOMEM, "no memory for a key");
        srv_answer_fail(c, &e);
        return;
    }
    k->key.role = (int)r->role;
    srv_auth_secret(k->secret, k->key.hash);
    srv_store_call_start_with(c, k, free_new_key, create_key, reply_new_key);
}

/* ---- Listing and deleting keys ---- */

struct keys {
    struct srv_key *list; /* owned */
    size_t n;
};

static void free_keys(void *result)
{
    struct keys *k = result;

    for (size_t i = 0; i < k->n; i++)
        srv_key_fini(&k->list[i]);
    free(k->list);
    free(k);
}

static enum ut_err list_keys(struct srv_store_call *w, struct ut_error *e)
{
    struct keys *k = calloc(1, sizeof(*k));

    if (!k)
        return ut_fail(e, UT_ENOMEM, "no memory for the keys");
    w->result = k;
    w->result_free = free_keys;
    return srv_store_key_list(w->call->app->store, &k->list, &k->n, e);
}

static void reply_keys(struct srv_store_call *w)
{
    Tscaf__V1__ListKeysResponse r = TSCAF__V1__LIST_KEYS_RESPONSE__INIT;
    const struct keys *k = w->result;
    struct key_record *records = calloc(k->n + 1, sizeof(*records));
    Tscaf__V1__KeyRecord **msgs = calloc(k->n + 1, sizeof(*msgs));
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for the keys"};

    if (!records || !msgs) {
        srv_answer_fail(w->call, &e);
    } else {
        for (size_t i = 0; i < k->n; i++) {
            fill_key(&records[i], &k->list[i]);
            msgs[i] = &records[i].msg;
        }
        r.n_keys = k->n;
        r.keys = msgs;
        w->call->reply(w->call, &r.base);
    }
    free(records);
    free(msgs);
}

void srv_handle_list_keys(struct srv_call *c)
{
    srv_store_call_start(c, list_keys, reply_keys);
}

static enum ut_err delete_key(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__KeyRef *r = (const void *)w->call->request;

    return srv_store_key_delete(w->call->app->store, w->call->actor, r->id, e);
}

static void reply_deleted(struct srv_store_call *w)
{
    const Tscaf__V1__KeyRef *r = (const void *)w->call->request;
    struct srv_app *app = w->call->app;

    srv_auth_remove(app->auth, r->id);
    if (!srv_auth_keys(app->auth))
        srv_log_line(app->log, SRV_LOG_WARN, w->call->request_id,
                     "the last API key is gone: every call is refused until "
                     "tscafd --create-key makes one%s",
                     app->follow ? "" : " and the server restarts");
    srv_store_call_reply_empty(w);
}

void srv_handle_delete_key(struct srv_call *c)
{
    srv_store_call_start(c, delete_key, reply_deleted);
}

/* ---- The audit log ---- */

struct log_page {
    struct srv_audit *list; /* owned; one more than asked, if there is one */
    size_t n, limit;
    uint64_t before;
};

static void free_log_page(void *result)
{
    struct log_page *p = result;

    for (size_t i = 0; i < p->n; i++)
        srv_audit_fini(&p->list[i]);
    free(p->list);
    free(p);
}

static enum ut_err list_audit(struct srv_store_call *w, struct ut_error *e)
{
    struct log_page *p = w->result;

    return srv_store_audit_list(w->call->app->store, p->before,
                                (uint32_t)p->limit + 1, &p->list, &p->n, e);
}

struct audit_record {
    Tscaf__V1__AuditRecord msg;
    char at[SRV_LOG_TIME_LEN];
};

static void reply_audit(struct srv_store_call *w)
{
    Tscaf__V1__ListAuditResponse r = TSCAF__V1__LIST_AUDIT_RESPONSE__INIT;
    const struct log_page *p = w->result;
    size_t n = p->n > p->limit ? p->limit : p->n;
    struct audit_record *records = calloc(n + 1, sizeof(*records));
    Tscaf__V1__AuditRecord **msgs = calloc(n + 1, sizeof(*msgs));
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a page"};
    char cursor[24];

    if (!records || !msgs) {
        srv_answer_fail(w->call, &e);
    } else {
        for (size_t i = 0; i < n; i++) {
            const struct srv_audit *a = &p->list[i];
            Tscaf__V1__AuditRecord *m = &records[i].msg;

            tscaf__v1__audit_record__init(m);
            srv_log_time(a->at_ms, records[i].at);
            m->seq = a->seq;
            m->at = records[i].at;
            m->actor = a->actor;
            m->action = a->action;
            m->subject = a->subject;
            m->detail = a->detail;
            msgs[i] = m;
        }
        r.n_records = n;
        r.records = msgs;
        if (p->n > n && n) {
            snprintf(cursor, sizeof(cursor), "%llu",
                     (unsigned long long)p->list[n - 1].seq);
            r.next_cursor = cursor;
        }
        w->call->reply(w->call, &r.base);
    }
    free(records);
    free(msgs);
}

void srv_handle_list_audit(struct srv_call *c)
{
    const Tscaf__V1__ListAuditRequest *r = (const void *)c->request;
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a page"};
    struct log_page *p;
    char *end;

    if (r->limit > MAX_LIMIT) {
        srv_answer_invalid(c, "limit", "OUT_OF_RANGE", "%u is over %d",
                           r->limit, MAX_LIMIT);
        return;
    }
    p = calloc(1, sizeof(*p));
    if (!p) {
        srv_answer_fail(c, &e);
        return;
    }
    p->limit = r->limit ? r->limit : DEFAULT_LIMIT;
    errno = 0;
    p->before = strtoull(r->cursor, &end, 10);
    if (*r->cursor && (*end || errno || !p->before || *r->cursor == '-')) {
        free_log_page(p);
        srv_answer_invalid(c, "cursor", "EXPECTED",
                           "\"%.40s\" is no next_cursor of ours", r->cursor);
        return;
    }
    srv_store_call_start_with(c, p, free_log_page, list_audit, reply_audit);
}
