/* Finding and opening the CUDA backend's plug-in. */
#include "model/backends/plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME "libtscaf-cuda.so"
#define PATH_LEN 4096

/* Where the plug-in is, or would be: false where none is. */
static bool find(char path[PATH_LEN])
{
    static const char *const places[] = {"", "../lib/tscaf/"};
    const char *given = getenv("TSCAF_CUDA_PLUGIN");
    char program[PATH_LEN - 64];
    ssize_t len;
    char *end;

    if (given && *given) {
        snprintf(path, PATH_LEN, "%s", given);
        return access(path, R_OK) == 0;
    }
    snprintf(path, PATH_LEN, "%s", FILE_NAME);
    len = readlink("/proc/self/exe", program, sizeof(program) - 1);
    if (len < 0)
        return false;
    program[len] = '\0';
    end = strrchr(program, '/');
    if (end)
        end[1] = '\0';
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(path, PATH_LEN, "%s%s%s", program, places[i], FILE_NAME);
        if (access(path, R_OK) == 0)
            return true;
    }
    snprintf(path, PATH_LEN, "%s%s", program, FILE_NAME);
    return false;
}

enum ut_err mdl_plugin_open(void **handle, const struct mdl_backend_ops **ops,
                            struct ut_error *e)
{
    const struct mdl_plugin *plugin;
    char path[PATH_LEN];

    *handle = NULL;
    if (!find(path))
        return ut_fail(e, UT_EDEVICE, "there is no plug-in %.200s", path);
    /* Local and for good: the vendor's libraries do not bear unloading. */
    *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!*handle) {
        const char *why = dlerror();

        return ut_fail(e, UT_EDEVICE, "the plug-in does not load: %.200s",
                       why ? why : path);
    }
    plugin = dlsym(*handle, MDL_PLUGIN_SYMBOL);
    if (plugin && plugin->abi == MDL_PLUGIN_ABI &&
        plugin->layout == MDL_PLUGIN_LAYOUT) {
        *ops = plugin->ops;
        return UT_OK;
    }
    mdl_plugin_close(*handle);
    *handle = NULL;
    if (!plugin)
        return ut_fail(e, UT_EDEVICE, "%.180s is no plug-in of tscaf", path);
    if (plugin->abi != MDL_PLUGIN_ABI)
        return ut_fail(e, UT_EDEVICE,
                       "%.140s was built for another version of tscaf "
                       "(interface %u, this is %u)",
                       path, plugin->abi, MDL_PLUGIN_ABI);
    return ut_fail(e, UT_EDEVICE,
                   "%.140s was built for another version of tscaf (layout %u, "
                   "this is %u)",
                   path, plugin->layout, MDL_PLUGIN_LAYOUT);
}

void mdl_plugin_close(void *handle)
{
    if (handle)
        dlclose(handle);
}
