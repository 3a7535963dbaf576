#ifndef MODEL_DATA_FRAMES_H
#define MODEL_DATA_FRAMES_H

#include "model/data/augment.h"
#include "model/data/queue.h"
#include "model/vision/face.h"

/* What a detector is trained on: whole pictures with every face in them.
 *
 * A list of faces is text, comma-separated, a line a face; the first line names
 * the columns: file,width,height,x,y,w,h,l0x,l0y..l4x,l4y,score. Pixels of the
 * file; landmarks as of struct mdl_face. A list of negatives has one file a
 * line. Files are below the list's folder. */

#define MDL_FRAMES_MAX 10000000 /* faces, and pictures */

struct mdl_frame {
    char *path;   /* owned */
    int first, n; /* its faces */
};

struct mdl_frames {
    struct mdl_frame *frames; /* owned */
    int n;
    struct mdl_face *faces; /* owned; frame by frame */
    int n_faces;
};

/* negatives may be NULL. Errors: UT_ENOTFOUND, UT_EIO, UT_EFORMAT naming the
 * line, UT_EBUSY past the limit, UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_frames_open(const char *faces, const char *negatives,
                                       struct mdl_frames *out,
                                       struct ut_error *e);
void mdl_frames_fini(struct mdl_frames *f); /* zeroed memory is fine */

/* ---- Views for training ---- */

#define MDL_VIEW_FACES 64

/* What a view holds. */
struct mdl_view_face {
    struct mdl_face face; /* pixels of the view, the box clipped to it */
    bool marked;          /* its landmarks are in the view */
    bool ignored;         /* too small or too much cut: neither face nor not */
};

struct mdl_view {
    int n;
    struct mdl_view_face faces[MDL_VIEW_FACES];
};

/* Chances 0 to 1. */
struct mdl_view_config {
    int side;
    float mosaic; /* four pictures in one view (Bochkovskiy et al. 2020) */
    float whole;  /* the picture as a whole, not at a face's chosen size */
    float tilt;   /* turned, by up to turn degrees */
    float turn;
    float flip;
    float ground; /* where a picture does not fill its place: on one without a
                     face */
    float min_face, max_ignored; /* px: sizes that are aimed at, from; what is
                                    smaller than max_ignored is ignored */
    struct mdl_augment look;
};
extern const struct mdl_view_config mdl_view_default;

/* Views of frames as a queue's source, whose notes are struct mdl_view; both
 * outlive it. */
struct mdl_views {
    const struct mdl_frames *frames;
    struct mdl_view_config config;
};
struct mdl_source mdl_views_source(const struct mdl_views *v);

#endif
