#ifndef SERVER_FACES_H
#define SERVER_FACES_H

#include "api/error.h"
#include "model/vision/face.h"
#include "server/inference/batcher.h"
#include "server/mailbox.h"

/* From pictures to scored faces: decode pool -> batcher -> loop. analyze,
 * verify, search, enrol and infer all go this way. */

#define SRV_MAX_IMAGES 32
#define SRV_MAX_FACES 64 /* per image */

/* What the bytes of a frame are. */
enum srv_input {
    SRV_INPUT_FRAME, /* a JPEG or PNG in which faces are found */
    SRV_INPUT_CROP,  /* a JPEG or PNG that is an aligned face  */
    SRV_INPUT_U8,    /* an aligned face: u8 [112,112,3], RGB   */
    SRV_INPUT_F32,   /* the same: f32 [3,112,112], (v - 127.5) / 127.5,
                        rounded to what u8 can say */
};

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
    enum srv_input input;
    unsigned tasks; /* SRV_TASK_ bits */
    int max_faces;  /* per frame */
    int top_k;      /* 0: do not search the gallery */
    float min_score;
    bool bulk;
    int64_t deadline_us;
    const bool *cancelled;
    const char *field; /* "images", "image"...: for error paths */
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

/* Bytes of one frame; 0: as many as it takes. */
size_t srv_input_len(enum srv_input input);

/* Starts a job. Always ends in done(), unless it returns an error (overload:
 * UT_EBUSY; more than the queue ever takes: UT_EINVAL), which the caller
 * answers. Thread: the loop. */
UT_MUSTUSE enum ut_err srv_faces_start(struct srv_faces_job *job,
                                       struct ut_error *e);

/* Frees what the job holds (not the frames array). */
void srv_faces_job_fini(struct srv_faces_job *job);

UT_MUSTUSE enum ut_err
srv_faces_new(struct srv_app *app, struct srv_faces **out, struct ut_error *e);
void srv_faces_free(struct srv_faces *f);

#endif
