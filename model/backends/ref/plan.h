#ifndef MODEL_BACKENDS_REF_PLAN_H
#define MODEL_BACKENDS_REF_PLAN_H

#include "model/graph.h"

/* A plan of the reference backend: one float32 buffer per value. Operations
 * take the batch image by image; those of whole values see all of it. */
struct plan {
    const struct mdl_graph *g;
    int batch;
    int image;       /* the one being worked on */
    float **values;  /* [n_values]; owned for results and given inputs */
    uint64_t *needs; /* [n_nodes] */
};

/* A [C,H,W] value of one image; a vector has H = W = 1. */
struct map {
    float *data;
    int64_t c, h, w;
};

/* Value v of image b, or as it is where there is one for the batch. */
float *ref_value(const struct plan *p, int v, int b);
struct map ref_map(const struct plan *p, int v, int b);
/* The input in role of the image being worked on, or NULL. */
const float *ref_in(const struct plan *p, const struct mdl_node *n, int role);

/* gradient.c: the operations of training. True if n was one. */
bool ref_run_gradient(struct plan *p, const struct mdl_node *n);

#endif
