#ifndef MODEL_PANEL_H
#define MODEL_PANEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Products with a tall matrix W [rows, columns] that is read once: a fully
 * connected layer's weights, a gallery's templates. W lies in panels of 32
 * rows, [rows / 32][columns][32], bfloat16 with columns in pairs,
 * [rows / 32][columns / 2][32][2]; rows are padded to whole panels, zero or
 * not, and 64-byte aligned. Thread: any, on different y. */

#define MDL_PANEL_ROWS 32

/* Elements of a packed matrix. */
size_t mdl_panel_count(size_t rows, size_t columns);

/* One element's place. bf16: columns is even. */
static inline size_t mdl_panel_at(bool bf16, size_t columns, size_t row,
                                  size_t column)
{
    size_t first = row / MDL_PANEL_ROWS * MDL_PANEL_ROWS * columns;
    size_t k = row % MDL_PANEL_ROWS;

    return bf16 ? first + column / 2 * 2 * MDL_PANEL_ROWS + 2 * k + column % 2
                : first + column * MDL_PANEL_ROWS + k;
}

/* y[n, rows] += x[n, columns] W^T; x is of W's type, y float32 without
 * padding. x's images lie stride elements apart. */
void mdl_panel_product(bool bf16, const void *panels, size_t rows,
                       size_t columns, const void *x, size_t stride, int n,
                       float *y);

#endif
