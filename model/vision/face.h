#ifndef MODEL_VISION_FACE_H
#define MODEL_VISION_FACE_H

#include "model/backend.h"
#include "model/safetensors.h"
#include "model/vision/image.h"

/* From a frame to aligned faces. */

#define MDL_FACE_SIDE_PX 112
#define MDL_FACE_MAX 128        /* per frame */
#define MDL_FACE_CROP_MIN_PX 32 /* a given crop's side */

struct mdl_face {
    float x, y, w, h;     /* box, pixels of the full picture; may reach
                             past its edges where the face does       */
    float score;          /* detector's, 0..1                         */
    float landmark[5][2]; /* left eye, right eye (as seen), nose, left
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
struct mdl_finder;   /* one thread's plans, some per frame size class      */

#define MDL_DETECT_SIDE_PX 640      /* the usual long side                 */
#define MDL_DETECT_MAX_SIDE_PX 2048 /* an upper one, for memory's sake      */
#define MDL_DETECT_MAX_ENLARGE 2.0  /* more only shows the detector blur   */
#define MDL_DETECT_IOU 0.4f         /* two boxes over this are one face    */
#define MDL_FINDER_PLANS 4          /* frame sizes that a finder remembers */
#define MDL_FINDER_BATCH 8          /* frames of one size at once, at most  */

/* Opens a RetinaFace safetensors (the tensor names of
 * biubug6/Pytorch_Retinaface; of metadata only "side", see mdl_finder_run). The
 * file is read, not kept. Errors: those of mdl_st_open; UT_EFORMAT naming the
 * first tensor that is missing or of a wrong shape. Thread: any. */
UT_MUSTUSE enum ut_err mdl_detector_open(const char *path,
                                         struct mdl_detector **out,
                                         struct ut_error *e);
/* After all its finders and graphs. Accepts NULL. */
void mdl_detector_close(struct mdl_detector *d);

/* The detector's graph for frames u8 [h, w, 3], sides multiples of 32. Its
 * outputs, in this order for the maps i = 0..2 of stride 8 << i: "probs.i"
 * [2*2, h_i, w_i] (background, face), "boxes.i" [2*4, ..], "landmarks.i"
 * [2*10, ..]. Parameters are views of d's. Errors: UT_EINVAL, UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_detector_graph(const struct mdl_detector *d, int h,
                                          int w, struct mdl_graph *out,
                                          struct ut_error *e);

/* The long side of frames that its file says it suits, else 640. */
int mdl_detector_side(const struct mdl_detector *d);

/* A detector that was never trained. Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_detector_fresh(uint64_t seed,
                                          struct mdl_detector **out,
                                          struct ut_error *e);

/* Writes what a graph of a detector is bound to, and more tensors, so that
 * mdl_detector_open reads it. half: convolutions' weights as BF16. Metadata and
 * errors as of mdl_st_write. */
UT_MUSTUSE enum ut_err mdl_detector_write(const char *path,
                                          const struct mdl_graph *g, bool half,
                                          const struct mdl_st_pair *meta,
                                          size_t n_meta,
                                          const struct mdl_st_tensor *more,
                                          size_t n_more, struct ut_error *e);

/* What an anchor's deltas are relative to: a square, in the network's pixels.
 */
struct mdl_prior {
    float x, y, side; /* centre */
};

/* All anchors of frames [h, w]: map by map, in a map one anchor's cells row by
 * row, then the other's. out has room for h * w * 21 / 512. Returns how many.
 * Thread: any. */
int mdl_detector_priors(int h, int w, struct mdl_prior *out);

/* The deltas of a face for an anchor; decoding's inverse. Thread: any. */
void mdl_detector_encode(const struct mdl_face *f, const struct mdl_prior *p,
                         float box[4], float landmarks[10]);

/* Those outputs, out[9] of one frame, as faces in the network's pixels, every
 * anchor of at least min_score; faces has room for all anchors
 * (h * w * 21 / 512). Returns how many. Thread: any. */
int mdl_detector_decode(float *const out[9], int h, int w, float min_score,
                        struct mdl_face *faces);

/* Intersection over union of the boxes, 0..1. */
float mdl_face_iou(const struct mdl_face *a, const struct mdl_face *b);

/* Non-maximum suppression in place: sorts faces best first and keeps at most
 * max, none of which overlaps a better one by more than iou. Returns how
 * many. Thread: any. */
int mdl_face_suppress(struct mdl_face *faces, int n, float iou, int max);

/* A finder on a lane of its own. d and b outlive it. Errors: UT_ENOMEM,
 * UT_EDEVICE. Thread: a finder belongs to one thread at a time. */
UT_MUSTUSE enum ut_err mdl_finder_new(const struct mdl_detector *d,
                                      struct mdl_backend *b,
                                      struct mdl_finder **out,
                                      struct ut_error *e);
void mdl_finder_free(struct mdl_finder *f); /* accepts NULL */

/* Finds faces of at least min_score (over 0), best first, at most max. The
 * frame is scaled so that its long side is side_px (0: what the detector's file
 * says that it was made for, "side" in its metadata, else 640), but never
 * enlarged more than twice, and padded with black to multiples of 32. The
 * first frame of a padded size compiles a plan.
 * faces [max]; *n how many. Errors: UT_EINVAL for side_px, UT_ENOMEM,
 * UT_EDEVICE. Thread: the finder's. */
UT_MUSTUSE enum ut_err mdl_finder_run(struct mdl_finder *f,
                                      const struct mdl_image *im, int side_px,
                                      float min_score, int max,
                                      struct mdl_face *faces, int *n,
                                      struct ut_error *e);

/* A frame among several. */
struct mdl_find {
    const struct mdl_image *im;
    float min_score; /* over 0 */
    int max;
    struct mdl_face *faces; /* out, [max] */
    int n;                  /* out */
};
/* As mdl_finder_run for each of n frames, which are alike: up to
 * MDL_FINDER_BATCH run as one, fewer where the device has no room for so many.
 * Errors: also UT_EINVAL for one of another size; after an error all n are 0.
 */
UT_MUSTUSE enum ut_err mdl_finder_run_many(struct mdl_finder *f, int side_px,
                                           struct mdl_find *list, int n,
                                           struct ut_error *e);
/* Whether two frames are of one padded size. Thread: any. */
bool mdl_finder_alike(const struct mdl_detector *d, const struct mdl_image *a,
                      const struct mdl_image *b, int side_px);

/* ---- Alignment ---- */

/* ArcFace's places of the five landmarks in a crop of 112x112. */
extern const float mdl_face_template[5][2];

/* x' = a x - b y + tx, y' = b x + a y + ty. */
struct mdl_similarity {
    double a, b, tx, ty;
};

/* The least-squares similarity (no reflection) that takes from to to.
 * Errors: UT_EINVAL when from is one point or not finite. Thread: any. */
UT_MUSTUSE enum ut_err mdl_face_similarity(const float from[5][2],
                                           const float to[5][2],
                                           struct mdl_similarity *out,
                                           struct ut_error *e);

/* Warps a face to the ArcFace template by the least-squares similarity
 * transform of its landmarks, bilinear (the mean over the pixel's area where
 * it shrinks by more than half), black outside. out [112, 112, 3].
 * Errors: UT_EINVAL when the landmarks are degenerate. Thread: any. */
UT_MUSTUSE enum ut_err mdl_face_align(const struct mdl_image *im,
                                      const struct mdl_face *face, uint8_t *out,
                                      struct ut_error *e);

/* A picture that is already one aligned face: resized to 112x112 if need be.
 * Errors: UT_EINVAL unless square within 10 % and at least 32 px. */
UT_MUSTUSE enum ut_err mdl_face_crop(const struct mdl_image *im, uint8_t *out,
                                     struct ut_error *e);

/* ---- Quality ---- */

#define MDL_QUALITY_MIN_BOX_PX 40.0f
#define MDL_QUALITY_MIN_SCORE 0.6f
#define MDL_QUALITY_MIN_SHARPNESS 20.0f
#define MDL_QUALITY_MIN_BRIGHTNESS 40.0f
#define MDL_QUALITY_MAX_ROLL_DEG 45.0f
#define MDL_QUALITY_MAX_YAW 0.5f
#define MDL_QUALITY_MIN_PITCH 0.2f
#define MDL_QUALITY_MAX_PITCH 0.8f

/* Of the crop's middle: mean grey 0..255, and variance of its Laplacian. */
float mdl_face_brightness(const uint8_t *crop);
float mdl_face_sharpness(const uint8_t *crop);

/* What the landmarks tell of the head. */
struct mdl_face_pose {
    float roll;  /* degrees of the line through the eyes                  */
    float yaw;   /* nose right of the eyes' middle, in eye distances      */
    float pitch; /* nose below the eyes, in distances from eyes to mouth;
                    0.49 in the template                                  */
};
struct mdl_face_pose mdl_face_pose(const struct mdl_face *f);

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
