/* What a tscafd says of aligned faces, all of them asked at once:
 *
 *     cc -o example example.c $(pkg-config --cflags --libs tscaf)
 *     ./example http://127.0.0.1:8080 face.png... */
#include <client/result.h>
#include <stdio.h>
#include <stdlib.h>

struct picture {
    const char *path;
    char *bytes;
    size_t len;
};

static int load(struct picture *p)
{
    FILE *f = fopen(p->path, "rb");
    long len = -1;

    if (f && !fseek(f, 0, SEEK_END))
        len = ftell(f);
    if (len > 0) {
        rewind(f);
        p->bytes = malloc((size_t)len);
        if (p->bytes)
            p->len = fread(p->bytes, 1, (size_t)len, f);
    }
    if (f)
        fclose(f);
    return p->len ? 0 : -1;
}

static void print_face(const char *path, const struct cl_face *f)
{
    printf("%s: face at %.0f,%.0f", path, f->box.x, f->box.y);
    if (f->has_fatigue)
        printf(", fatigue %.3f%s", f->fatigue.probability,
               f->fatigue.drowsy ? " (drowsy)" : "");
    if (f->identity.verdict == CL_VERDICT_MATCH)
        printf(", %s (%.3f)", f->identity.matches[0].name,
               f->identity.matches[0].similarity);
    printf("\n");
}

static void on_answer(void *ctx, struct cl_answer *a)
{
    const struct picture *p = ctx;
    struct cl_analysis *x;
    struct api_error err;

    if (cl_analysis_read(a, &x, &err)) {
        printf("%s: %s: %s\n", p->path, api_code_name(err.code), err.message);
        return;
    }
    for (size_t i = 0; i < x->n_frames; i++)
        for (size_t k = 0; k < x->frames[i].n_faces; k++)
            print_face(p->path, &x->frames[i].faces[k]);
    cl_analysis_free(x);
}

int main(int argc, char **argv)
{
    struct cl_options o = {.timeout_ms = 60000, .retries = 3};
    struct picture *pictures = calloc((size_t)argc, sizeof(*pictures));
    struct cl_client *c = NULL;
    struct ut_error e = {.msg = "usage: example URL PICTURE..."};
    int failed = argc < 3 || !pictures;

    if (!failed) {
        o.url = argv[1];
        failed = cl_open(&o, &c, &e) != UT_OK;
    }
    for (int i = 2; i < argc && !failed; i++) {
        struct picture *p = &pictures[i];
        struct cl_image image = {.type = "image/png", .query = "input=crop"};

        p->path = argv[i];
        if (load(p)) {
            failed = ut_fail(&e, UT_EIO, "%s: cannot be read", p->path) != 0;
            break;
        }
        image.bytes = p->bytes;
        image.len = p->len;
        failed = cl_analyze_start(c, &image, on_answer, p, &e) != UT_OK;
    }
    while (!failed && cl_busy(c))
        failed = cl_wait(c, 1000, &e) != UT_OK;
    if (failed)
        fprintf(stderr, "%s\n", e.msg);
    cl_close(c);
    for (int i = 2; pictures && i < argc; i++)
        free(pictures[i].bytes);
    free(pictures);
    return failed;
}
