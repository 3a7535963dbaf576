/* The file, a line for each choice after one that says whose they are:
 *
 *   tscaf-cuda 1 <chip>
 *   <key> <way> <position> <the vendor's name for it> <us>
 *   end <number of choices>
 */
#include "model/backends/cuda/choice.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD "tscaf-cuda 1 "
#define LINE_LEN 256

void choice_key(const struct gpu_product *p, char key[CHOICE_KEY_LEN])
{
    static const char *const types[] = {"f32", "f16", "bf16"};
    static const char *const passes[] = {"", "-dx", "-dw"};
    const struct gpu_epilogue *ep = &p->ep;

    snprintf(
        key, CHOICE_KEY_LEN,
        "%s%s,%s-%s,%dx%dx%dx%d,k%ds%dp%dg%d,%dx%dx%d,act%d:%g%s%s%s%s%s%s",
        p->rows ? "rows" : "conv", passes[p->pass],
        p->tf32 ? "tf32" : types[p->x.type], types[p->y.type], p->x.batch,
        p->x.h, p->x.w, p->x.c, p->window.kernel, p->window.stride,
        p->window.pad, p->window.groups, p->y.h, p->y.w, p->y.c, ep->act,
        (double)ep->alpha, ep->scale ? ",scale" : "", ep->bias ? ",bias" : "",
        ep->slope ? ",slope" : "", ep->shift ? ",shift" : "",
        ep->residual ? ",residual" : "", p->steep ? ",steep" : "");
}

struct choice_bound choice_bound(const struct gpu_product *p)
{
    static const float unit[] = {0x1p-24f, 0x1p-11f, 0x1p-8f};
    const struct gpu_pieces all = gpu_pieces(p);
    double k = all.terms, sum = 2 * sqrt(k), u = (double)unit[p->x.type];
    double off =
        p->x.type == GPU_F32 && !p->tf32 ? 10 * k * 0x1p-24 : k * 0x1p-23 * sum;

    if (p->pass == GPU_DW && p->x.type != GPU_F32)
        off = fmin(off, u * sum);
    if (p->pass != GPU_FORWARD && p->rows && p->x.type != GPU_F32)
        off += u * sum;
    if (p->tf32)
        off += 0x1p-9 * sum;
    if (p->bare)
        off += (double)unit[p->y.type] * sum;
    return (struct choice_bound){
        (float)off,
        2 * unit[p->pass == GPU_DW && !p->rows ? p->x.type : all.y.type]};
}

int choice_best(const struct trial *trials, int n)
{
    int best = 0;

    for (int i = 1; i < n; i++)
        if (!trials[i].rc && trials[i].deviation <= 1 &&
            trials[i].choice.us < trials[best].choice.us)
            best = i;
    return best;
}

static void make_folders(char *path)
{
    for (char *at = path + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        mkdir(path, 0755);
        *at = '/';
    }
}

void choices_path(const char *chip, char *path, size_t len)
{
    const char *given = getenv("TSCAF_CUDA_CACHE");
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    uint64_t hash = 14695981039346656037ull; /* FNV-1a */
    char name[40];

    for (const char *c = chip; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211ull;
    snprintf(name, sizeof(name), "cuda-%016" PRIx64, hash);
    if (given && *given)
        snprintf(path, len, "%s/%s", given, name);
    else if (cache && *cache)
        snprintf(path, len, "%s/tscaf/%s", cache, name);
    else if (home && *home)
        snprintf(path, len, "%s/.cache/tscaf/%s", home, name);
    else
        *path = '\0';
}

/* "conv,... 1 0 7 12.5"; false: damaged. */
static bool read_choice(const char *line, struct choice *c)
{
    int way, used = 0;

    *c = (struct choice){0};
    if (sscanf(line, "%127s %d %d %" SCNd64 " %lf%n", c->key, &way, &c->at,
               &c->id, &c->us, &used) != 5 ||
        strcmp(line + used, "\n") || way < CHOICE_OWN || way > CHOICE_BARE ||
        c->at < 0 || c->at >= GPU_ENGINES || !(c->us >= 0))
        return false;
    c->way = (enum choice_way)way;
    return true;
}

/* After the head. Returns what is wrong, or NULL. */
static const char *read_lines(FILE *f, struct choices *c)
{
    char line[LINE_LEN], tail[40];
    struct choice one;

    while (fgets(line, sizeof(line), f)) {
        snprintf(tail, sizeof(tail), "end %d\n", c->n);
        if (!strcmp(line, tail))
            return fgetc(f) == EOF ? NULL : "more after its end";
        if (c->n == CHOICE_MAX)
            return "too many lines";
        if (!read_choice(line, &one))
            return "a damaged line";
        choices_set(c, &one);
    }
    return "no end";
}

void choices_read(struct choices *c, const char *path, struct ut_error *why)
{
    char head[LINE_LEN], want[LINE_LEN];
    const char *wrong;
    FILE *f = *path ? fopen(path, "r") : NULL;

    *why = (struct ut_error){0};
    if (!f)
        return;
    snprintf(want, sizeof(want), HEAD "%s\n", c->chip);
    if (!fgets(head, sizeof(head), f) || strcmp(head, want))
        wrong = "another chip's, or no such file";
    else
        wrong = read_lines(f, c);
    fclose(f);
    if (wrong) {
        ut_fail(why, UT_EFORMAT, "%.120s: %s; engines are measured again", path,
                wrong);
        c->n = 0;
    }
    c->changed = false;
}

/* What another process remembered meanwhile. */
static void add_others(struct choices *c, const char *path)
{
    struct choices there = {0};
    struct ut_error ignored;

    memcpy(there.chip, c->chip, sizeof(there.chip));
    choices_read(&there, path, &ignored);
    for (int i = 0; i < there.n; i++)
        if (!choices_find(c, there.list[i].key))
            choices_set(c, &there.list[i]);
    choices_free(&there);
}

static enum ut_err write_file(struct choices *c, const char *path,
                              struct ut_error *e)
{
    char into[4096], temporary[4128];
    FILE *f;
    bool ok;

    add_others(c, path);
    snprintf(into, sizeof(into), "%s", path);
    make_folders(into);
    snprintf(temporary, sizeof(temporary), "%s.%ld", into, (long)getpid());
    f = fopen(temporary, "w");
    if (!f)
        return ut_fail(e, UT_EIO, "%.150s cannot be written", temporary);
    fprintf(f, HEAD "%s\n", c->chip);
    for (int i = 0; i < c->n; i++)
        fprintf(f, "%s %d %d %" PRId64 " %.3f\n", c->list[i].key,
                (int)c->list[i].way, c->list[i].at, c->list[i].id,
                c->list[i].us);
    fprintf(f, "end %d\n", c->n);
    ok = !ferror(f);
    ok = !fclose(f) && ok;
    if (!ok || rename(temporary, into)) {
        unlink(temporary);
        return ut_fail(e, UT_EIO, "%.150s cannot be written", into);
    }
    c->changed = false;
    return UT_OK;
}

enum ut_err choices_write(struct choices *c, const char *path,
                          struct ut_error *e)
{
    /* Chips of one kind share a file, and here its temporary name. */
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    enum ut_err rc;

    if (!c->changed || !*path)
        return UT_OK;
    pthread_mutex_lock(&lock);
    rc = write_file(c, path, e);
    pthread_mutex_unlock(&lock);
    return rc;
}

const struct choice *choices_find(const struct choices *c, const char *key)
{
    for (int i = 0; i < c->n; i++)
        if (!strcmp(c->list[i].key, key))
            return &c->list[i];
    return NULL;
}

void choices_set(struct choices *c, const struct choice *choice)
{
    const struct choice *old = choices_find(c, choice->key);
    struct choice *more;

    if (old) {
        c->list[old - c->list] = *choice;
        c->changed = true;
        return;
    }
    if (c->n == c->room) {
        int room = c->room ? 2 * c->room : 64;

        if (room > CHOICE_MAX)
            return;
        more = realloc(c->list, (size_t)room * sizeof(*more));
        if (!more)
            return;
        c->list = more;
        c->room = room;
    }
    c->list[c->n++] = *choice;
    c->changed = true;
}

void choices_free(struct choices *c)
{
    free(c->list);
    *c = (struct choices){0};
}
