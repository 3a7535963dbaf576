/* tscaf-model convert: a trained model as it ships. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"
#include "model/tool/cmd.h"

static const char help[] =
    "usage: tscaf-model convert [--dtype bfloat16|float32] MODEL OUT\n"
    "\n"
    "Writes OUT, the network of MODEL for serving: without what only training\n"
    "needs (sub-centres, projections, hints, the optimiser's memory), "
    "matrices\n"
    "and kernels in bfloat16 (or float32), BatchNorms and biases in float32.\n"
    "The metadata stay, thresholds among them. OUT is a new version.\n";

/* What OUT is made of. */
struct conversion {
    struct mdl_st *from;
    struct mdl_st_tensor *tensors;
    void **memory; /* owned; of those that were converted */
    struct mdl_st_pair *pairs;
    size_t n, n_pairs;
};

static void release(struct conversion *c)
{
    for (size_t i = 0; c->memory && i < c->n; i++)
        free(c->memory[i]);
    free(c->memory);
    free(c->tensors);
    free(c->pairs);
    mdl_st_close(c->from);
}

static bool is_float(enum mdl_dtype t)
{
    return t == MDL_F32 || t == MDL_F16 || t == MDL_BF16;
}

/* x in another type; its memory is *memory. */
static enum ut_err convert_tensor(struct mdl_st_tensor *x, enum mdl_dtype dtype,
                                  void **memory, struct ut_error *e)
{
    size_t n = mdl_shape_count(&x->shape);
    float *floats = malloc((n + 1) * sizeof(*floats));
    uint16_t *halves = NULL;
    enum ut_err rc;

    if (!floats)
        return ut_fail(e, UT_ENOMEM, "no memory for %.100s", x->name);
    *memory = floats;
    rc = mdl_st_floats(x, floats, e);
    if (rc)
        return rc;
    if (dtype == MDL_BF16) {
        halves = malloc((n + 1) * sizeof(*halves));
        if (!halves)
            return ut_fail(e, UT_ENOMEM, "no memory for %.100s", x->name);
        mdl_f32_to_bf16(floats, halves, n);
        free(floats);
        *memory = halves;
    }
    x->dtype = dtype;
    x->data = *memory;
    x->len = n * mdl_dtype_size(dtype);
    return UT_OK;
}

static enum ut_err convert(struct conversion *c, enum mdl_dtype dtype,
                           struct ut_error *e)
{
    size_t count = mdl_st_count(c->from);
    const char *key, *value;
    enum ut_err rc = UT_OK;
    size_t n_meta = 0;

    while (mdl_st_meta_at(c->from, n_meta, &key, &value))
        n_meta++;
    c->tensors = calloc(count + 1, sizeof(*c->tensors));
    c->memory = calloc(count + 1, sizeof(*c->memory));
    c->pairs = calloc(n_meta + 1, sizeof(*c->pairs));
    if (!c->tensors || !c->memory || !c->pairs)
        return ut_fail(e, UT_ENOMEM, "no memory to convert");
    for (size_t i = 0; i < count && !rc; i++) {
        struct mdl_st_tensor x = *mdl_st_at(c->from, i);
        enum mdl_dtype wanted = x.shape.n_dims > 1 ? dtype : MDL_F32;

        if (mdl_model_trains_with(x.name))
            continue;
        if (is_float(x.dtype) && x.dtype != wanted)
            rc = convert_tensor(&x, wanted, &c->memory[c->n], e);
        c->tensors[c->n++] = x;
    }
    while (mdl_st_meta_at(c->from, c->n_pairs, &key, &value))
        c->pairs[c->n_pairs++] = (struct mdl_st_pair){key, value};
    return rc;
}

int cmd_convert(int argc, char **argv)
{
    static const struct option options[] = {
        {"dtype", required_argument, NULL, 'd'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    enum mdl_dtype dtype = MDL_BF16;
    struct conversion c = {0};
    struct ut_error e;
    enum ut_err rc;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'd' &&
            (!strcmp(optarg, "bfloat16") || !strcmp(optarg, "float32"))) {
            dtype = *optarg == 'b' ? MDL_BF16 : MDL_F32;
            continue;
        }
        fputs(help, option == 'h' ? stdout : stderr);
        return option == 'h' ? 0 : 2;
    }
    if (argc - optind != 2) {
        fputs(help, stderr);
        return 2;
    }
    rc = mdl_st_open(argv[optind], &c.from, &e);
    if (!rc)
        rc = convert(&c, dtype, &e);
    if (!rc)
        rc = mdl_st_write(argv[optind + 1], c.tensors, c.n, c.pairs, c.n_pairs,
                          &e);
    release(&c);
    return rc ? cmd_fail(&e) : 0;
}
