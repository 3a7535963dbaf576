#ifndef MODEL_PLOT_GNUPLOT_H
#define MODEL_PLOT_GNUPLOT_H

#include "base/buf.h"

/* A script for gnuplot under construction, and its run; for plot.c. */

struct mdl_gnuplot {
    struct ut_buf script;
    char path[4096];       /* what is asked for */
    char part[4160];       /* what gnuplot writes */
    struct ut_error error; /* the first; nothing is added after it */
};

/* Begins: terminal, size in pixels, the house's look. */
void mdl_gnuplot_begin(struct mdl_gnuplot *g, const char *path, int width,
                       int height);
void mdl_gnuplot_add(struct mdl_gnuplot *g, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* A text as gnuplot's string. */
void mdl_gnuplot_text(struct mdl_gnuplot *g, const char *text);

/* Runs it and frees the script. data: len bytes that the script reads as the
 * file '/dev/fd/3'; may be NULL. */
UT_MUSTUSE enum ut_err mdl_gnuplot_end(struct mdl_gnuplot *g, const void *data,
                                       size_t len, struct ut_error *e);

#endif
