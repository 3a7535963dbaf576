/* tscaf: the command line client. Dispatches to cmd_*.c. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/tool/cmd.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"analyze", cmd_analyze, "fatigue and identity of every face in pictures"},
    {"enroll", cmd_enroll, "a folder of identities into the gallery"},
    {"identities", cmd_identities, "list, show, create, change, delete"},
    {"verify", cmd_verify, "two pictures of one person, or not?"},
    {"search", cmd_search, "the nearest identities to a face"},
    {"models", cmd_models,
     "what the server answers with: list, activate, rollback"},
    {"datasets", cmd_datasets, "what models are trained on"},
    {"jobs", cmd_jobs, "training: start, watch, pause, cancel"},
    {"keys", cmd_keys, "API keys: create, list, delete"},
    {"audit", cmd_audit, "who changed what"},
    {"bench", cmd_bench, "load, latency and throughput"},
};

#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static int usage(FILE *to)
{
    fprintf(to, "usage: tscaf COMMAND ...\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-11s %s\n", commands[i].name, commands[i].help);
    fprintf(
        to,
        "\n"
        "Every command takes:\n"
        "  --url URL        the server (TSCAF_URL, else "
        "http://127.0.0.1:8080)\n"
        "  --key-file FILE  an API key, on the first line (else TSCAF_KEY)\n"
        "  --cacert FILE    certificates to trust for https (TSCAF_CACERT)\n"
        "  --timeout MS     for one request (30000); the server knows it too\n"
        "  --retries N      when the server is overloaded (5; bench 0)\n"
        "  --json           the server's answers as they are, one a line\n"
        "  --help           the command's own options\n"
        "\n"
        "Exit codes: 0 done; 1 the answer is no, or some pictures were "
        "refused;\n"
        "2 wrong usage; 3 no server, overload or timeout; 4 the server "
        "refused;\n"
        "5 a local file, standard output or memory.\n");
    return to == stdout ? CMD_OK : CMD_USAGE;
}

/* The command's code, unless what it printed is lost: a key's secret. */
static int printed(int code)
{
    errno = 0;
    if (!fflush(stdout) && !ferror(stdout))
        return code;
    fprintf(stderr, "tscaf: standard output: %s\n",
            errno ? strerror(errno) : "an earlier write failed");
    return CMD_FAILED;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return usage(stderr);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
        return printed(usage(stdout));
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], commands[i].name))
            return printed(commands[i].run(argc - 1, argv + 1));
    fprintf(stderr, "tscaf: there is no command \"%s\"\n", argv[1]);
    return usage(stderr);
}
