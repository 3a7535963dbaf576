#ifndef SERVER_FACES_H
#define SERVER_FACES_H

#include "api/error.h"
#include "model/vision/face.h"
#include "server/batcher.h"
#include "server/mailbox.h"

/* From encoded pictures to scored faces: decode pool -> batcher -> loop.
 * analyze, verify, search and enrol all go this way. */

#define SRV_MAX_IMAGES 32
#define SRV_MAX_FACES 64 /* per image */

struct srv_app;
struct srv_faces;
struct srv_generation;

struct srv_faces_face {
    struct mdl_face face; /* box 0,0,w,h and no landmarks for a crop */
    unsigned quality;     /* enum mdl_quality bits */
    uint8_t *crop;        /* owned; u8 [112,112,3] */
    struct srv_item item; /* scores and matches */
};

struct srv_faces_frame {
    const uint8_t *bytes; /* borrowed until done */
    size_t len;
    int width, height;            /* out, upright pixels */
    struct srv_faces_face *faces; /* out, owned; largest first */
    int n_faces;
};

struct srv_faces_job {
    /* In. */
    struct srv_app *app;
    struct srv_generation *generation; /* taken for it; dropped by fini */
    struct srv_faces_frame *frames;    /* the caller's array */
    int n_frames;
    bool crop_input; /* frames are aligned faces already */
    unsigned tasks;  /* SRV_TASK_ bits */
    int max_faces;   /* per frame */
    int top_k;       /* 0: do not search the gallery */
    float min_score;
    bool bulk;
    int64_t deadline_us;
    const bool *cancelled;
    const char *field; /* "images" or "image": for error paths */
    /* Called once, on the loop; err NULL on success. */
    void (*done)(struct srv_faces_job *job, const struct api_error *err);
    void *arg;

    /* Out. */
    int64_t decode_us, detect_us, queue_us, compute_us, match_us;
    int batch_size; /* largest */

    /* Private. */
    struct srv_mail mail;
    struct api_error err;
    int pending; /* frames, then faces, still under way */
    int failed;  /* err is set */
};

/* Starts a job. Always ends in done(), unless it returns an error (overload:
 * UT_EBUSY), which the caller answers. Thread: the loop. */
UT_MUSTUSE enum ut_err srv_faces_start(struct srv_faces_job *job,
                                       struct ut_error *e);

/* Frees what the job holds (not the frames array). */
void srv_faces_job_fini(struct srv_faces_job *job);

UT_MUSTUSE enum ut_err
srv_faces_new(struct srv_app *app, struct srv_faces **out, struct ut_error *e);
void srv_faces_free(struct srv_faces *f);

#endif
