/* A plug-in that other sources made. */
#include "model/backends/plugin.h"

extern const struct mdl_plugin tscaf_plugin;
const struct mdl_plugin tscaf_plugin = {.abi = MDL_PLUGIN_ABI + 1,
                                        .layout = MDL_PLUGIN_LAYOUT};
