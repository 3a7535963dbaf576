#ifndef MODEL_TOOL_CMD_H
#define MODEL_TOOL_CMD_H

#include "model/backend.h"
#include "model/model.h"

/* The commands of tscaf-model. Each takes argv from its own name on, prints
 * to stdout, complains on stderr, and returns the exit code: 0 done, 1
 * failed, 2 wrong usage. */
int cmd_describe(int argc, char **argv);
int cmd_init(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_graft(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_train(int argc, char **argv);
int cmd_train_detector(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_calibrate(int argc, char **argv);
int cmd_eval_detector(int argc, char **argv);
int cmd_plot(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_study(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_sample(int argc, char **argv);

/* Prints "tscaf-model: MESSAGE" to stderr and returns 1. */
int cmd_fail(const struct ut_error *e);

/* A seed from an option's text; false for what is no number from 0 on. */
bool cmd_parse_seed(const char *text, uint64_t *out);

/* As mdl_backend_open on device 0; where "auto" did not take CUDA, a line on
 * stderr says why. */
UT_MUSTUSE enum ut_err cmd_open_backend(const char *name,
                                        struct mdl_backend **out,
                                        struct ut_error *e);
/* Says the same of a backend that is opened later, before long work. */
UT_MUSTUSE enum ut_err cmd_check_backend(const char *name, struct ut_error *e);

/* Reads a spec from a JSON file, or the built-in of that name. */
UT_MUSTUSE enum ut_err cmd_read_spec(const char *path, struct mdl_spec *out,
                                     struct ut_error *e);

/* A tree over an InsightFace IResNet state dict in the file `in`, written as
 * `out` (cmd_import.c's part of graft). */
UT_MUSTUSE enum ut_err cmd_graft_insightface(const char *in, const char *out,
                                             const char *name, uint64_t seed,
                                             struct ut_error *e);

#endif
