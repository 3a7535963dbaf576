/* IResNet, the improved residual network of ArcFace.
 *
 *   [3,S,S] conv3x3 - BN - PReLU                      [w0,S,S]
 *   per stage, layers[i] blocks, the first with stride 2:
 *     x -> BN - conv3x3 - BN - PReLU - conv3x3 - BN -> + shortcut
 *     shortcut: x, or in the first block conv1x1 - BN
 *   BN                                                [w3,S/16,S/16]
 *
 * Source: tests/golden/reference.py; tensor names are InsightFace's. */
#include <stdio.h>

#include "model/nets/nets.h"

static int prelu(struct mdl_graph *g, int x, const char *prefix)
{
    int slope;

    if (x < 0)
        return -1;
    slope = mdl_graph_param(g, MDL_VALUE_PARAM,
                            mdl_shape_of(1, (int)g->values[x].shape.dim[0]),
                            "%s.weight", prefix);
    return mdl_graph_act(g, x, MDL_ACT_PRELU, 0, slope);
}

static int block(struct mdl_graph *g, int x, const char *prefix, int width,
                 bool first)
{
    char name[MDL_NAME_LEN];
    int y, sum[2];

#define NAME(part) (snprintf(name, sizeof(name), "%s.%s", prefix, part), name)
    y = mdl_net_batchnorm(g, x, NAME("bn1"));
    y = mdl_net_conv(g, y, NAME("conv1"), width, 3, 1, 1);
    y = mdl_net_batchnorm(g, y, NAME("bn2"));
    y = prelu(g, y, NAME("prelu"));
    y = mdl_net_conv(g, y, NAME("conv2"), width, 3, first ? 2 : 1, 1);
    sum[0] = mdl_net_batchnorm(g, y, NAME("bn3"));
    sum[1] = x;
    if (first) {
        y = mdl_net_conv(g, x, NAME("downsample.0"), width, 1, 2, 1);
        sum[1] = mdl_net_batchnorm(g, y, NAME("downsample.1"));
    }
#undef NAME
    return mdl_graph_add(g, sum, 2);
}

int mdl_net_iresnet(struct mdl_graph *g, int x, const struct mdl_spec_node *n)
{
    char name[MDL_NAME_LEN];

    snprintf(name, sizeof(name), "%s.stem", n->name);
    mdl_graph_module(g, name);
    snprintf(name, sizeof(name), "%s.conv1", n->name);
    x = mdl_net_conv(g, x, name, n->widths[0], 3, 1, 1);
    snprintf(name, sizeof(name), "%s.bn1", n->name);
    x = mdl_net_batchnorm(g, x, name);
    snprintf(name, sizeof(name), "%s.prelu", n->name);
    x = prelu(g, x, name);
    for (int s = 0; s < n->n_stages; s++) {
        snprintf(name, sizeof(name), "%s.layer%d", n->name, s + 1);
        mdl_graph_module(g, name);
        for (int b = 0; b < n->layers[s]; b++) {
            snprintf(name, sizeof(name), "%s.layer%d.%d", n->name, s + 1, b);
            x = block(g, x, name, n->widths[s], b == 0);
        }
    }
    snprintf(name, sizeof(name), "%s.bn2", n->name);
    return mdl_net_batchnorm(g, x, name);
}
