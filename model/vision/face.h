#ifndef MODEL_VISION_FACE_H
#define MODEL_VISION_FACE_H

#include "model/backend.h"
#include "model/vision/image.h"

/* From a frame to aligned faces. */

#define MDL_FACE_SIDE_PX 112
#define MDL_FACE_MAX 128 /* per frame */

struct mdl_face {
    float x, y, w, h;        /* box, pixels of the full picture          */
    float score;             /* detector's, 0..1                         */
    float landmark[5][2];    /* left eye, right eye (as seen), nose, left
                                and right mouth corner                   */
};

/* Why a face is poor, after Amazon Rekognition's QualityFilter reasons. */
enum mdl_quality {
    MDL_QUALITY_SMALL_BOUNDING_BOX = 1 << 0,
    MDL_QUALITY_LOW_SHARPNESS = 1 << 1,
    MDL_QUALITY_LOW_BRIGHTNESS = 1 << 2,
    MDL_QUALITY_EXTREME_POSE = 1 << 3,
    MDL_QUALITY_LOW_CONFIDENCE = 1 << 4,
};

/* ---- Detection: RetinaFace, MobileNet 0.25 ---- */

struct mdl_detector; /* weights and graph; shared by threads              */
struct mdl_finder;   /* one thread's plans, one per frame size class       */

/* Opens a RetinaFace safetensors (the names of biubug6/Pytorch_Retinaface).
 * Errors: as mdl_model_open. */
UT_MUSTUSE enum ut_err mdl_detector_open(const char *path,
                                         struct mdl_detector **out,
                                         struct ut_error *e);
void mdl_detector_close(struct mdl_detector *d);

/* The detector's graph for frames of [h, w, 3] (multiples of 32), outputs
 * "boxes" [A*4,..], "probs", "landmarks" by level; see retinaface.c. */
UT_MUSTUSE enum ut_err mdl_detector_graph(const struct mdl_detector *d, int h,
                                          int w, struct mdl_graph *out,
                                          struct ut_error *e);

/* Thread: a finder belongs to one thread at a time. */
UT_MUSTUSE enum ut_err mdl_finder_new(const struct mdl_detector *d,
                                      struct mdl_backend *b,
                                      struct mdl_finder **out,
                                      struct ut_error *e);
void mdl_finder_free(struct mdl_finder *f);

/* Finds faces of at least min_score, best first, at most max. The frame is
 * scaled so that its long side is side_px (0: 640) and padded.
 * faces [max]; *n how many. Thread: the finder's. */
UT_MUSTUSE enum ut_err mdl_finder_run(struct mdl_finder *f,
                                      const struct mdl_image *im, int side_px,
                                      float min_score, int max,
                                      struct mdl_face *faces, int *n,
                                      struct ut_error *e);

/* ---- Alignment ---- */

/* Warps a face to the ArcFace template by the least-squares similarity
 * transform of its landmarks, bilinear (by area first where it shrinks by
 * more than half), black outside. out [112, 112, 3].
 * Errors: UT_EINVAL when the landmarks are degenerate. Thread: any. */
UT_MUSTUSE enum ut_err mdl_face_align(const struct mdl_image *im,
                                      const struct mdl_face *face,
                                      uint8_t *out, struct ut_error *e);

/* A picture that is already one aligned face: resized to 112x112 if need be.
 * Errors: UT_EINVAL unless square within 10 % and at least 32 px. */
UT_MUSTUSE enum ut_err mdl_face_crop(const struct mdl_image *im, uint8_t *out,
                                     struct ut_error *e);

/* The bit set of enum mdl_quality for an aligned crop [112,112,3]; face may be
 * NULL (given crops: only sharpness and brightness are judged). */
unsigned mdl_face_quality(const uint8_t *crop, const struct mdl_face *face);

/* "SMALL_BOUNDING_BOX"... of one bit. */
const char *mdl_quality_name(enum mdl_quality bit);

/* ---- Sample faces for demonstrations and tests: drawn, of nobody ---- */

struct mdl_sample_face {
    uint32_t identity; /* shape, colours, hair            */
    float eyes;        /* 0 closed .. 1 open              */
    float mouth;       /* 0 closed .. 1 yawning           */
    float light;       /* 0 night .. 1 day                */
    float turn;        /* -1 .. 1, head turned left/right */
    uint32_t noise;    /* seed of the picture's grain     */
};

/* Draws an aligned face, out [112, 112, 3]. A function of *s alone. */
void mdl_sample_face_draw(const struct mdl_sample_face *s, uint8_t *out);

#endif
