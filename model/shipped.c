/* Finding the weights that ship. */
#include "model/shipped.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* model/weights of the tree; the Makefile says it. */
#ifndef MDL_WEIGHTS_DIR
#define MDL_WEIGHTS_DIR "model/weights"
#endif

bool mdl_shipped(const char *name, char *path, size_t size)
{
    char program[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
    char *slash;

    if (n > 0) {
        program[n] = '\0';
        slash = strrchr(program, '/');
        if (slash)
            *slash = '\0';
        if ((size_t)snprintf(path, size, "%s/../share/tscaf/%s", program,
                             name) < size &&
            !access(path, R_OK))
            return true;
    }
    return (size_t)snprintf(path, size, "%s/%s", MDL_WEIGHTS_DIR, name) <
               size &&
           !access(path, R_OK);
}
