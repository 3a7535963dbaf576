#ifndef SERVER_STORE_SQL_H
#define SERVER_STORE_SQL_H

#include "server/store/store.h"

/* What the store's files share: one connection to a database, statements with
 * values in and rows out. SQLite (store_sqlite.c) and PostgreSQL
 * (store_postgres.c) are tables of functions below; the statements above them
 * are written once, so that both take them: arguments are $1, $2, ..., every
 * row is read before the next statement starts. */

enum srv_value_kind {
    SRV_VALUE_TEXT,
    SRV_VALUE_INT,
    SRV_VALUE_REAL,
    SRV_VALUE_BLOB
};

struct srv_value {
    enum srv_value_kind kind;
    const void *data; /* text or blob, borrowed; NULL: the database's NULL */
    size_t len;       /* of a blob; of a text that was read too */
    int64_t number;
    double real;
};

#define SRV_TEXT(x) ((struct srv_value){.kind = SRV_VALUE_TEXT, .data = (x)})
#define SRV_INT(x)                                                             \
    ((struct srv_value){.kind = SRV_VALUE_INT, .number = (int64_t)(x)})
#define SRV_REAL(x)                                                            \
    ((struct srv_value){.kind = SRV_VALUE_REAL, .real = (double)(x)})
#define SRV_BLOB(p, n)                                                         \
    ((struct srv_value){.kind = SRV_VALUE_BLOB, .data = (p), .len = (n)})
/* The two parameters for a statement's arguments. */
#define SRV_ARGS(...)                                                          \
    (const struct srv_value[]){__VA_ARGS__},                                   \
        (int)(sizeof((const struct srv_value[]){__VA_ARGS__}) /                \
              sizeof(struct srv_value))
#define SRV_NO_ARGS NULL, 0
#define SRV_MAX_ARGS 16

/* One row of a result, whose columns srv_sql_int() and the others read; an
 * error ends the statement, which returns it. */
typedef enum ut_err (*srv_sql_row_fn)(struct srv_store *s, void *arg,
                                      struct ut_error *e);

/* A database. Errors: UT_EEXISTS where something unique is there already,
 * UT_EBUSY where trying later may work, UT_ENOMEM, UT_EIO; the message names
 * the database and holds no secret. */
struct srv_sql_ops {
    const char *const *schemas; /* what each version adds to the one before */
    int n_schemas;
    enum ut_err (*version)(struct srv_store *s, int64_t *version,
                           struct ut_error *e);
    /* Several statements without arguments or rows. */
    enum ut_err (*exec)(struct srv_store *s, const char *sql,
                        struct ut_error *e);
    /* A transaction, for which other writers wait: one change at a time. */
    enum ut_err (*begin)(struct srv_store *s, struct ut_error *e);
    enum ut_err (*commit)(struct srv_store *s, struct ut_error *e);
    void (*rollback)(struct srv_store *s);
    /* One statement; fn NULL: it has no rows, and *n is how many it changed,
     * else how many rows fn took. */
    enum ut_err (*query)(struct srv_store *s, const char *sql,
                         const struct srv_value *args, int n_args,
                         srv_sql_row_fn fn, void *arg, int64_t *n,
                         struct ut_error *e);
    /* A column of the row at hand; a view until the next. */
    struct srv_value (*column)(struct srv_store *s, int column,
                               enum srv_value_kind kind);
    /* NULL: nobody else writes. See srv_store_wait. */
    enum ut_err (*wait)(struct srv_store *s, int wake_fd, int timeout_ms,
                        struct ut_error *e);
    void (*close)(struct srv_store *s);
};

struct srv_store {
    const struct srv_sql_ops *ops;
    void *db;        /* owned; only ops look inside */
    int depth;       /* of transactions within one another: the first counts */
    char where[600]; /* the database's name, for messages */
};

/* Fill a store whose ops, db and where are unset. */
enum ut_err srv_sqlite_open(struct srv_store *s, const char *dir,
                            struct ut_error *e);
enum ut_err srv_postgres_open(struct srv_store *s, const char *url,
                              struct ut_error *e);

/* A statement without rows. */
enum ut_err srv_sql_run(struct srv_store *s, const char *sql,
                        const struct srv_value *args, int n_args,
                        struct ut_error *e);
/* The same, which must change something: else UT_ENOTFOUND, "there is no WHAT
 * \"ID\"". */
enum ut_err srv_sql_run_on(struct srv_store *s, const char *sql,
                           const struct srv_value *args, int n_args,
                           const char *what, const char *id,
                           struct ut_error *e);
/* fn for every row. */
enum ut_err srv_sql_each(struct srv_store *s, const char *sql,
                         const struct srv_value *args, int n_args,
                         srv_sql_row_fn fn, void *arg, struct ut_error *e);
/* fn for the one row that there must be, as srv_sql_run_on. */
enum ut_err srv_sql_one(struct srv_store *s, const char *sql,
                        const struct srv_value *args, int n_args,
                        srv_sql_row_fn fn, void *arg, const char *what,
                        const char *id, struct ut_error *e);

/* For those: the first column, into the int64_t at arg. */
enum ut_err srv_sql_read_int(struct srv_store *s, void *arg,
                             struct ut_error *e);

/* Columns of the row at hand. */
int64_t srv_sql_int(struct srv_store *s, int column);
double srv_sql_real(struct srv_store *s, int column);
const char *srv_sql_text(struct srv_store *s, int column); /* "" for NULL */
char *srv_sql_dup(struct srv_store *s, int column); /* NULL without memory */
/* NULL for NULL. */
const void *srv_sql_blob(struct srv_store *s, int column, size_t *len);

/* An array of n, moved to where there is room for one more, which is zeroed;
 * NULL without memory. */
void *srv_sql_room(void *list, size_t n, size_t size);

/* A transaction; its end writes the audit line, or rolls back if rc says that
 * something failed. actor NULL: no line. */
enum ut_err srv_sql_begin(struct srv_store *s, struct ut_error *e);
enum ut_err srv_sql_end(struct srv_store *s, enum ut_err rc, const char *actor,
                        const char *action, const char *subject,
                        const char *detail, struct ut_error *e);

/* ---- faces ---- */

#define SRV_SQL_FACE                                                           \
    "face.id, identity_id, face.model_version, x, y, w, h, quality,"           \
    " CAST(crop IS NOT NULL AS INTEGER), face.created_ms"
void srv_sql_read_face(struct srv_store *s, struct srv_face *x);

/* Faces of SRV_SQL_FACE, as srv_store_face_list. */
enum ut_err srv_sql_faces(struct srv_store *s, const char *sql,
                          const struct srv_value *args, int n_args,
                          struct srv_face **out, size_t *n, struct ut_error *e);

/* Inserts or replaces an embedding, within a transaction. */
enum ut_err srv_sql_embed(struct srv_store *s, const char *face_id,
                          const char *version, const float *vector, int dim,
                          struct ut_error *e);

#endif
