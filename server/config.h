#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "model/backend.h"
#include "server/log.h"

#define SRV_VERSION "0.1.0"

/* How the server is set. One table (config.c) names every option once:
 * --max-batch on the command line, TSCAF_MAX_BATCH in the environment,
 * "max_batch = 8" in a file. The command line goes before the environment,
 * which goes before the file, which goes before the default. */

struct srv_config {
    /* Network. */
    char *listen; /* owned, as are all texts: "127.0.0.1:8080", "[::]:80" */
    char host[64];
    int port;   /* 0: any free one */
    char *grpc; /* the same for HTTP/2; NULL: no such listener */
    char grpc_host[64];
    int grpc_port;
    char *grpc_cert, *grpc_key; /* its TLS's PEM files; NULL: without TLS */
    int max_connections;        /* this and what follows: of each listener */
    int64_t max_body_bytes;
    int64_t header_timeout_ms;  /* a request's header, once it may begin   */
    int64_t idle_timeout_ms;    /* a connection between two requests       */
    int64_t request_timeout_ms; /* a request's body, and its answer's way  */
    int64_t default_deadline_ms;
    int64_t drain_timeout_ms;

    /* State. */
    char *data;  /* folder */
    char *store; /* PostgreSQL's URL; NULL: SQLite in data */
    bool store_crops;
    int64_t gallery_max_faces;

    /* The model. */
    char *model, *detector, *backend; /* NULL: not given */
    enum mdl_precision precision;
    int max_batch;

    /* Work. */
    int64_t batch_delay_us;
    int64_t max_queue;       /* faces */
    int64_t max_queue_bytes; /* of request bodies */
    int decode_threads;

    /* Training. */
    char *dataset_root; /* NULL: no folder can be registered */
    int64_t dataset_max_bytes;
    int max_jobs, job_threads, job_nice;
    int64_t job_memory; /* bytes; 0: no limit */

    enum srv_log_level log_level;

    /* Only on the command line (config: environment too). */
    char *config;     /* file */
    char *create_key; /* "ROLE:NAME" */
    char *add_model;  /* a file */
    bool if_none, copy_store, healthcheck, help, version;
};

/* Reads everything. Errors: UT_EINVAL (the message names the option where it
 * was given, the value and what is allowed), UT_EIO (the file), UT_ENOMEM.
 * environ: NULL-ended, may be NULL. Thread: before others exist. */
UT_MUSTUSE enum ut_err srv_config_read(int argc, char *const *argv,
                                       char *const *env, struct srv_config *out,
                                       struct ut_error *e);
void srv_config_fini(struct srv_config *c); /* zeroed memory is fine */

/* True if nobody outside this machine can reach the host. */
bool srv_config_loopback(const char *host);

/* The table, for --help. */
void srv_config_help(FILE *f);

#endif
