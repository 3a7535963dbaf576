/* All of one store into another, as from SQLite to PostgreSQL: the tables are
 * the same in both. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "server/store/store_sql.h"

/* Those that others refer to first. A column's kind: t text, i integer, r real,
 * b blob; without seq, so that the copy counts by itself, in the same order. */
static const struct table {
    const char *name, *columns, *kinds, *order;
} tables[] = {
    {"identity", "id, name, external_id, consent_ref, created_ms, updated_ms",
     "ttttii", "id"},
    {"metadata", "identity_id, key, value", "ttt", "identity_id, key"},
    {"face",
     "id, identity_id, model_version, x, y, w, h, quality, crop, created_ms",
     "tttrrrribi", "seq"},
    {"embedding", "face_id, model_version, vector", "ttb", "seq"},
    {"api_key", "id, name, role, hash, created_ms", "ttibi", "seq"},
    {"dataset", "id, record", "tb", "seq"},
    {"job", "id, record", "tb", "seq"},
    {"model", "id, record", "tb", "seq"},
    {"audit", "at_ms, actor, action, subject, detail", "itttt", "seq"},
};

#define N_TABLES (sizeof(tables) / sizeof(tables[0]))

struct copy {
    struct srv_store *to;
    const struct table *table;
    char insert[256];
    int64_t rows;
};

static enum ut_err copy_row(struct srv_store *from, void *arg,
                            struct ut_error *e)
{
    static const char letters[] = "tirb"; /* as enum srv_value_kind */
    struct copy *c = arg;
    struct srv_value args[SRV_MAX_ARGS];
    int n = (int)strlen(c->table->kinds);

    for (int i = 0; i < n; i++)
        args[i] = from->ops->column(
            from, i,
            (enum srv_value_kind)(strchr(letters, c->table->kinds[i]) -
                                  letters));
    c->rows++;
    return srv_sql_run(c->to, c->insert, args, n, e);
}

/* INSERT INTO face (id, ...) VALUES ($1, ...) */
static void write_insert(struct copy *c)
{
    int at =
        snprintf(c->insert, sizeof(c->insert), "INSERT INTO %s (%s) VALUES (",
                 c->table->name, c->table->columns);

    for (size_t i = 1; i <= strlen(c->table->kinds); i++)
        at += snprintf(c->insert + at, sizeof(c->insert) - (size_t)at, "%s$%zu",
                       i > 1 ? ", " : "", i);
    snprintf(c->insert + at, sizeof(c->insert) - (size_t)at, ")");
}

static enum ut_err copy_table(struct srv_store *from, struct srv_store *to,
                              const struct table *t, int64_t *rows,
                              struct ut_error *e)
{
    struct copy c = {.to = to, .table = t};
    char select[256];
    enum ut_err rc;

    write_insert(&c);
    snprintf(select, sizeof(select), "SELECT %s FROM %s ORDER BY %s",
             t->columns, t->name, t->order);
    rc = srv_sql_each(from, select, SRV_NO_ARGS, copy_row, &c, e);
    *rows = c.rows;
    return rc;
}

static enum ut_err check_empty(struct srv_store *s, struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (size_t i = 0; i < N_TABLES && !rc; i++) {
        char count[64];
        int64_t rows = 0;

        snprintf(count, sizeof(count), "SELECT count(*) FROM %s",
                 tables[i].name);
        rc = srv_sql_each(s, count, SRV_NO_ARGS, srv_sql_read_int, &rows, e);
        if (!rc && rows)
            rc = ut_fail(e, UT_EEXISTS,
                         "%s is not empty: table %s has %" PRId64 " rows",
                         s->where, tables[i].name, rows);
    }
    return rc;
}

enum ut_err srv_store_copy(struct srv_store *from, struct srv_store *to,
                           char *said, size_t len, struct ut_error *e)
{
    enum ut_err rc = srv_sql_begin(to, e);
    int at = 0;

    if (rc)
        return rc;
    rc = check_empty(to, e);
    for (size_t i = 0; i < N_TABLES && !rc; i++) {
        int64_t rows;

        rc = copy_table(from, to, &tables[i], &rows, e);
        if (!rc && at < (int)len)
            at += snprintf(said + at, len - (size_t)at, "%s%s %" PRId64,
                           i ? ", " : "", tables[i].name, rows);
    }
    return srv_sql_end(to, rc, "local", "store.copy", from->where, "{}", e);
}
