#ifndef MODEL_NETS_NETS_H
#define MODEL_NETS_NETS_H

#include "model/graph.h"
#include "model/spec.h"

/* The modules that trees are made of. Each appends its nodes to g and returns
 * its output value, or -1 with g->error set; tensor names begin with the spec
 * node's name. Source: tests/golden/reference.py. */

/* BatchNorm with the names PREFIX.weight, .bias, .running_mean, .running_var;
 * eps 1e-5. */
int mdl_net_batchnorm(struct mdl_graph *g, int x, const char *prefix);

/* Convolution without bias, PREFIX.weight [out, C/groups, kernel, kernel];
 * padded by kernel / 2. */
int mdl_net_conv(struct mdl_graph *g, int x, const char *prefix, int out,
                 int kernel, int stride, int groups);

/* x [3,S,S] -> [widths[last], S/2^n, S/2^n]. */
int mdl_net_iresnet(struct mdl_graph *g, int x, const struct mdl_spec_node *n);

/* x [3,S,S] -> [max(1280, 1280 width), S/32, S/32], rounded up. */
int mdl_net_mobilenetv2(struct mdl_graph *g, int x,
                        const struct mdl_spec_node *n);

/* x + LANet(x) + SENet(x), or part of it; outputs "<name>.attention.la" and
 * ".se". Source: the paper's equations (1) to (4). */
int mdl_net_branch(struct mdl_graph *g, int x, const struct mdl_spec_node *n);

/* The operations of a "graph" node. Errors name the node and the operation. */
int mdl_net_graph(struct mdl_graph *g, int x, const struct mdl_spec *spec,
                  const struct mdl_spec_node *n);

/* The leaf's head: outputs ".logit" and ".probability", or ".embedding" and
 * ".embedding.normalized". An x that is a vector already (a graph's end) is
 * taken as the logit or embedding, and must be as long. */
void mdl_net_head(struct mdl_graph *g, int x, const struct mdl_spec_node *n);

#endif
