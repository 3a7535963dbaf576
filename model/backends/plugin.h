#ifndef MODEL_BACKENDS_PLUGIN_H
#define MODEL_BACKENDS_PLUGIN_H

#include "model/backend.h"
#include "model/panel.h"

/* A backend in a shared library of its own (libtscaf-cuda.so), opened when it
 * is wanted: programs neither link nor include what it stands on. */

#define MDL_PLUGIN_SYMBOL "tscaf_plugin" /* const struct mdl_plugin */
#define MDL_PLUGIN_ABI 1                 /* of struct mdl_plugin and its use */

/* The structs of learner.h that both sides look into. */
#define MDL_PLUGIN_LEARNER                                                     \
    (sizeof(struct mdl_learner_ops) * 7 + sizeof(struct mdl_tensor) * 11 +     \
     sizeof(struct mdl_gather) * 13 + sizeof(struct mdl_running) * 17 +        \
     sizeof(struct mdl_own) * 19 + sizeof(struct mdl_move) * 23 +              \
     sizeof(struct mdl_optimizer) * 29 + sizeof(struct mdl_arcface) * 37 +     \
     sizeof(struct mdl_distill) * 41 + sizeof(struct mdl_hint) * 43)

/* The numbers that both sides mean the same by. */
#define MDL_PLUGIN_NUMBERS                                                     \
    (MDL_OP_LAST * 47 + MDL_ACT_LAST * 53 + MDL_PREC_TF32 * 59 +               \
     MDL_MAX_OUTPUTS * 61 + MDL_INDEX_QUERIES * 67 + MDL_INDEX_NEAR * 71 +     \
     MDL_PANEL_ROWS * 73 + MDL_LEARNER_DEVICES * 79)

/* Changes with the structs that both sides look into, and those numbers. */
#define MDL_PLUGIN_LAYOUT                                                      \
    (uint32_t)(                                                                \
        ((sizeof(struct mdl_graph) * 31 + sizeof(struct mdl_node)) * 31 +      \
         sizeof(struct mdl_value)) *                                           \
            31 +                                                               \
        (sizeof(struct mdl_backend_ops) * 31 + sizeof(struct mdl_index_ops)) * \
            31 +                                                               \
        MDL_PLUGIN_LEARNER + MDL_PLUGIN_NUMBERS +                              \
        sizeof(struct mdl_device_stats) + sizeof(struct mdl_io) * 83)

struct mdl_plugin {
    uint32_t abi, layout; /* of the sources it was built from */
    const struct mdl_backend_ops *ops;
};

/* Opens the plug-in of a backend: the file that $TSCAF_CUDA_PLUGIN names, else
 * libtscaf-cuda.so beside the program, else in ../lib/tscaf. *handle goes to
 * mdl_plugin_close. Errors: UT_EDEVICE with the reason, in one line: no file,
 * a library of its own is missing (cuDNN), another version. Thread: any. */
UT_MUSTUSE enum ut_err mdl_plugin_open(void **handle,
                                       const struct mdl_backend_ops **ops,
                                       struct ut_error *e);
void mdl_plugin_close(void *handle); /* accepts NULL */

#endif
