/* tscaf verify and search: who is it? */
#include <stdlib.h>
#include <string.h>

#include "client/pictures.h"
#include "client/tool/cmd.h"

static const char verify_help[] =
    "usage: tscaf verify [OPTIONS] PICTURE OTHER\n"
    "       tscaf verify [OPTIONS] PICTURE --identity ID\n"
    "\n"
    "Is it the same person? Exit code 0 if so, 1 if not.\n"
    "\n"
    "  --identity ID             compare with an enrolled identity\n"
    "  --input frame|crop        what the pictures show (frame)\n"
    "  --identity-threshold X    same from this similarity on (the model's)\n";

static const char search_help[] =
    "usage: tscaf search [OPTIONS] PICTURE\n"
    "\n"
    "The nearest identities to the largest face. Exit code 0 for a match, 1 "
    "for\n"
    "none or more than one.\n"
    "\n"
    "  --top-k N                 identities to show (5)\n"
    "  --input frame|crop        what the picture shows (frame)\n"
    "  --identity-threshold X    match from this similarity on (the model's)\n";

static const struct option options[] = {
    {"identity", required_argument, NULL, 'd'},
    {"input", required_argument, NULL, 'i'},
    {"top-k", required_argument, NULL, 'k'},
    {"identity-threshold", required_argument, NULL, 't'},
    CMD_OPTIONS,
    {0},
};

struct match {
    struct cmd cmd;
    const char *identity;
    Tscaf__V1__InputKind input;
    uint32_t top_k;
    float threshold;
};

static int parse(struct match *m, int argc, char **argv)
{
    char *end;
    int c, code;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'd':
            m->identity = optarg;
            break;
        case 'i':
            if (strcmp(optarg, "frame") && strcmp(optarg, "crop"))
                return cmd_usage(&m->cmd, "--input \"%s\" is not frame or crop",
                                 optarg);
            m->input = strcmp(optarg, "crop")
                           ? TSCAF__V1__INPUT_KIND__INPUT_KIND_FRAME
                           : TSCAF__V1__INPUT_KIND__INPUT_KIND_CROP;
            break;
        case 'k':
            code = (int)cmd_number(&m->cmd, "--top-k", optarg, 1, 100);
            if (code < 0)
                return CMD_USAGE;
            m->top_k = (uint32_t)code;
            break;
        case 't':
            m->threshold = strtof(optarg, &end);
            if (*end || end == optarg)
                return cmd_usage(&m->cmd,
                                 "--identity-threshold \"%s\" is no number",
                                 optarg);
            break;
        default:
            code = cmd_option(&m->cmd, c);
            if (code >= 0)
                return code;
        }
    }
    return -1;
}

static enum ut_err read_image(const char *path, Tscaf__V1__Image *image,
                              struct ut_error *e)
{
    const char *type;
    char *bytes;
    size_t len;
    enum ut_err rc = cl_picture_read(path, &bytes, &len, &type, e);

    if (!rc) {
        image->data.data = (uint8_t *)bytes;
        image->data.len = len;
    }
    return rc;
}

int cmd_verify(int argc, char **argv)
{
    struct match m = {0};
    Tscaf__V1__VerifyRequest r = TSCAF__V1__VERIFY_REQUEST__INIT;
    Tscaf__V1__Image image = TSCAF__V1__IMAGE__INIT, other = image;
    ProtobufCMessage *out = NULL;
    struct ut_error e;
    int code, n;

    cmd_init(&m.cmd, "verify", verify_help);
    code = parse(&m, argc, argv);
    if (code >= 0)
        return code;
    n = argc - optind;
    if (n != (m.identity ? 1 : 2))
        return cmd_usage(&m.cmd, "there must be two pictures, or one and "
                                 "--identity");
    r.image = &image;
    r.input = m.input;
    r.identity_threshold = m.threshold;
    if (m.identity)
        r.identity_id = (char *)(uintptr_t)m.identity;
    else
        r.other = &other;
    if (read_image(argv[optind], &image, &e) ||
        (n == 2 && read_image(argv[optind + 1], &other, &e)))
        code = cmd_fail(&m.cmd, &e);
    else
        code = cmd_ask(&m.cmd, "POST", "/v1/verify", &r.base,
                       &tscaf__v1__verify_response__descriptor, &out);
    if (out) {
        const Tscaf__V1__VerifyResponse *v =
            (const Tscaf__V1__VerifyResponse *)out;

        if (!m.cmd.json)
            printf("%s: similarity %+.4f, threshold %.4f\n",
                   v->same ? "same person" : "different", v->similarity,
                   v->threshold);
        code = v->same ? CMD_OK : CMD_SOME;
        protobuf_c_message_free_unpacked(out, NULL);
    }
    free(image.data.data);
    free(other.data.data);
    return code;
}

int cmd_search(int argc, char **argv)
{
    struct match m = {0};
    Tscaf__V1__SearchRequest r = TSCAF__V1__SEARCH_REQUEST__INIT;
    Tscaf__V1__Image image = TSCAF__V1__IMAGE__INIT;
    ProtobufCMessage *out = NULL;
    struct ut_error e;
    int code;

    cmd_init(&m.cmd, "search", search_help);
    code = parse(&m, argc, argv);
    if (code >= 0)
        return code;
    if (argc - optind != 1 || m.identity)
        return cmd_usage(&m.cmd, "there must be one picture");
    r.image = &image;
    r.input = m.input;
    r.top_k = m.top_k;
    r.identity_threshold = m.threshold;
    if (read_image(argv[optind], &image, &e))
        return cmd_fail(&m.cmd, &e);
    code = cmd_ask(&m.cmd, "POST", "/v1/search", &r.base,
                   &tscaf__v1__search_response__descriptor, &out);
    if (out) {
        const Tscaf__V1__Face *f =
            ((const Tscaf__V1__SearchResponse *)out)->face;

        if (f && !m.cmd.json)
            cmd_print_face(f, "");
        code = f && f->identity &&
                       f->identity->verdict == TSCAF__V1__VERDICT__VERDICT_MATCH
                   ? CMD_OK
                   : CMD_SOME;
        protobuf_c_message_free_unpacked(out, NULL);
    }
    free(image.data.data);
    return code;
}
