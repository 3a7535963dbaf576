/* MobileNetV2 as torchvision builds it, at a width multiplier.
 *
 *   conv3x3 /2, then inverted residuals by the table below
 *     (conv1x1 xT - ReLU6 - depthwise3x3 - ReLU6 - conv1x1, + x if it fits),
 *   then conv1x1 to 1280. Every convolution is followed by BatchNorm.
 *
 * Source: Sandler et al. 2018, table 2; tests/golden/reference.py. */
#include <stdio.h>

#include "model/nets/nets.h"

static const struct {
    int expand, channels, repeat, stride;
} table[] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
             {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};

/* Rounded to a multiple of 8, but not below 0.9 v. */
static int divisible(double v)
{
    int n = (int)(v + 4) / 8 * 8;

    if (n < 8)
        n = 8;
    return n < 0.9 * v ? n + 8 : n;
}

static int conv_bn_relu6(struct mdl_graph *g, int x, const char *prefix,
                         int out, int kernel, int stride, int groups)
{
    char name[MDL_NAME_LEN];

    snprintf(name, sizeof(name), "%s.0", prefix);
    x = mdl_net_conv(g, x, name, out, kernel, stride, groups);
    snprintf(name, sizeof(name), "%s.1", prefix);
    x = mdl_net_batchnorm(g, x, name);
    return mdl_graph_act(g, x, MDL_ACT_RELU6, 0, -1);
}

static int inverted(struct mdl_graph *g, int x, const char *prefix, int out,
                    int stride, int expand)
{
    char name[MDL_NAME_LEN];
    int y = x, at = 0, in, hidden;

    if (x < 0)
        return -1;
    in = (int)g->values[x].shape.dim[0];
    hidden = in * expand;
    if (expand != 1) {
        snprintf(name, sizeof(name), "%s.conv.%d", prefix, at++);
        y = conv_bn_relu6(g, y, name, hidden, 1, 1, 1);
    }
    snprintf(name, sizeof(name), "%s.conv.%d", prefix, at++);
    y = conv_bn_relu6(g, y, name, hidden, 3, stride, hidden);
    snprintf(name, sizeof(name), "%s.conv.%d", prefix, at++);
    y = mdl_net_conv(g, y, name, out, 1, 1, 1);
    snprintf(name, sizeof(name), "%s.conv.%d", prefix, at);
    y = mdl_net_batchnorm(g, y, name);
    if (stride == 1 && in == out)
        y = mdl_graph_add(g, (int[]){y, x}, 2);
    return y;
}

int mdl_net_mobilenetv2(struct mdl_graph *g, int x,
                        const struct mdl_spec_node *n)
{
    char name[MDL_NAME_LEN];
    int at = 0;

    snprintf(name, sizeof(name), "%s.stem", n->name);
    mdl_graph_module(g, name);
    snprintf(name, sizeof(name), "%s.features.%d", n->name, at++);
    x = conv_bn_relu6(g, x, name, divisible(32 * n->width), 3, 2, 1);
    for (size_t t = 0; t < sizeof(table) / sizeof(table[0]); t++) {
        snprintf(name, sizeof(name), "%s.stage%zu", n->name, t + 1);
        mdl_graph_module(g, name);
        for (int i = 0; i < table[t].repeat; i++) {
            snprintf(name, sizeof(name), "%s.features.%d", n->name, at++);
            x = inverted(g, x, name, divisible(table[t].channels * n->width),
                         i == 0 ? table[t].stride : 1, table[t].expand);
        }
    }
    snprintf(name, sizeof(name), "%s.last", n->name);
    mdl_graph_module(g, name);
    snprintf(name, sizeof(name), "%s.features.%d", n->name, at);
    return conv_bn_relu6(
        g, x, name, divisible(1280 * (n->width > 1 ? n->width : 1)), 1, 1, 1);
}
