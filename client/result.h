#ifndef CLIENT_RESULT_H
#define CLIENT_RESULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/client.h"

/* Answers as structs, and the requests that most programs make.
 *
 * A result is one block: what it points to lives as long as it, strings are
 * never NULL, and its _free function (NULL is fine) frees all of it.
 *
 * Errors of every function here: *out is NULL and *err says what is wrong, in
 * the server's words where it answered. UT_EIO: it refused, or no answer came;
 * UT_EFORMAT: the answer is not what was asked for; UT_ENOMEM; UT_EBUSY for a
 * path or query that is too long.
 * Members that a newer server adds are skipped. Thread: the client's. */

/* ---- Analyze ---- */

/* In the frame's pixels. */
struct cl_point {
    float x, y;
};

struct cl_box {
    float x, y, width, height;
};

/* Of a fatigue branch. */
struct cl_fatigue {
    float probability, threshold; /* 0 to 1 */
    bool drowsy;                  /* probability >= threshold */
};

/* One enrolled identity near a face. */
struct cl_match {
    const char *identity_id, *name;
    float similarity; /* cosine, -1 to 1 */
};

enum cl_verdict {
    CL_VERDICT_OTHER = 0, /* one that this library does not know */
    CL_VERDICT_MATCH,     /* the first match is at or over the threshold */
    CL_VERDICT_UNKNOWN,   /* none is */
    CL_VERDICT_AMBIGUOUS, /* two are, too close to each other to tell */
};

/* Of a recognition branch. */
struct cl_identification {
    enum cl_verdict verdict;
    float threshold;
    size_t n_matches;
    const struct cl_match *matches; /* nearest first */
};

#define CL_LANDMARKS 5

struct cl_face {
    struct cl_box box;     /* the whole picture for a crop */
    float detection_score; /* 0 to 1; 0 for a crop */
    bool has_landmarks, has_fatigue, has_identity; /* else zeros below */
    /* Eyes, nose, corners of the mouth, the picture's left ones first;
     * with return=landmarks. */
    struct cl_point landmarks[CL_LANDMARKS];
    struct cl_fatigue fatigue;
    struct cl_identification identity;
    size_t n_quality_reasons; /* 0: a good face */
    const char *const *quality_reasons;
    size_t n_embedding; /* 0 without return=embedding */
    const float *embedding;
};

struct cl_frame {
    uint32_t width, height; /* pixels, upright */
    size_t n_faces;
    const struct cl_face *faces; /* largest first */
};

struct cl_analysis {
    const char *request_id, *model, *model_version;
    bool trained; /* false: the numbers mean nothing */
    float total_ms;
    size_t n_frames;
    const struct cl_frame *frames; /* one per picture sent, in order */
    void *owner;                   /* this library's */
};

/* An encoded picture to send; all borrowed. */
struct cl_image {
    const void *bytes; /* JPEG or PNG */
    size_t len;
    const char *type;  /* "image/jpeg" or "image/png" */
    const char *query; /* "input=crop&return=landmarks", percent-encoded, as in
                          openapi.yaml; NULL: the server's defaults */
};

/* Sends one picture and waits, as cl_call. */
UT_MUSTUSE enum ut_err cl_analyze(struct cl_client *c,
                                  const struct cl_image *image,
                                  struct cl_analysis **out,
                                  struct api_error *err);
/* Sends one picture, as cl_start: image->bytes and ->type are borrowed until
 * done has returned. done reads its answer by cl_analysis_read. */
UT_MUSTUSE enum ut_err cl_analyze_start(struct cl_client *c,
                                        const struct cl_image *image,
                                        cl_done *done, void *ctx,
                                        struct ut_error *e);
/* What an answer of /v1/analyze says; the answer stays as it is. */
UT_MUSTUSE enum ut_err cl_analysis_read(const struct cl_answer *a,
                                        struct cl_analysis **out,
                                        struct api_error *err);
void cl_analysis_free(struct cl_analysis *a);

/* ---- Enrolment ---- */

struct cl_identity {
    const char *id, *name, *external_id, *created_at;
    uint32_t n_faces; /* enrolled */
    void *owner;      /* this library's */
};

struct cl_enrolled {
    const char *id, *identity_id, *model_version, *created_at;
    struct cl_box box; /* in the picture */
    void *owner;       /* this library's */
};

/* A new identity without faces. external_id: the caller's own key, or NULL. */
UT_MUSTUSE enum ut_err cl_identity_create(struct cl_client *c, const char *name,
                                          const char *external_id,
                                          struct cl_identity **out,
                                          struct api_error *err);
void cl_identity_free(struct cl_identity *i);

/* Adds the one face of a picture to an identity. */
UT_MUSTUSE enum ut_err cl_enroll(struct cl_client *c, const char *identity_id,
                                 const struct cl_image *image,
                                 struct cl_enrolled **out,
                                 struct api_error *err);
void cl_enrolled_free(struct cl_enrolled *r);

/* ---- Training jobs ---- */

enum cl_job_state {
    CL_JOB_OTHER = 0, /* one that this library does not know */
    CL_JOB_QUEUED,
    CL_JOB_RUNNING,
    CL_JOB_PAUSED,
    CL_JOB_SUCCEEDED,
    CL_JOB_FAILED,
    CL_JOB_CANCELLED,
};

struct cl_job {
    const char *id, *name, *reason, *model_version;
    enum cl_job_state state;
    uint32_t step, steps; /* updates done and to do */
    void *owner;          /* this library's */
};

/* How a job stands now. */
UT_MUSTUSE enum ut_err cl_job_get(struct cl_client *c, const char *id,
                                  struct cl_job **out, struct api_error *err);
void cl_job_free(struct cl_job *j);

#endif
