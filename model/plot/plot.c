/* Each figure as a script. */
#include "model/plot/plot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/plot/gnuplot.h"

#define CELL_PX 112
#define NAME_PX 190 /* left of a row of pictures */

/* $d<i>: a curve's points. */
static void add_curve(struct mdl_gnuplot *g, int i, const struct mdl_curve *c)
{
    mdl_gnuplot_add(g, "$d%d << EOD\n", i);
    for (int k = 0; k < c->n; k++)
        if (isfinite(c->x[k]) && isfinite(c->y[k]))
            mdl_gnuplot_add(g, "%.9g %.9g\n", c->x[k], c->y[k]);
    mdl_gnuplot_add(g, "EOD\n");
}

static void add_lines(struct mdl_gnuplot *g, const struct mdl_curve *curves,
                      int first, int n, const char *style)
{
    const char *before = "";

    for (int i = 0; i < n; i++) {
        if (!curves[first + i].n)
            continue;
        mdl_gnuplot_add(g, "%s$d%d using 1:2 with %s lt %d title ", before,
                        first + i, style, i + 1);
        mdl_gnuplot_text(g, curves[first + i].name);
        before = ", ";
    }
    mdl_gnuplot_add(g, "\n");
}

static enum ut_err check_curves(int n, struct ut_error *e)
{
    return n >= 1 && n <= MDL_PLOT_CURVES
               ? UT_OK
               : ut_fail(e, UT_EINVAL, "%d curves are not from 1 to %d", n,
                         MDL_PLOT_CURVES);
}

enum ut_err mdl_plot_roc(const char *path, const char *title,
                         const struct mdl_curve *curves, int n,
                         struct ut_error *e)
{
    struct mdl_gnuplot g;
    enum ut_err rc = check_curves(n, e);

    if (rc)
        return rc;
    mdl_gnuplot_begin(&g, path, 1120, 520);
    for (int i = 0; i < n; i++)
        add_curve(&g, i, &curves[i]);
    mdl_gnuplot_add(&g, "set multiplot layout 1,2 title ");
    mdl_gnuplot_text(&g, title);
    mdl_gnuplot_add(&g, " font ',13'\n"
                        "set key bottom right opaque box lc rgb '#d0d0d0' "
                        "samplen 2 spacing 1.2\n"
                        "set xlabel 'false positive rate'\n"
                        "set ylabel 'true positive rate'\n"
                        "set yrange [0:1]\nset xrange [0:1]\n"
                        "set size square\nplot x with lines lc rgb '#b0b0b0' "
                        "lw 1 dt 2 notitle, ");
    add_lines(&g, curves, 0, n, "lines");
    mdl_gnuplot_add(&g, "unset key\nset logscale x\nset xrange [1e-4:1]\n"
                        "set format x '%%g'\nplot x with lines lc rgb "
                        "'#b0b0b0' lw 1 dt 2 notitle, ");
    add_lines(&g, curves, 0, n, "lines");
    mdl_gnuplot_add(&g, "unset multiplot\n");
    return mdl_gnuplot_end(&g, NULL, 0, e);
}

enum ut_err mdl_plot_training(const char *path, const char *const *titles,
                              int panels, const struct mdl_curve *curves, int n,
                              struct ut_error *e)
{
    struct mdl_gnuplot g;
    int drawn = 0;
    enum ut_err rc = check_curves(n, e);

    for (int i = 0, any; i < panels && !rc; i++) {
        any = 0;
        for (int k = 0; k < n; k++)
            any |= curves[i * n + k].n;
        drawn += any != 0;
    }
    if (!rc && !drawn)
        rc = ut_fail(e, UT_EINVAL, "there is no step to draw");
    if (rc)
        return rc;
    mdl_gnuplot_begin(&g, path, 560 * drawn, 440);
    for (int i = 0; i < panels * n; i++)
        add_curve(&g, i, &curves[i]);
    mdl_gnuplot_add(&g,
                    "set multiplot layout 1,%d\nset xlabel 'step'\n"
                    "set yrange [0:*]\nset key top right\n",
                    drawn);
    for (int i = 0, any; i < panels; i++) {
        any = 0;
        for (int k = 0; k < n; k++)
            any |= curves[i * n + k].n;
        if (!any)
            continue;
        mdl_gnuplot_add(&g, "set title ");
        mdl_gnuplot_text(&g, titles[i]);
        mdl_gnuplot_add(&g, "\nplot ");
        add_lines(&g, curves, i * n, n, "lines");
    }
    mdl_gnuplot_add(&g, "unset multiplot\n");
    return mdl_gnuplot_end(&g, NULL, 0, e);
}

enum ut_err mdl_plot_confusion(const char *path, const char *title,
                               const char *const classes[2],
                               const struct mdl_confusion *c,
                               struct ut_error *e)
{
    /* Row: the truth, column: the answer. */
    const int count[2][2] = {{c->true_negative, c->false_positive},
                             {c->false_negative, c->true_positive}};
    struct mdl_gnuplot g;

    mdl_gnuplot_begin(&g, path, 520, 470);
    mdl_gnuplot_add(&g, "set title ");
    mdl_gnuplot_text(&g, title);
    mdl_gnuplot_add(&g, "\nunset grid\nunset key\nset border 15\n"
                        "set palette defined (0 '#ffffff', 1 '#0072b2')\n"
                        "set cbrange [0:1]\nset cblabel 'share of the row'\n"
                        "set xrange [-0.5:1.5]\nset yrange [1.5:-0.5]\n"
                        "set xlabel 'answer'\nset ylabel 'truth'\n"
                        "set size square\nset tics scale 0\n");
    for (int i = 0; i < 2; i++) {
        mdl_gnuplot_add(&g, "set %s (", i ? "ytics" : "xtics");
        mdl_gnuplot_text(&g, classes[0]);
        mdl_gnuplot_add(&g, " 0, ");
        mdl_gnuplot_text(&g, classes[1]);
        mdl_gnuplot_add(&g, " 1)%s\n", i ? " rotate by 90 center" : "");
    }
    mdl_gnuplot_add(&g, "$d0 << EOD\n");
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            int row = count[i][0] + count[i][1];
            double share = row ? (double)count[i][j] / row : 0;

            mdl_gnuplot_add(&g, "%d %d %g \"%d\\n%.1f %%\" %d\n", j, i, share,
                            count[i][j], 100 * share,
                            share > 0.6 ? 0xffffff : 0x202020);
        }
    mdl_gnuplot_add(&g, "EOD\nplot $d0 using 1:2:3 with image, $d0 using "
                        "1:2:4:5 with labels font ',15' textcolor rgb "
                        "variable\n");
    return mdl_gnuplot_end(&g, NULL, 0, e);
}

enum ut_err mdl_plot_points(const char *path, const struct mdl_points *sets,
                            int n, const char *const *classes, int n_classes,
                            struct ut_error *e)
{
    struct mdl_gnuplot g;

    if (n < 1 || n > MDL_PLOT_CURVES || n_classes < 1 ||
        n_classes > MDL_PLOT_CURVES)
        return ut_fail(e, UT_EINVAL,
                       "%d sets of %d classes are not from 1 to %d", n,
                       n_classes, MDL_PLOT_CURVES);
    mdl_gnuplot_begin(&g, path, 480 * n + 170, 500);
    mdl_gnuplot_add(&g, "unset grid\nunset tics\nset border 15 lc rgb "
                        "'#d0d0d0'\nset size ratio -1\n");
    for (int i = 0; i < n; i++)
        for (int c = 0; c < n_classes; c++) {
            mdl_gnuplot_add(&g, "$d%d << EOD\n", i * n_classes + c);
            for (int k = 0; k < sets[i].n; k++)
                if (sets[i].class_of[k] == c)
                    mdl_gnuplot_add(&g, "%.6g %.6g\n",
                                    (double)sets[i].xy[2 * k],
                                    (double)sets[i].xy[2 * k + 1]);
            mdl_gnuplot_add(&g, "EOD\n");
        }
    mdl_gnuplot_add(&g,
                    "set multiplot layout 1,%d margins screen 0.02,%g,0.04,0.9 "
                    "spacing screen 0.02\nset offsets graph 0.04, graph 0.04, "
                    "graph 0.04, graph 0.04\nset key at screen 0.995,0.9 top "
                    "right samplen 0.5\n",
                    n, 1 - 170.0 / (480 * n + 170));
    for (int i = 0; i < n; i++) {
        mdl_gnuplot_add(&g, "set title ");
        mdl_gnuplot_text(&g, sets[i].title);
        mdl_gnuplot_add(&g, "\nplot ");
        for (int c = 0; c < n_classes; c++) {
            mdl_gnuplot_add(
                &g, "%s$d%d using 1:2 with points pt %d ps 0.7 lt %d ",
                c ? ", " : "", i * n_classes + c, c < 8 ? 7 : 5, c % 8 + 1);
            if (i) { /* one key serves all panels */
                mdl_gnuplot_add(&g, "notitle");
                continue;
            }
            mdl_gnuplot_add(&g, "title ");
            mdl_gnuplot_text(&g, classes[c]);
        }
        mdl_gnuplot_add(&g, "\n");
    }
    mdl_gnuplot_add(&g, "unset multiplot\n");
    return mdl_gnuplot_end(&g, NULL, 0, e);
}

/* A row's name, of one line or of two, around y. */
static void add_name(struct mdl_gnuplot *g, const char *name, int y)
{
    char first[256];
    const char *second = strchr(name, '\n');

    snprintf(first, sizeof(first), "%.*s",
             second ? (int)(second - name) : (int)sizeof(first) - 1, name);
    mdl_gnuplot_add(g, "set label ");
    mdl_gnuplot_text(g, first);
    mdl_gnuplot_add(g, " at %d,%d right\n", NAME_PX - 10, y - (second ? 9 : 0));
    if (!second)
        return;
    mdl_gnuplot_add(g, "set label ");
    mdl_gnuplot_text(g, second + 1);
    mdl_gnuplot_add(g, " at %d,%d right\n", NAME_PX - 10, y + 9);
}

enum ut_err mdl_plot_pictures(const char *path, const char *const *row_names,
                              int rows, int columns, const uint8_t *cells,
                              int side, struct ut_error *e)
{
    int width = NAME_PX + columns * (CELL_PX + 4),
        height = rows * (CELL_PX + 4);
    size_t cell = (size_t)side * (size_t)side * 3;
    struct mdl_gnuplot g;

    if (rows < 1 || columns < 1)
        return ut_fail(e, UT_EINVAL, "there is no picture to draw");
    mdl_gnuplot_begin(&g, path, width, height);
    mdl_gnuplot_add(&g,
                    "unset border\nunset tics\nunset grid\nunset key\n"
                    "set margins 0,0,0,0\nset xrange [0:%d]\nset yrange "
                    "[%d:0]\n",
                    width, height);
    for (int r = 0; r < rows; r++)
        add_name(&g, row_names[r], r * (CELL_PX + 4) + CELL_PX / 2);
    for (int k = 0; k < rows * columns; k++)
        mdl_gnuplot_add(
            &g,
            "%s'/dev/fd/3' binary skip=%zu array=(%d,%d) format='%%uchar' "
            "dx=%g dy=%g origin=(%g,%g) using 1:2:3 with rgbimage",
            k ? ", " : "plot ", (size_t)k * cell, side, side,
            (double)CELL_PX / side, (double)CELL_PX / side,
            NAME_PX + k % columns * (CELL_PX + 4) + 0.5 * CELL_PX / side,
            k / columns * (CELL_PX + 4) + 2 + 0.5 * CELL_PX / side);
    mdl_gnuplot_add(&g, "\n");
    return mdl_gnuplot_end(&g, cells, (size_t)(rows * columns) * cell, e);
}
