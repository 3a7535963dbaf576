/* gnuplot as a child: the script on stdin, pixels on file 3, what it complains
 * about in a file. Files and not pipes: nobody has to read in time. */
#include "model/plot/gnuplot.h"

#include <errno.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_SCRIPT (256u << 20)
#define DATA_FD 3

extern char **environ;

void mdl_gnuplot_add(struct mdl_gnuplot *g, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    int n;

    if (g->error.code)
        return;
    va_start(args, fmt);
    n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (n < 0 || n >= (int)sizeof(text))
        ut_fail(&g->error, UT_EINVAL, "a text of %d bytes is too long", n);
    else if (ut_buf_add(&g->script, text, (size_t)n, &g->error))
        return;
}

void mdl_gnuplot_text(struct mdl_gnuplot *g, const char *text)
{
    char out[1024];
    size_t n = 0;

    out[n++] = '\'';
    for (const char *at = text; *at && n + 4 < sizeof(out); at++) {
        unsigned char c = (unsigned char)*at;

        if (c == '\'')
            out[n++] = '\'';
        out[n++] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
    }
    out[n++] = '\'';
    out[n] = '\0';
    if (!g->error.code && ut_buf_add(&g->script, out, n, &g->error))
        return;
}

void mdl_gnuplot_begin(struct mdl_gnuplot *g, const char *path, int width,
                       int height)
{
    /* Okabe and Ito's colours, which the colour-blind tell apart. */
    static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73",
                                          "#cc79a7", "#e69f00", "#56b4e9",
                                          "#000000", "#b8a800"};
    const char *end = strrchr(path, '.');
    bool svg = end && !strcmp(end, ".svg");

    memset(g, 0, sizeof(*g));
    ut_buf_init(&g->script, MAX_SCRIPT);
    if (!svg && (!end || strcmp(end, ".png"))) {
        ut_fail(&g->error, UT_EINVAL, "%.150s: ends neither with .png nor .svg",
                path);
        return;
    }
    if (strpbrk(path, "\r\n") || snprintf(g->path, sizeof(g->path), "%s",
                                          path) >= (int)sizeof(g->path)) {
        ut_fail(&g->error, UT_EINVAL, "%.100s...: is no path to write to",
                path);
        return;
    }
    snprintf(g->part, sizeof(g->part), "%s.%ld.part", path, (long)getpid());
    mdl_gnuplot_add(g,
                    "set terminal %s size %d,%d font 'DejaVu Sans,11' "
                    "noenhanced%s\nset output ",
                    svg ? "svg" : "pngcairo", width, height,
                    svg ? " background 'white'" : "");
    mdl_gnuplot_text(g, g->part);
    mdl_gnuplot_add(g, "\nset encoding utf8\nset border 3 lc rgb '#505050'\n"
                       "set tics nomirror out textcolor rgb '#303030'\n"
                       "set grid lc rgb '#e4e4e4' lt 1\n");
    for (size_t i = 0; i < sizeof(colours) / sizeof(colours[0]); i++)
        mdl_gnuplot_add(g, "set linetype %zu lc rgb '%s' lw 2 dt 1\n", i + 1,
                        colours[i]);
    for (size_t i = 0; i < sizeof(colours) / sizeof(colours[0]); i++)
        mdl_gnuplot_add(g, "set linetype %zu lc rgb '%s' lw 2 dt 2\n", i + 9,
                        colours[i]);
}

/* Bytes as an unnamed file, at its beginning. */
static FILE *file_of(const void *data, size_t len)
{
    FILE *f = tmpfile();

    if (f && ((len && fwrite(data, 1, len, f) != len) || fflush(f) ||
              fseek(f, 0, SEEK_SET))) {
        fclose(f);
        return NULL;
    }
    return f;
}

static int spawn(FILE *script, FILE *data, FILE *words, pid_t *pid)
{
    static char *argv[] = {"gnuplot", "--default-settings", NULL};
    posix_spawn_file_actions_t a;
    int code = posix_spawn_file_actions_init(&a);

    if (code)
        return code;
    posix_spawn_file_actions_adddup2(&a, fileno(data), DATA_FD + 100);
    posix_spawn_file_actions_adddup2(&a, fileno(script), STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&a, fileno(words), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&a, fileno(words), STDERR_FILENO);
    posix_spawn_file_actions_adddup2(&a, DATA_FD + 100, DATA_FD);
    posix_spawn_file_actions_addclose(&a, DATA_FD + 100);
    code = posix_spawnp(pid, "gnuplot", &a, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&a);
    return code;
}

/* The last line that says something. */
static void complaint(FILE *words, char out[160])
{
    char line[256];

    snprintf(out, 160, "it says nothing");
    rewind(words);
    while (fgets(line, sizeof(line), words)) {
        line[strcspn(line, "\r\n")] = '\0';
        if (line[strspn(line, " ^")])
            snprintf(out, 160, "%.159s", line);
    }
}

static enum ut_err run(struct mdl_gnuplot *g, FILE *script, FILE *data,
                       FILE *words, struct ut_error *e)
{
    char why[160];
    int status, code;
    pid_t pid;

    code = spawn(script, data, words, &pid);
    if (code == ENOENT)
        return ut_fail(e, UT_ENOTFOUND,
                       "there is no gnuplot: apt-get install gnuplot-nox");
    if (code)
        return ut_fail(e, UT_EIO, "gnuplot: %s", strerror(code));
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return ut_fail(e, UT_EIO, "gnuplot: %m");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return ut_fail(e, UT_ENOTFOUND,
                       "there is no gnuplot: apt-get install gnuplot-nox");
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        complaint(words, why);
        unlink(g->part);
        return ut_fail(e, UT_EIO, "gnuplot: %s", why);
    }
    if (rename(g->part, g->path)) {
        ut_fail(e, UT_EIO, "%.150s: cannot be written: %m", g->path);
        unlink(g->part);
        return UT_EIO;
    }
    return UT_OK;
}

enum ut_err mdl_gnuplot_end(struct mdl_gnuplot *g, const void *data, size_t len,
                            struct ut_error *e)
{
    FILE *script = NULL, *pixels = NULL, *words = NULL;
    enum ut_err rc = UT_OK;

    mdl_gnuplot_add(g, "unset output\n");
    if (g->error.code)
        rc = ut_fail(e, g->error.code, "%s", g->error.msg);
    if (!rc) {
        script = file_of(g->script.data, g->script.len);
        pixels = file_of(data, len);
        words = tmpfile();
        rc = script && pixels && words
                 ? run(g, script, pixels, words, e)
                 : ut_fail(e, UT_EIO, "a temporary file: %m");
    }
    if (script)
        fclose(script);
    if (pixels)
        fclose(pixels);
    if (words)
        fclose(words);
    ut_buf_fini(&g->script);
    return rc;
}
