/* Whether cuDNN itself takes what model/backends/cuda/cudnn.c asks it for: the
 * convolutions of both networks and their gradients, for a chip that is only
 * described to it. No GPU is needed, and none is used: nothing runs.
 *
 *   make cuda-graphs
 *
 * Bare engines must be there and be made. Those with the epilogue inside are
 * compiled for the driver, and cuDNN offers none where there is no libcuda: the
 * graph must be right, and how many had offers is said. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/cuda/choice.h"
#include "model/model.h"

#define BATCH 8

/* An H100 SXM by its data sheet, in cuDNN's words. */
static const char chip[] =
    "{\"deviceName\":\"NVIDIA H100 80GB HBM3\",\"deviceVer\":900,"
    "\"driverVer\":13000,\"cudaDeviceId\":0,\"pciDeviceId\":0,"
    "\"multiProcessorCount\":132,\"warpSize\":32,\"regsPerBlock\":65536,"
    "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,"
    "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,"
    "\"maxGridSize\":[2147483647,65535,65535],"
    "\"maxBlockSize\":[1024,1024,64],\"maxSharedMemoryPerBlock\":49152,"
    "\"maxSharedMemoryPerBlockOptin\":232448,"
    "\"reservedSharedMemoryPerBlock\":1024,\"isTccDriver\":0,"
    "\"supportCoopLaunch\":1,\"totalGlobalMem\":85017755648,"
    "\"smClockRateKHz\":1980000,\"memClockRateKHz\":2619000,"
    "\"l2CacheSize\":52428800}";

struct tally {
    char seen[128][CHOICE_KEY_LEN];
    int n, bare, whole, bad, gradients, made;
};

void *gpu_native(struct gpu_stream *s)
{
    return s;
}

static struct gpu_map map_of(const struct mdl_graph *g, int v,
                             enum gpu_type type)
{
    const struct mdl_shape *s = &g->values[v].shape;

    return (struct gpu_map){NULL,           type,           BATCH,
                            (int)s->dim[1], (int)s->dim[2], (int)s->dim[0]};
}

/* Whether an engine is there and can be made. */
static int makes(void *cudnn, const struct gpu_product *p, const char *key)
{
    struct gpu_offers offers;
    struct gpu_engine *engine;
    struct ut_error e;
    int made = 0;

    if (!gpu_cudnn.find(cudnn, p, &offers, &e)) {
        for (int i = 0; i < offers.n && !made; i++)
            if (!gpu_cudnn.make(cudnn, p, &offers, i, &engine, &e)) {
                gpu_cudnn.unmake(cudnn, engine);
                made = 1;
            }
        gpu_cudnn.drop(cudnn, &offers);
    }
    if (!made)
        printf("%s, bare: %s\n", key, e.msg);
    return made;
}

/* As training asks: the picture needs no gradient. */
static void ask_gradients(void *cudnn, struct gpu_product p, struct tally *t)
{
    static const enum gpu_type types[] = {GPU_F32, GPU_BF16};
    char key[CHOICE_KEY_LEN];

    p.ep = (struct gpu_epilogue){0};
    for (int i = 0; i < 2; i++)
        for (int pass = p.x.c == 3 ? GPU_DW : GPU_DX; pass <= GPU_DW; pass++) {
            int made;

            p.x.type = p.y.type = types[i];
            p.pass = (enum gpu_pass)pass;
            choice_key(&p, key);
            made = makes(cudnn, &p, key);
            t->gradients++;
            t->made += made;
            t->bad += !made;
        }
}

static void ask(void *cudnn, struct gpu_product p, const char *key,
                struct tally *t)
{
    struct gpu_offers offers;
    struct ut_error e;
    int made;

    p.bare = true;
    made = makes(cudnn, &p, key);
    t->bare += made;
    t->bad += !made;
    p.bare = false;
    if (!gpu_cudnn.find(cudnn, &p, &offers, &e)) {
        t->whole++;
        gpu_cudnn.drop(cudnn, &offers);
    } else if (!strstr(e.msg, "no engine for it")) {
        printf("%s, whole: %s\n", key, e.msg);
        t->bad++;
    }
}

static void ask_all(void *cudnn, const struct mdl_graph *g, enum gpu_type type,
                    bool tf32, struct tally *t)
{
    static const float there = 0;

    for (int i = 0; i < g->n_nodes; i++) {
        const struct mdl_node *n = &g->nodes[i];
        struct gpu_product p;
        bool old = false;

        if (n->op != MDL_OP_CONV || n->groups > 1 ||
            g->values[n->out].shape.dim[0] == 1)
            continue;
#define HAS(role) (n->n_in > (role) && n->in[role] >= 0 ? &there : NULL)
        p = (struct gpu_product){
            .tf32 = tf32,
            .window = {n->kernel, n->stride, n->pad, n->groups},
            .x = map_of(g, n->in[MDL_IN_X], type),
            .y = map_of(g, n->out, type),
            .ep = {.bias = HAS(MDL_IN_B),
                   .slope = HAS(MDL_IN_SLOPE),
                   .shift = HAS(MDL_IN_SHIFT),
                   .residual = HAS(MDL_IN_RESIDUAL),
                   .act = (int)n->act,
                   .alpha = n->alpha}};
        choice_key(&p, t->seen[t->n]);
        for (int k = 0; k < t->n && !old; k++)
            old = !strcmp(t->seen[k], t->seen[t->n]);
        if (old || t->n == 127)
            continue;
        ask(cudnn, p, t->seen[t->n++], t);
        if (!tf32) /* nothing trains in it */
            ask_gradients(cudnn, p, t);
    }
}

int main(void)
{
    static const char *const names[] = {"iresnet50", "mobilenetv2"};
    static struct tally t[2]; /* float16, TF32 */
    struct ut_error e = {0};
    struct mdl_spec *spec = malloc(sizeof(*spec));
    void *cudnn;

    if (!spec || gpu_cudnn_without_gpu(chip, &cudnn, &e)) {
        printf("graphs: %s\n", e.msg);
        return 1;
    }
    for (int i = 0; i < 2; i++) {
        const char *text = mdl_model_builtin_spec(names[i]);
        struct mdl_model m;
        struct mdl_graph g;

        if (mdl_spec_parse(text, strlen(text), spec, &e) ||
            mdl_model_fresh(spec, 1, &m, &e) ||
            mdl_graph_optimise(&m.graph, ~0ull, &g, &e)) {
            printf("graphs: %s: %s\n", names[i], e.msg);
            return 1;
        }
        ask_all(cudnn, &g, GPU_F16, false, &t[0]);
        ask_all(cudnn, &g, GPU_F32, true, &t[1]);
        mdl_graph_fini(&g);
        mdl_model_close(&m);
    }
    for (int i = 0; i < 2; i++)
        printf("graphs: %d convolutions in %s: %d have bare engines; all "
               "graphs but %d are right, %d have fused engines%s\n",
               t[i].n, i ? "TF32" : "float16", t[i].bare, t[i].bad, t[i].whole,
               t[i].whole ? "" : " (cuDNN offers those only where libcuda is)");
    printf("graphs: %d gradients in float32 and bfloat16: %d have engines\n",
           t[0].gradients, t[0].made);
    gpu_cudnn.close(cudnn, false);
    free(spec);
    return t[0].bad || t[1].bad || !t[0].n;
}
