/* Steps by our Winograd: a convolution, its gradient by the input, which is the
 * convolution of the gradient with turned filters, and that by the weights. */
#include <stdio.h>
#include <stdlib.h>

#include "model/backends/cpu/plan.h"

/* Whether an activation is a slope below zero, and no more. In bfloat16 oneDNN
 * fuses ReLU and leaky ReLU, and ours was not measured against that. */
static bool is_slope(enum mdl_act act, bool bf16)
{
    return act == MDL_ACT_NONE || act == MDL_ACT_PRELU ||
           (!bf16 && (act == MDL_ACT_RELU || act == MDL_ACT_LEAKY));
}

static const struct mdl_wino_kernel *choose(const struct plan *p,
                                            const struct mdl_node *n,
                                            const struct mdl_map *x,
                                            const struct mdl_map *y)
{
    bool forward = n->op == MDL_OP_CONV;
    const struct mdl_wino_kernel *k;

    if (!cpu_is_plain_3x3(n) || x->lanes == 1 ||
        (forward && !is_slope(n->act, p->bf16)))
        return NULL;
    /* A step's copy of a bias would not learn. */
    if (forward && p->trains && n->in[MDL_IN_B] >= 0)
        return NULL;
    k = mdl_wino_choose(p->bf16, x->channels, y->channels, x->height, x->width);
    return k && p->trains && !k->gradient ? NULL : k;
}

/* What the kernel reads beside maps: weights, and a convolution's epilogue. */
static enum ut_err take_weights(struct plan *p, struct step *s,
                                const struct mdl_map *y, struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    struct mdl_wino *c = s->wino;
    enum ut_err rc = cpu_weights_wino(p, n, c->kernel, &s->weights, e);

    if (rc)
        return rc;
    c->weights = s->weights->packed;
    if (n->op != MDL_OP_CONV)
        return UT_OK;
    rc = cpu_pad(cpu_param(p, n, MDL_IN_B), y->channels, &s->padded_bias, e);
    if (!rc && (n->act == MDL_ACT_RELU || n->act == MDL_ACT_LEAKY))
        rc = cpu_zeros(y->channels, &s->slope, e);
    for (int i = 0; n->act == MDL_ACT_LEAKY && !rc && i < y->channels; i++)
        s->slope[i] = n->alpha;
    c->bias = s->padded_bias;
    c->slope = s->slope;
    c->shift = s->shift;
    return rc;
}

enum ut_err cpu_build_wino(struct plan *p, struct step *s, struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    bool dw = n->op == MDL_OP_CONV_DW;
    const struct mdl_map *x = &p->maps[n->in[0]];
    const struct mdl_map *y = &p->maps[dw ? n->in[1] : n->out];
    const struct mdl_wino_kernel *kernel = choose(p, n, x, y);
    ptrdiff_t pixel = x->lanes, row = pixel * x->width, plane = row * x->height;
    enum ut_err rc;
    size_t scratch;

    if (!kernel)
        return UT_OK;
    s->wino = malloc(sizeof(*s->wino));
    if (!s->wino)
        return ut_fail(e, UT_ENOMEM, "no memory for a plan");
    *s->wino = (struct mdl_wino){
        .kernel = kernel,
        .channels = x->channels,
        .outputs = y->channels,
        .height = x->height,
        .width = x->width,
        .in = {plane * mdl_map_blocks(x), row, pixel, plane},
        .out = {plane * mdl_map_blocks(y), row, pixel, plane},
    };
    rc = dw ? UT_OK : take_weights(p, s, y, e);
    if (rc)
        return rc;
    scratch = dw ? kernel->gradient_scratch(s->wino, p->batch)
                 : kernel->scratch(s->wino, p->batch);
    if (scratch > p->scratch_size)
        p->scratch_size = scratch;
    snprintf(s->detail, sizeof(s->detail), "%s%s", kernel->name,
             dw                        ? " by the weights"
             : n->op == MDL_OP_CONV_DX ? " by the input"
                                       : "");
    return UT_OK;
}

void cpu_run_wino(struct plan *p, struct step *s,
                  const struct mdl_map *residual)
{
    const struct mdl_node *n = s->node;
    const struct mdl_wino *c = s->wino;
    void *scratch = p->base + p->scratch;

    if (n->op == MDL_OP_CONV_DW)
        c->kernel->gradient(c, p->batch, p->maps[n->in[0]].data,
                            p->maps[n->in[1]].data, p->maps[n->out].data,
                            scratch);
    else
        c->kernel->run(c, p->batch, p->maps[n->in[0]].data,
                       residual ? residual->data : NULL, p->maps[n->out].data,
                       scratch);
}
