/* A plug-in that finds no device. */
#include <stdio.h>

#include "model/backends/plugin.h"

static enum ut_err open_none(int device, void **ctx, struct ut_error *e)
{
    *ctx = NULL;
    e->code = UT_EDEVICE;
    snprintf(e->msg, sizeof(e->msg), "device %d is not there", device);
    return e->code;
}

extern const struct mdl_plugin tscaf_plugin;
static const struct mdl_backend_ops ops = {.name = "cuda", .open = open_none};
const struct mdl_plugin tscaf_plugin = {
    .abi = MDL_PLUGIN_ABI, .layout = MDL_PLUGIN_LAYOUT, .ops = &ops};
