#ifndef SERVER_APP_H
#define SERVER_APP_H

#include <uv.h>

#include "server/calls/call.h"
#include "server/config.h"
#include "server/data_folder.h"
#include "server/datasets/datasets.h"
#include "server/follow.h"
#include "server/health.h"
#include "server/inference/generations.h"
#include "server/jobs/jobs.h"
#include "server/mailbox.h"
#include "server/pool.h"
#include "server/store/store.h"

struct mdl_detector;
struct srv_auth;
struct srv_http;
struct srv_h2;
struct srv_log;
struct srv_metrics;
struct srv_faces;

/* The parts of one server, made in this order and unmade in the reverse. */
struct srv_app {
    struct srv_config *config;
    struct srv_log *log;
    struct srv_metrics *metrics;
    uv_loop_t loop;
    struct srv_mailbox *mailbox;
    struct srv_data_folder folder; /* DATA */
    struct srv_store *store;       /* only on store_pool's thread */
    struct srv_pool *store_pool;   /* one thread */
    struct srv_follow *follow; /* NULL: no other server writes to the store */
    struct srv_auth *auth;
    struct srv_generations generations; /* model, gallery, executors */
    struct srv_pool *model_pool;        /* one thread: changes of model */
    struct mdl_backend *device;         /* the detector's */
    struct mdl_detector *detector;      /* NULL: crops only */
    struct srv_pool *decode_pool;
    struct srv_pool *explain_pool; /* one thread */
    struct srv_datasets datasets;  /* only on dataset_pool's thread */
    struct srv_pool *dataset_pool;
    struct srv_jobs *jobs;
    struct srv_faces
        *faces; /* server/inference/faces.h: images to scored faces */
    struct srv_http *http;
    struct srv_h2 *h2;    /* NULL: without --grpc */
    bool ready, draining; /* srv_health_changed() after a change */
    struct srv_health health;
};

#endif
