#ifndef MODEL_TRAIN_TEACHER_H
#define MODEL_TRAIN_TEACHER_H

#include <stdint.h>

#include "model/onnx/onnx.h"

/* An embedder whose answers another network learns to give, run on the very
 * pictures that the pupil sees. */
struct mdl_teacher;

struct mdl_teacher_config {
    const char *path; /* FILE.onnx */
    struct mdl_onnx_input input;
    const char *backend; /* NULL: the best */
    int side, batch, threads;
    int hint[2]; /* height and width of the inner map wanted; 0: none */
};

/* Its first output is the embedding. Errors: those of mdl_onnx_read and the
 * backend; UT_EINVAL where it wants pictures of another size. */
UT_MUSTUSE enum ut_err mdl_teacher_open(const struct mdl_teacher_config *c,
                                        struct mdl_teacher **out,
                                        struct ut_error *e);
void mdl_teacher_close(struct mdl_teacher *t); /* accepts NULL */

int mdl_teacher_dim(const struct mdl_teacher *t);
/* Of the inner map: of those of the size wanted, the last of the narrowest
 * (where blocks are bottlenecks, what goes from block to block). */
int mdl_teacher_hint_channels(const struct mdl_teacher *t);

/* images [batch, side, side, 3] -> rows [batch, dim] of length 1, and the inner
 * map, hint [batch, channels, height, width]; NULL where none was wanted. In
 * bfloat16 where the backend has it. Thread: one at a time. */
UT_MUSTUSE enum ut_err mdl_teacher_embed(struct mdl_teacher *t,
                                         const uint8_t *images, float *rows,
                                         float *hint, struct ut_error *e);

#endif
