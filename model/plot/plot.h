#ifndef MODEL_PLOT_PLOT_H
#define MODEL_PLOT_PLOT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "model/eval/metrics.h"

/* Figures as PNG or SVG, by the program gnuplot (Debian's gnuplot-nox), which
 * is run for each: nothing is linked. path ends with .png or .svg and appears
 * whole or not at all. Texts may hold anything; control characters become
 * spaces. Errors: UT_EINVAL for another ending or nothing to draw, UT_ENOTFOUND
 * without gnuplot, UT_EIO with what it said, UT_ENOMEM. Thread: any. */

#define MDL_PLOT_CURVES 16

struct mdl_curve {
    const char *name;
    const double *x, *y; /* [n] */
    int n;
};

/* ROC curves, once on linear axes, once with a logarithmic one from 1e-4. */
UT_MUSTUSE enum ut_err mdl_plot_roc(const char *path, const char *title,
                                    const struct mdl_curve *curves, int n,
                                    struct ut_error *e);

/* Curves over steps, a panel for each title; curves [panels * n], those of the
 * first panel first; empty ones are left out, and panels without any. */
UT_MUSTUSE enum ut_err mdl_plot_training(const char *path,
                                         const char *const *titles, int panels,
                                         const struct mdl_curve *curves, int n,
                                         struct ut_error *e);

UT_MUSTUSE enum ut_err mdl_plot_confusion(const char *path, const char *title,
                                          const char *const classes[2],
                                          const struct mdl_confusion *c,
                                          struct ut_error *e);

/* Points in the plane, a colour for each class, a panel for each set. */
struct mdl_points {
    const char *title;
    const float *xy;     /* [n, 2] */
    const int *class_of; /* [n]; below classes */
    int n;
};
UT_MUSTUSE enum ut_err mdl_plot_points(const char *path,
                                       const struct mdl_points *sets, int n,
                                       const char *const *classes,
                                       int n_classes, struct ut_error *e);

/* Pictures in rows and columns, a name of one line or two for each row: cells
 * [rows, columns, side, side, 3]. */
UT_MUSTUSE enum ut_err mdl_plot_pictures(const char *path,
                                         const char *const *row_names, int rows,
                                         int columns, const uint8_t *cells,
                                         int side, struct ut_error *e);

#endif
