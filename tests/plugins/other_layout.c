/* A plug-in of this version whose structs are of other sizes. */
#include "model/backends/plugin.h"

extern const struct mdl_plugin tscaf_plugin;
const struct mdl_plugin tscaf_plugin = {.abi = MDL_PLUGIN_ABI,
                                        .layout = MDL_PLUGIN_LAYOUT + 1};
