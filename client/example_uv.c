/* The same as example.c in a program that has a loop of its own, here libuv's:
 *
 *     cc -o example_uv example_uv.c $(pkg-config --cflags --libs tscaf libuv)
 *     ./example_uv http://127.0.0.1:8080 face.png... */
#include <client/result.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

static void on_answer(void *ctx, struct cl_answer *a)
{
    const char *path = ctx;
    struct cl_analysis *x;
    struct api_error err;

    if (cl_analysis_read(a, &x, &err)) {
        printf("%s: %s: %s\n", path, api_code_name(err.code), err.message);
        return;
    }
    for (size_t i = 0; i < x->n_frames; i++)
        printf("%s: %zu face(s)\n", path, x->frames[i].n_faces);
    cl_analysis_free(x);
}

/* Something happened to the client's requests, or is due. */
static void on_ready(uv_poll_t *p, int status, int events)
{
    struct cl_client *c = p->data;
    struct ut_error e;

    (void)events;
    if (status)
        fprintf(stderr, "%s\n", uv_strerror(status));
    else if (cl_wait(c, 0, &e))
        fprintf(stderr, "%s\n", e.msg);
    else if (cl_busy(c))
        return;
    uv_close((uv_handle_t *)p, NULL); /* nothing else is in this loop */
}

int main(int argc, char **argv)
{
    struct cl_options o = {.timeout_ms = 60000, .retries = 3};
    struct ut_buf *pictures = calloc((size_t)argc, sizeof(*pictures));
    struct cl_client *c = NULL;
    struct ut_error e = {.msg = "usage: example_uv URL PICTURE..."};
    int failed = argc < 3 || !pictures;
    uv_poll_t ready;
    uv_loop_t loop;

    if (!failed) {
        o.url = argv[1];
        failed = cl_open(&o, &c, &e) != UT_OK;
    }
    for (int i = 2; i < argc && !failed; i++) {
        struct cl_image image = {.type = "image/png", .query = "input=crop"};

        ut_buf_init(&pictures[i], 16u << 20);
        failed = ut_buf_add_file(&pictures[i], argv[i], &e) != UT_OK;
        image.bytes = pictures[i].data;
        image.len = pictures[i].len;
        if (!failed)
            failed = cl_analyze_start(c, &image, on_answer, argv[i], &e);
    }
    if (!failed && !uv_loop_init(&loop)) {
        ready.data = c;
        if (!uv_poll_init(&loop, &ready, cl_fd(c)) &&
            !uv_poll_start(&ready, UV_READABLE, on_ready))
            uv_run(&loop, UV_RUN_DEFAULT);
        uv_loop_close(&loop);
    }
    if (failed)
        fprintf(stderr, "%s\n", e.msg);
    cl_close(c);
    for (int i = 2; pictures && i < argc; i++)
        ut_buf_fini(&pictures[i]);
    free(pictures);
    return failed;
}
