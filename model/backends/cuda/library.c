/* A vendor's library, opened when a GPU was found. */
#include <dlfcn.h>

#include "model/backends/cuda/engines.h"

enum ut_err gpu_library(const char *vendor, const char *file,
                        const struct gpu_symbol *symbols, int n, void **library,
                        struct ut_error *e)
{
    void *opened = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const char *why = opened ? NULL : dlerror();

    if (!opened)
        return ut_fail(e, UT_EDEVICE, "%s does not load: %.180s", vendor,
                       why ? why : file);
    for (int i = 0; i < n; i++) {
        *symbols[i].at = dlsym(opened, symbols[i].name);
        if (*symbols[i].at)
            continue;
        dlclose(opened);
        return ut_fail(e, UT_EDEVICE, "%s has no %s", file, symbols[i].name);
    }
    *library = opened;
    return UT_OK;
}
