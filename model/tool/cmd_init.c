/* tscaf-model init: an untrained model file. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/tool/cmd.h"

static const char help[] =
    "usage: tscaf-model init [--seed N] [--name NAME] SPEC OUT\n"
    "\n"
    "Writes OUT with fresh weights, marked \"trained\": \"false\". SPEC is a "
    "JSON file\n"
    "or one of the built-in trees, iresnet50 and mobilenetv2.\n"
    "\n"
    "  --seed N     seed of the weights (1)\n"
    "  --name NAME  the model's name in answers (untrained)\n";

static int write_fresh(const char *spec_path, const char *out, uint64_t seed,
                       const char *name)
{
    struct mdl_st_pair meta[] = {{"name", name}, {"trained", "false"}};
    struct mdl_spec *spec = malloc(sizeof(*spec));
    struct mdl_model m = {0};
    struct ut_error e;
    enum ut_err rc;

    rc = spec ? cmd_read_spec(spec_path, spec, &e)
              : ut_fail(&e, UT_ENOMEM, "no memory");
    if (!rc)
        rc = mdl_model_fresh(spec, seed, &m, &e);
    if (!rc)
        rc = mdl_model_write(out, &m.spec, &m.graph, meta, 2, NULL, 0, &e);
    mdl_model_close(&m);
    free(spec);
    return rc ? cmd_fail(&e) : 0;
}

int cmd_init(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},
        {"name", required_argument, NULL, 'n'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const char *name = "untrained";
    uint64_t seed = 1;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'h')
            return fputs(help, stdout) < 0;
        if (c == 'n')
            name = optarg;
        if (c == 's' && !cmd_parse_seed(optarg, &seed)) {
            fprintf(stderr, "tscaf-model: --seed %s is no number\n", optarg);
            return 2;
        }
        if (c == '?')
            return 2;
    }
    if (argc - optind != 2) {
        fputs(help, stderr);
        return 2;
    }
    return write_fresh(argv[optind], argv[optind + 1], seed, name);
}
