#ifndef SERVER_STORE_SQLITE_H
#define SERVER_STORE_SQLITE_H

#include <sqlite3.h>

#include "server/store.h"

/* What the files of the SQLite store share: statements and transactions. */

struct srv_store {
    sqlite3 *db;
    char path[512];
};

/* SQLite's last error, with the file's name. */
enum ut_err srv_sql_fail(const struct srv_store *s, struct ut_error *e);

/* A statement with text arguments bound from 1 on; NULL after an error. */
sqlite3_stmt *srv_sql_prepare(struct srv_store *s, const char *sql, int n,
                              const char *const *texts, struct ut_error *e);
/* Steps a statement without rows and finalises it; st may be NULL, after an
 * error. */
enum ut_err srv_sql_finish(struct srv_store *s, sqlite3_stmt *st,
                           struct ut_error *e);
enum ut_err srv_sql_run(struct srv_store *s, const char *sql, int n,
                        const char *const *texts, struct ut_error *e);

/* A column's text, to be freed; "" for NULL. NULL without memory. */
char *srv_sql_text(sqlite3_stmt *st, int column);

/* A transaction; its end writes the audit line, or rolls back if rc says that
 * something failed. actor NULL: no line. */
enum ut_err srv_sql_begin(struct srv_store *s, struct ut_error *e);
enum ut_err srv_sql_end(struct srv_store *s, enum ut_err rc, const char *actor,
                        const char *action, const char *subject,
                        const char *detail, struct ut_error *e);

/* prefix and 24 random hex digits. */
void srv_sql_id(const char *prefix, char id[SRV_ID_LEN]);

#define SRV_SQL_FACE                                                           \
    "face.id, identity_id, face.model_version, x, y, w, h, quality,"           \
    " crop IS NOT NULL, face.created_ms"
void srv_sql_read_face(sqlite3_stmt *st, struct srv_face *x);

/* Inserts or replaces an embedding, within a transaction. */
enum ut_err srv_sql_embed(struct srv_store *s, const char *face_id,
                          const char *version, const float *vector, int dim,
                          struct ut_error *e);

#endif
