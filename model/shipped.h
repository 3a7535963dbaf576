#ifndef MODEL_SHIPPED_H
#define MODEL_SHIPPED_H

#include <stdbool.h>
#include <stddef.h>

/* Weights that ship with the programs. */

#define MDL_SHIPPED_MODEL "tscaf_mobilenetv2.safetensors"
#define MDL_SHIPPED_DETECTOR "retinaface_mobilenet025.safetensors"

/* Where a file of model/weights lies: installed, PREFIX/share/tscaf beside the
 * program's PREFIX/bin; else in the tree that the program was built from. False
 * if it is in neither; path [size] then says the second. Thread: any. */
bool mdl_shipped(const char *name, char *path, size_t size);

#endif
