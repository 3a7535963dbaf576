#ifndef MODEL_ONNX_READER_H
#define MODEL_ONNX_READER_H

#include <stdbool.h>

/* Running out of memory is an error, not an exit. */
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(item) (item)->lost = true
#include <uthash.h>

#include "model/onnx/onnx.h"
#include "model/onnx/onnx.pb-c.h"

/* Private to the files that read ONNX: read.c goes through the file,
 * operators.c has a function for each operator, operands.c what those take:
 * names, attributes, constants, values. The first fault is kept; what comes
 * after it does nothing. Thread: one a reader. */

/* TensorProto.DataType. */
enum {
    ONNX_TYPE_FLOAT = 1,
    ONNX_TYPE_UINT8 = 2,
    ONNX_TYPE_INT64 = 7,
    ONNX_TYPE_FLOAT16 = 10,
};

enum onnx_kind {
    ONNX_RESULT,   /* value of the graph */
    ONNX_PICTURE,  /* the input, somewhat normalised */
    ONNX_CONSTANT, /* tensor */
};

struct onnx_entry {
    const char *name; /* the model's */
    enum onnx_kind kind;
    int value;
    bool flat; /* by Flatten or Reshape: [N, everything] */
    bool lost; /* not in the table: no memory */
    const Onnx__Tensor *tensor;
    struct mdl_onnx_input made; /* of a picture */
    bool last;                  /* of a picture: [N,H,W,3] as yet */
    UT_hash_handle hh;
};

struct onnx_reader {
    const char *name; /* of the file */
    Onnx__Model *model;
    const Onnx__Node *node;
    int at; /* the node's position */
    struct mdl_graph *g;
    struct onnx_entry *entries; /* table */
    int picture;                /* the graph's input */
    int n_params;
    struct ut_error *e;
    enum ut_err rc;
};

/* The first error, with the file and the node; -1. */
int onnx_bad(struct onnx_reader *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- operators.c ---- */

/* r->node into the graph. */
void onnx_node(struct onnx_reader *r);

/* ---- operands.c: names ---- */

struct onnx_entry *onnx_find(struct onnx_reader *r, const char *name);
/* NULL where the name is taken, or without memory. */
struct onnx_entry *onnx_add(struct onnx_reader *r, const char *name,
                            enum onnx_kind kind);
/* The i-th input, or NULL where it is absent. */
struct onnx_entry *onnx_given(struct onnx_reader *r, size_t i);

/* ---- attributes of the node: what it says, or other ---- */

const Onnx__Attribute *onnx_attribute(const struct onnx_reader *r,
                                      const char *name);
int64_t onnx_integer(const struct onnx_reader *r, const char *name,
                     int64_t other);
float onnx_number(const struct onnx_reader *r, const char *name, float other);
/* A list of n integers that are all the same and between low and high. */
int onnx_same(struct onnx_reader *r, const char *name, size_t n, int low,
              int high, int other);

/* ---- constants ---- */

/* A constant's numbers, malloc'ed. */
float *onnx_floats(struct onnx_reader *r, const struct onnx_entry *x,
                   struct mdl_shape *shape);
/* Whether a constant is the n integers of want. */
bool onnx_integers_are(const struct onnx_entry *x, const int64_t *want,
                       size_t n);
/* A parameter of the graph over numbers, which it takes. */
int onnx_param(struct onnx_reader *r, struct mdl_shape shape, float *data);
/* The constant input i as a parameter; -1 where it is absent. */
int onnx_weights(struct onnx_reader *r, size_t i, int n_dims);
/* A constant of one number. */
float onnx_scalar(struct onnx_reader *r, size_t i, float other);

/* ---- values ---- */

/* Input i as a value of the graph; a picture becomes its IMAGE node. */
int onnx_value(struct onnx_reader *r, size_t i);
/* As value, of [N,C,H,W] or [N,C]. */
int onnx_map(struct onnx_reader *r, size_t i);
/* v under the first output's name; -1 is passed over. */
void onnx_result(struct onnx_reader *r, int v);
/* The first input under the first output's name. */
void onnx_pass(struct onnx_reader *r, bool flat);

#endif
