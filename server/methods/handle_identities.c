/* Identities: create, list, get, update, delete. Each call is one task on the
 * store's thread, which answers through the mailbox; faces are in
 * handle_faces.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/app.h"
#include "server/calls/answer.h"
#include "server/calls/store_call.h"
#include "server/methods/handlers.h"

#define MAX_TEXT 200 /* characters of a name, external id, consent */
#define MAX_PAIRS 32 /* metadata */
#define MAX_KEY 64
#define MAX_VALUE 512
#define DEFAULT_LIMIT 50
#define MAX_LIMIT 500

/* ---- validation ---- */

static size_t characters(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static bool fits(struct srv_call *c, const char *field, const char *text,
                 size_t least, size_t most)
{
    size_t n = characters(text);

    if (n >= least && n <= most)
        return true;
    srv_answer_invalid(c, field, least && !n ? "REQUIRED" : "OUT_OF_RANGE",
                       "%zu characters are not from %zu to %zu", n, least,
                       most);
    return false;
}

/* Every metadata map of the contract has entries of this layout. */
typedef Tscaf__V1__CreateIdentityRequest__MetadataEntry pair_msg;

static bool pairs_fit(struct srv_call *c, pair_msg *const *pairs, size_t n)
{
    if (n > MAX_PAIRS) {
        srv_answer_invalid(c, "metadata", "OUT_OF_RANGE",
                           "%zu pairs are over the limit of %d", n, MAX_PAIRS);
        return false;
    }
    for (size_t i = 0; i < n; i++)
        if (!fits(c, "metadata", pairs[i]->key, 1, MAX_KEY) ||
            !fits(c, "metadata", pairs[i]->value, 0, MAX_VALUE))
            return false;
    return true;
}

/* Sets pairs over x's; an empty value removes its key. */
static enum ut_err merge(struct srv_identity *x, pair_msg *const *pairs,
                         size_t n, struct ut_error *e)
{
    for (size_t i = 0; i < n; i++) {
        struct srv_pair *more;
        size_t at = 0;

        while (at < x->n_metadata && strcmp(x->metadata[at].key, pairs[i]->key))
            at++;
        if (at < x->n_metadata) {
            free(x->metadata[at].key);
            free(x->metadata[at].value);
            x->metadata[at] = x->metadata[--x->n_metadata];
        }
        if (!pairs[i]->value[0])
            continue;
        if (x->n_metadata == MAX_PAIRS)
            return ut_fail(e, UT_EINVAL, "metadata: over %d pairs", MAX_PAIRS);
        more = realloc(x->metadata, (x->n_metadata + 1) * sizeof(*more));
        if (!more)
            return ut_fail(e, UT_ENOMEM, "no memory for metadata");
        x->metadata = more;
        more[x->n_metadata].key = strdup(pairs[i]->key);
        more[x->n_metadata].value = strdup(pairs[i]->value);
        x->n_metadata++;
        if (!more[x->n_metadata - 1].key || !more[x->n_metadata - 1].value)
            return ut_fail(e, UT_ENOMEM, "no memory for metadata");
    }
    return UT_OK;
}

static enum ut_err replace(char **slot, const char *text, struct ut_error *e)
{
    char *copy = strdup(text);

    if (!copy)
        return ut_fail(e, UT_ENOMEM, "no memory for a text");
    free(*slot);
    *slot = copy;
    return UT_OK;
}

/* ---- one identity as a message ---- */

struct record {
    Tscaf__V1__IdentityRecord msg;
    Tscaf__V1__IdentityRecord__MetadataEntry pairs[MAX_PAIRS];
    Tscaf__V1__IdentityRecord__MetadataEntry *list[MAX_PAIRS];
    char created[SRV_LOG_TIME_LEN], updated[SRV_LOG_TIME_LEN];
};

/* Views of x, which must outlive r. */
static void fill(struct record *r, const struct srv_identity *x)
{
    tscaf__v1__identity_record__init(&r->msg);
    r->msg.id = (char *)(uintptr_t)x->id;
    r->msg.name = x->name;
    r->msg.external_id = x->external_id;
    r->msg.consent_ref = x->consent_ref;
    r->msg.face_count = x->face_count;
    srv_log_time(x->created_ms, r->created);
    srv_log_time(x->updated_ms, r->updated);
    r->msg.created_at = r->created;
    r->msg.updated_at = r->updated;
    for (size_t i = 0; i < x->n_metadata && i < MAX_PAIRS; i++) {
        tscaf__v1__identity_record__metadata_entry__init(&r->pairs[i]);
        r->pairs[i].key = x->metadata[i].key;
        r->pairs[i].value = x->metadata[i].value;
        r->list[i] = &r->pairs[i];
        r->msg.n_metadata = i + 1;
    }
    r->msg.metadata = r->list;
}

static void reply_identity(struct srv_store_call *w)
{
    struct srv_identity *x = w->result;
    struct record r;

    fill(&r, x);
    w->call->reply(w->call, &r.msg.base);
}

static void free_identity(void *result)
{
    srv_identity_fini(result);
    free(result);
}

static enum ut_err new_identity(struct srv_store_call *w,
                                struct srv_identity **x, struct ut_error *e)
{
    w->result = *x = calloc(1, sizeof(**x));
    w->result_free = free_identity;
    return *x ? UT_OK : ut_fail(e, UT_ENOMEM, "no memory for an identity");
}

/* ---- the calls ---- */

static enum ut_err create(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__CreateIdentityRequest *r = (const void *)w->call->request;
    struct srv_identity *x;
    enum ut_err rc = new_identity(w, &x, e);

    if (!rc)
        rc = replace(&x->name, r->name, e);
    if (!rc)
        rc = replace(&x->external_id, r->external_id, e);
    if (!rc)
        rc = replace(&x->consent_ref, r->consent_ref, e);
    if (!rc)
        rc = merge(x, r->metadata, r->n_metadata, e);
    if (!rc)
        rc = srv_store_identity_create(w->call->app->store, w->call->actor, x,
                                       e);
    return rc;
}

void srv_handle_create_identity(struct srv_call *c)
{
    const Tscaf__V1__CreateIdentityRequest *r = (const void *)c->request;

    if (fits(c, "name", r->name, 1, MAX_TEXT) &&
        fits(c, "external_id", r->external_id, 0, MAX_TEXT) &&
        fits(c, "consent_ref", r->consent_ref, 0, MAX_TEXT) &&
        pairs_fit(c, r->metadata, r->n_metadata))
        srv_store_call_start(c, create, reply_identity);
}

static enum ut_err get(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__IdentityRef *r = (const void *)w->call->request;
    struct srv_identity *x;
    enum ut_err rc = new_identity(w, &x, e);

    return rc ? rc : srv_store_identity_get(w->call->app->store, r->id, x, e);
}

void srv_handle_get_identity(struct srv_call *c)
{
    srv_store_call_start(c, get, reply_identity);
}

/* Read and written as one change, so that none of another server is undone. */
static enum ut_err merge_and_store(struct srv_store_call *w,
                                   struct srv_identity *x, struct ut_error *e)
{
    const Tscaf__V1__UpdateIdentityRequest *r = (const void *)w->call->request;
    enum ut_err rc = srv_store_identity_get(w->call->app->store, r->id, x, e);

    if (!rc &&
        r->new_name_case == TSCAF__V1__UPDATE_IDENTITY_REQUEST__NEW_NAME_NAME)
        rc = replace(&x->name, r->name, e);
    if (!rc &&
        r->new_external_id_case ==
            TSCAF__V1__UPDATE_IDENTITY_REQUEST__NEW_EXTERNAL_ID_EXTERNAL_ID)
        rc = replace(&x->external_id, r->external_id, e);
    if (!rc &&
        r->new_consent_ref_case ==
            TSCAF__V1__UPDATE_IDENTITY_REQUEST__NEW_CONSENT_REF_CONSENT_REF)
        rc = replace(&x->consent_ref, r->consent_ref, e);
    if (!rc)
        rc = merge(x, (pair_msg *const *)r->metadata, r->n_metadata, e);
    if (!rc)
        rc = srv_store_identity_update(w->call->app->store, w->call->actor, x,
                                       e);
    return rc;
}

static enum ut_err update(struct srv_store_call *w, struct ut_error *e)
{
    struct srv_store *store = w->call->app->store;
    struct srv_identity *x;
    enum ut_err rc = new_identity(w, &x, e);

    if (!rc)
        rc = srv_store_begin(store, e);
    if (rc)
        return rc;
    rc = srv_store_end(store, merge_and_store(w, x, e), e);
    if (!rc)
        srv_generations_rename(w->call->app, x->id, x->name);
    return rc;
}

void srv_handle_update_identity(struct srv_call *c)
{
    const Tscaf__V1__UpdateIdentityRequest *r = (const void *)c->request;

    if (r->new_name_case == TSCAF__V1__UPDATE_IDENTITY_REQUEST__NEW_NAME_NAME &&
        !fits(c, "name", r->name, 1, MAX_TEXT))
        return;
    if (r->new_external_id_case ==
            TSCAF__V1__UPDATE_IDENTITY_REQUEST__NEW_EXTERNAL_ID_EXTERNAL_ID &&
        !fits(c, "external_id", r->external_id, 0, MAX_TEXT))
        return;
    if (r->new_consent_ref_case ==
            TSCAF__V1__UPDATE_IDENTITY_REQUEST__NEW_CONSENT_REF_CONSENT_REF &&
        !fits(c, "consent_ref", r->consent_ref, 0, MAX_TEXT))
        return;
    if (pairs_fit(c, (pair_msg *const *)r->metadata, r->n_metadata))
        srv_store_call_start(c, update, reply_identity);
}

static enum ut_err delete_one(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__IdentityRef *r = (const void *)w->call->request;
    uint32_t n_faces;
    enum ut_err rc = srv_store_identity_delete(
        w->call->app->store, w->call->actor, r->id, &n_faces, e);

    if (!rc)
        srv_generations_remove_identity(w->call->app, r->id);
    return rc;
}

void srv_handle_delete_identity(struct srv_call *c)
{
    srv_store_call_start(c, delete_one, srv_store_call_reply_empty);
}

/* ---- the list ---- */

struct page {
    struct srv_identity *list; /* owned; one more than asked, if there is one */
    size_t n, limit;
};

static void free_page(void *result)
{
    struct page *p = result;

    for (size_t i = 0; i < p->n; i++)
        srv_identity_fini(&p->list[i]);
    free(p->list);
    free(p);
}

static enum ut_err list(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__ListIdentitiesRequest *r = (const void *)w->call->request;
    struct page *p = calloc(1, sizeof(*p));

    if (!p)
        return ut_fail(e, UT_ENOMEM, "no memory for a page");
    w->result = p;
    w->result_free = free_page;
    p->limit = r->limit ? r->limit : DEFAULT_LIMIT;
    return srv_store_identity_list(w->call->app->store, r->cursor, r->query,
                                   (uint32_t)p->limit + 1, &p->list, &p->n, e);
}

static void reply_page(struct srv_store_call *w)
{
    Tscaf__V1__ListIdentitiesResponse r =
        TSCAF__V1__LIST_IDENTITIES_RESPONSE__INIT;
    const struct page *p = w->result;
    size_t n = p->n > p->limit ? p->limit : p->n;
    struct record *records = calloc(n + 1, sizeof(*records));
    Tscaf__V1__IdentityRecord **msgs = calloc(n + 1, sizeof(*msgs));
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a page"};

    if (!records || !msgs) {
        srv_answer_fail(w->call, &e);
    } else {
        for (size_t i = 0; i < n; i++) {
            fill(&records[i], &p->list[i]);
            msgs[i] = &records[i].msg;
        }
        r.n_identities = n;
        r.identities = msgs;
        if (p->n > n)
            r.next_cursor = p->list[n - 1].id;
        w->call->reply(w->call, &r.base);
    }
    free(records);
    free(msgs);
}

void srv_handle_list_identities(struct srv_call *c)
{
    const Tscaf__V1__ListIdentitiesRequest *r = (const void *)c->request;

    if (r->limit > MAX_LIMIT)
        srv_answer_invalid(c, "limit", "OUT_OF_RANGE",
                           "%u is over the limit of %d", r->limit, MAX_LIMIT);
    else
        srv_store_call_start(c, list, reply_page);
}
