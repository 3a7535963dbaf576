/* What all networks use: a convolution and a BatchNorm by name. */
#include "model/nets/nets.h"

int mdl_net_batchnorm(struct mdl_graph *g, int x, const char *prefix)
{
    struct mdl_shape c;
    int gamma, beta, mean, var;

    if (x < 0)
        return -1;
    c = mdl_shape_of(1, (int)g->values[x].shape.dim[0]);
    gamma = mdl_graph_param(g, MDL_VALUE_PARAM, c, "%s.weight", prefix);
    beta = mdl_graph_param(g, MDL_VALUE_PARAM, c, "%s.bias", prefix);
    mean = mdl_graph_param(g, MDL_VALUE_BUFFER, c, "%s.running_mean", prefix);
    var = mdl_graph_param(g, MDL_VALUE_BUFFER, c, "%s.running_var", prefix);
    return mdl_graph_batchnorm(g, x, gamma, beta, mean, var, 1e-5f);
}

int mdl_net_conv(struct mdl_graph *g, int x, const char *prefix, int out,
                 int kernel, int stride, int groups)
{
    int w;

    if (x < 0)
        return -1;
    w = mdl_graph_param(g, MDL_VALUE_PARAM,
                        mdl_shape_of(4, out,
                                     (int)g->values[x].shape.dim[0] / groups,
                                     kernel, kernel),
                        "%s.weight", prefix);
    return mdl_graph_conv(g, x, w, -1, stride, kernel / 2, groups);
}
