#ifndef CLIENT_TOOL_CMD_H
#define CLIENT_TOOL_CMD_H

#include <getopt.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdio.h>

#include "api/tscaf.pb-c.h"
#include "client/client.h"

/* tscaf's subcommands. Each gets the arguments after its name, with its own
 * name at 0. */

enum cmd_exit {
    CMD_OK = 0,
    CMD_SOME = 1,  /* it ran, and the answer is no: different persons,
                      pictures refused */
    CMD_USAGE = 2, /* the command line is wrong */
    CMD_UNREACHABLE =
        3,           /* no answer, or "unavailable" or "deadline_exceeded" */
    CMD_REFUSED = 4, /* the server said no */
    CMD_FAILED = 5,  /* a local file, standard output or memory */
};

/* What every command takes. */
struct cmd {
    struct cl_options client;
    bool json;
    const char *name, *help; /* "analyze", the text of --help */
    char key[256];
};

/* Getopt's table starts with these; single-letter values are the commands'
 * own, those from 1000 on are cmd_option's. */
#define CMD_OPTIONS                                                            \
    {"url", required_argument, NULL, 1000},                                    \
        {"key-file", required_argument, NULL, 1001},                           \
        {"cacert", required_argument, NULL, 1002},                             \
        {"timeout", required_argument, NULL, 1003},                            \
        {"retries", required_argument, NULL, 1004},                            \
        {"json", no_argument, NULL, 1005},                                     \
    {                                                                          \
        "help", no_argument, NULL, 1006                                        \
    }

/* Defaults, then TSCAF_URL, TSCAF_KEY and TSCAF_CACERT. */
void cmd_init(struct cmd *c, const char *name, const char *help);
/* One option that the command does not know itself: a common one, --help, or a
 * mistake. -1: go on; else the exit code to leave with. */
int cmd_option(struct cmd *c, int option);
/* "tscaf analyze: ..." and the way to help; CMD_USAGE. */
int cmd_usage(const struct cmd *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* A whole number of an option, or -1 and a word on stderr. */
long cmd_number(const struct cmd *c, const char *option, const char *text,
                long least, long most);

/* Appends an option of the same name as the server's query parameter, but for
 * its hyphens; the server checks the value. */
UT_MUSTUSE enum ut_err cmd_query(struct ut_buf *path, const char *option,
                                 const char *value, struct ut_error *e);

/* Prints what went wrong; the exit code for it. */
int cmd_fail(const struct cmd *c, const struct ut_error *e);
int cmd_fail_answer(const struct cmd *c, const struct api_error *err);
int cmd_exit_of(const struct api_error *err);
/* The same of one request of many: CMD_SOME where it says nothing of the
 * others. */
int cmd_exit_of_one(const struct api_error *err);

/* One request by a client that is open; prints the answer's text with --json.
 * *out (NULL unless CMD_OK) is the answer as a message, for the caller to free;
 * descriptor NULL: none is expected. */
int cmd_call(const struct cmd *c, struct cl_client *client,
             const struct cl_request *r,
             const ProtobufCMessageDescriptor *descriptor,
             ProtobufCMessage **out);
/* The same with a client of its own and a message as the body (NULL: none). */
int cmd_ask(const struct cmd *c, const char *method, const char *path,
            const ProtobufCMessage *send,
            const ProtobufCMessageDescriptor *descriptor,
            ProtobufCMessage **out);
/* The same, and the answer goes to print unless --json has printed it. */
typedef void cmd_print(const ProtobufCMessage *m);
int cmd_exchange(const struct cmd *c, const char *method, const char *path,
                 const ProtobufCMessage *send,
                 const ProtobufCMessageDescriptor *descriptor,
                 cmd_print *print);

/* A face in words, each line after indent. */
void cmd_print_face(const Tscaf__V1__Face *f, const char *indent);

int cmd_analyze(int argc, char **argv);
int cmd_enroll(int argc, char **argv);
int cmd_identities(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_search(int argc, char **argv);
int cmd_models(int argc, char **argv);
int cmd_datasets(int argc, char **argv);
int cmd_jobs(int argc, char **argv);
int cmd_keys(int argc, char **argv);
int cmd_audit(int argc, char **argv);
int cmd_bench(int argc, char **argv);

#endif
