/* tscaf-model train and eval on two small drawn datasets. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/server.h"
#include "tests/support/shell.h"
#include "tests/support/unit.h"

static const char *dir;       /* the work folder */
static char plugin[PATH_MAX]; /* an absolute path */

/* Alert and yawning faces, and six identities; other pictures for testing. */
static int set_up(void **state)
{
    char text[65536];

    (void)state;
    if (!realpath(PLUGINS "host.so", plugin))
        fail_msg("there is no " PLUGINS "host.so");
    dir = shell_init();
    if (shell(
            "mkdir -p fatigue/0 fatigue/1 held/0 held/1 people pairs; "
            "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do "
            "d=fatigue; [ $i -gt 10 ] && d=held; "
            "tscaf-model sample --identity $i --eyes 1 --mouth 0 --noise $i "
            "$d/0/$i.png; tscaf-model sample --identity $i --eyes 0.1 --mouth "
            "1 "
            "--noise $i $d/1/$i.png; done; "
            "printf 'fold\\tsame\\ta\\tb\\n' > pairs.tsv; "
            "for i in 1 2 3 4 5 6; do mkdir people/$i; for n in 1 2 3 4 5; do "
            "tscaf-model sample --identity $i --noise $n --light 0.$((n + 4)) "
            "people/$i/$n.png; done; "
            "for n in 8 9; do tscaf-model sample --identity $i --noise $n "
            "pairs/$i.$n.png; done; done; "
            "for i in 1 2 3 4 5 6; do o=$((i % 6 + 1)); "
            "printf \"$((i % 2))\\t1\\tpairs/$i.8.png\\tpairs/$i.9.png\\n\" "
            ">> pairs.tsv; "
            "printf \"$((i % 2))\\t0\\tpairs/$i.8.png\\tpairs/$o.9.png\\n\" "
            ">> pairs.tsv; done",
            text, sizeof(text)))
        fail_msg("%s", text);
    snprintf(text, sizeof(text), "cp %s %s/base.safetensors", test_model(),
             dir);
    return system(text);
}

static int tear_down(void **state)
{
    (void)state;
    shell_fini();
    return 0;
}

#define EVAL "tscaf-model eval --fatigue held "

static void train__two_queues__beats_the_untrained(void **state)
{
    double before, after;

    (void)state;
    before = shell_number(EVAL "base.safetensors", "auc");
    shell_says(0,
               "tscaf-model train --model base.safetensors --out a.safetensors "
               "--steps 80 --batch 16 --fatigue fatigue --recognition people "
               "--warm-up 10 --rate 1e-2 --sub-centres 1 --margin 0.2 --seed 3 "
               "--no-augment --name drawn --threads 1 --json > log; cat log",
               "\"step\":80,");
    after = shell_number(EVAL "a.safetensors", "auc");
    if (!(after > before && after >= 0.9))
        fail_msg("fatigue: AUC %g, untrained %g", after, before);
    /* Drawn people are too easy to tell apart even untrained: the loss. */
    before = shell_number("head -n 1 log", "recognition_loss");
    after = shell_number("tail -n 1 log", "recognition_loss");
    if (!(after < 0.5 * before))
        fail_msg("recognition: loss %g after %g", after, before);
    shell_number("tscaf-model eval --pairs pairs.tsv a.safetensors",
                 "accuracy");
    /* What comes out is a model like any other, and in half precision too. */
    shell_says(0, "tscaf-model describe a.safetensors", "recognition");
    shell_says(
        0,
        "tscaf-model convert a.safetensors c.safetensors && [ $(stat -c %s "
        "c.safetensors) -lt $(($(stat -c %s a.safetensors) * 6 / 10)) ] && "
        "! grep -q arcface.weight c.safetensors && tscaf-model describe "
        "c.safetensors && tscaf-model convert --dtype float32 c.safetensors "
        "d.safetensors && ls",
        "d.safetensors");
    before = shell_number(EVAL "c.safetensors", "auc");
    after = shell_number(EVAL "d.safetensors", "auc");
    if (!(before == after && after >= 0.85))
        fail_msg("fatigue in bfloat16: AUC %g, back in float32 %g", before,
                 after);
    shell_says(2, "tscaf-model convert --dtype int3 a b", "usage:");
    shell_says(1, "tscaf-model convert nowhere b", "nowhere");
    shell_says(
        0,
        "tscaf-model train --model a.safetensors --out b.safetensors --steps "
        "2 --mode accumulate --weight 0.3 --batch 4 --threads 1 --fatigue "
        "fatigue "
        "--recognition people --no-augment --frozen-root --optimizer sgd "
        "--save 1; ls b.safetensors",
        "b.safetensors");
}

/* What one run gives, one that is killed at its first checkpoint and resumed
 * gives too. On an idle machine it may end before it is killed: then again. */
static void goes_on(const char *settings)
{
    char line[4096];

    snprintf(
        line, sizeof(line),
        "rm -f once*; T='tscaf-model train --model base.safetensors --fatigue "
        "fatigue --recognition people --batch 4 --save 2 --seed 5 %s'; $T "
        "--out once 2>/dev/null; for try in 1 2 3 4 5; do rm -f again*; $T "
        "--out again 2>/dev/null & n=0; while ! [ -s again.checkpoint ] && [ "
        "$n -lt 3000 ]; do sleep 0.01; n=$((n + 1)); done; kill -9 $!; wait "
        "$!; [ -s again.checkpoint ] && ! [ -e again ] && break; done; [ -s "
        "again.checkpoint ] && $T --out again --resume 2>/dev/null && ! [ -e "
        "again.checkpoint ] && cmp once again && echo the same",
        settings);
    shell_says(0, line, "the same");
}

static void train__killed_and_resumed__same_weights(void **state)
{
    (void)state;
    goes_on("--steps 30 --sub-centres 2 --threads 2");
    goes_on("--steps 30 --mode accumulate --optimizer sgd --turn 2 "
            "--threads 1");
    goes_on("--steps 6 --batch 2 --backend ref --optimizer adam");
}

/* The processor stands in for a GPU (tests/plugins/host). That it is chosen
 * where it can be, and goes on as others do; and where its context is lost the
 * run ends with an error, and goes on from its checkpoint. */
static void train__cuda__as_others_and_after_a_lost_context(void **state)
{
    (void)state;
    setenv("TSCAF_CUDA_PLUGIN", plugin, 1);
    setenv("TSCAF_CUDA_CACHE", "/dev/null", 1);
    setenv("TSCAF_HOST_LOSE", "lose", 1);
    goes_on("--steps 4 --save 1 --batch 2 --backend cuda");
    shell_says(
        0,
        "rm -f lost*; T='tscaf-model train --model base.safetensors --fatigue "
        "fatigue --recognition people --batch 2 --save 1 --seed 5 --steps 4 "
        "--out'; $T lost 2>err & p=$!; n=0; while ! [ -s lost.checkpoint ] && "
        "[ $n -lt 3000 ]; do sleep 0.01; n=$((n + 1)); done; touch lose; wait "
        "$p; echo \"exit $?\"; sed 's/step [0-9]*:/a step:/' err; [ -e lose ] "
        "|| echo mended; $T lost --resume 2>err; cmp once lost && echo the "
        "same",
        "exit 1\ntscaf-model: a step: CUDA: a batch: an illegal access\n"
        "mended\nthe same");
    shell_says(0,
               "tscaf-model bench --train --json --reps 1 --batch 2 --backend "
               "cuda base.safetensors",
               "\"update_ms\":");
    unsetenv("TSCAF_CUDA_PLUGIN");
    unsetenv("TSCAF_CUDA_CACHE");
    unsetenv("TSCAF_HOST_LOSE");
}

static void train__auto_without_a_gpu__says_why(void **state)
{
    (void)state;
    shell_says(0,
               "export TSCAF_CUDA_PLUGIN=/nowhere; tscaf-model train --model "
               "base.safetensors --fatigue fatigue --batch 2 --steps 1 --out "
               "noted 2>&1 >/dev/null | grep cuda; tscaf-model train --model "
               "base.safetensors --fatigue fatigue --batch 2 --steps 1 --out "
               "never --backend cuda 2>&1; [ -e never ] || echo nothing made",
               "tscaf-model: cuda is not used: there is no plug-in /nowhere\n"
               "tscaf-model: backend \"cuda\": there is no plug-in /nowhere\n"
               "nothing made");
}

static void train__told_to_stop__checkpoint(void **state)
{
    (void)state;
    shell_says(
        0,
        "rm -f s s.* err; T='tscaf-model train --model base.safetensors --out "
        "s "
        "--fatigue fatigue --batch 4 --threads 1 --steps 100000'; $T 2>err & "
        "p=$!; until [ -s err ]; do sleep 0.05; done; kill -TERM $p; wait $p; "
        "echo \"exit $?\"; cat err; ls "
        "s.checkpoint",
        "exit 3");
    shell_says(
        1,
        "tscaf-model train --model base.safetensors --out s --fatigue fatigue "
        "--batch 4 --threads 1 --steps 100001 --resume",
        "s.checkpoint: was made with \" cosine over 100000 steps;");
    /* A disk that is full, as far as a limit can show it: the checkpoint that
     * is there stays, without a piece of another. */
    shell_says(
        0,
        "cp s.checkpoint before; (trap '' XFSZ; ulimit -f 100; tscaf-model "
        "train --model base.safetensors --out s --fatigue fatigue --batch 4 "
        "--threads 1 --steps 100000 --save 1 --resume 2>full); echo \"exit "
        "$?\"; grep -o 's.checkpoint: cannot be written: File too large' full; "
        "cmp before s.checkpoint && ls s.* && echo whole",
        "exit 1\ns.checkpoint: cannot be written: File too large\n"
        "s.checkpoint\nwhole");
}

/* A stable run's end is set when it is resumed, and is then as if it had been
 * so from the start; a decay that has begun is not set anew. */
static void train__stable_schedule__ended_later(void **state)
{
    (void)state;
    shell_says(
        0,
        "rm -f e1* e2*; T='tscaf-model train --model base.safetensors "
        "--fatigue fatigue --batch 4 --seed 5 --save 1 --warm-up 2 --rate "
        "1e-3 --schedule stable --lanes 2'; $T --out e1 --steps 100000 & "
        "p=$!; n=0; while ! [ -s e1.checkpoint ] && [ $n -lt 1200 ]; do sleep "
        "0.05; n=$((n + 1)); done; kill $p; wait $p; s=$(grep -ao "
        "'\"training.step\":\"[0-9]*' e1.checkpoint | tr -dc 0-9); $T --out "
        "e1 --steps "
        "$((s + 6)) --decay-steps 4 --resume && $T --out e2 --steps "
        "$((s + 6)) --decay-steps 4 && cmp e1 e2 && echo the same",
        "the same");
    shell_says(
        1,
        "rm -f e3*; T='tscaf-model train --model base.safetensors --fatigue "
        "fatigue --batch 4 --threads 1 --out e3 --schedule stable --save 2'; "
        "$T --steps "
        "100000 --decay-steps 99999 & p=$!; n=0; while ! [ -s e3.checkpoint ] "
        "&& [ $n -lt 1200 ]; do sleep 0.05; n=$((n + 1)); done; kill $p; wait "
        "$p; $T --steps 100001 --decay-steps 99999 --resume",
        "was made with \" stable, decay over 99999 of 100000 steps;");
}

/* One picture and one that is none, beside thirty: both are told of. */
static void train__short_and_broken_data__told(void **state)
{
    (void)state;
    shell_says(
        0,
        "rm -rf short; mkdir -p short/0 short/1; cp fatigue/0/1.png short/0; "
        "echo junk > short/1/broken.jpg; tscaf-model train --model "
        "base.safetensors --out x.safetensors --steps 20 --batch 8 --threads 1 "
        "--sub-centres 1 --held-out 0 --fatigue short --recognition people "
        "2>err; grep -q 'pictures of fatigue could not be read, the last: "
        "short/1/broken.jpg' err && grep 'the fatigue data' err",
        "it is much shorter");
}

/* Broken pictures among those that are held out, whichever they are: they cost
 * no model, and are counted. */
static void train__broken_among_the_held_out__left_out(void **state)
{
    (void)state;
    shell_says(
        0,
        "rm -rf torn torn.tsv y*; mkdir torn; printf 'file\\tlabel\\tgroup"
        "\\n' > torn.tsv; for g in 1 2 3 4; do for l in 0 1; do for n in 1 2; "
        "do f=torn/$g.$l.$n.png; cp fatigue/$l/$((2 * g + n)).png $f || exit; "
        "printf \"$f\\t$l\\t$g\\n\" >> torn.tsv; done; done; echo junk > "
        "torn/$g.jpg; printf \"torn/$g.jpg\\t0\\t$g\\n\" >> torn.tsv; done; "
        "for p in people/*; do echo junk > $p/torn.jpg; done; tscaf-model "
        "train --model base.safetensors --out y.safetensors --steps 2 --batch "
        "4 --threads 1 --held-out 0.5 --fatigue torn.tsv --recognition people "
        "2>err || cat err; rm people/*/torn.jpg; grep -ao "
        "'pictures[^,]*,\\|broken[^}]*}' y.safetensors",
        "pictures\\\":8,\nbroken\\\":2}\n"
        "pictures\\\":15,\nbroken\\\":3}");
}

static void train__not_finite__step_and_tensor_named(void **state)
{
    (void)state;
    shell_says(
        1,
        "tscaf-model train --model base.safetensors --out n --fatigue fatigue "
        "--batch 4 --threads 1 --steps 50 --rate 1e30 --warm-up 0 --clip 0 "
        "2>err; code=$?; grep -E 'step [0-9]+: the (loss|gradient) of "
        "(fatigue|root)[a-z0-9_.]* is not finite' err; exit $code",
        "is not finite");
    shell_says(2, "ls n", "ls");
}

/* Neither unlabelled pictures nor a third class are alert or drowsy. */
static void fatigue__other_labels__refused(void **state)
{
    static const char *const commands[] = {
        "train --model base.safetensors --out x --steps 1 --fatigue odd.tsv",
        "eval --fatigue odd.tsv base.safetensors",
        "plot roc --out x.png --fatigue odd.tsv base.safetensors",
    };

    (void)state;
    for (int i = 0; i < 6; i++) {
        char line[512], says[64];
        int label = i % 2 ? 2 : -1;

        snprintf(line, sizeof(line),
                 "printf 'file\\tlabel\\nfatigue/0/2.png\\t1\\n"
                 "fatigue/0/1.png\\t%d\\n' > odd.tsv; tscaf-model %s",
                 label, commands[i / 2]);
        snprintf(says, sizeof(says),
                 "/1.png: its label is %d, not 0 (alert) or 1", label);
        shell_says(1, line, says);
    }
}

static void train__mistakes__named(void **state)
{
    (void)state;
    shell_says(2, "tscaf-model train", "usage:");
    shell_says(0, "tscaf-model train --help", "--turn");
    shell_says(2, "tscaf-model train --batch 1 --model x",
               "--batch cannot be \"1\"");
    shell_says(2, "tscaf-model train --optimizer lion", "\"lion\"");
    shell_says(1,
               "tscaf-model train --model base.safetensors --out x --steps 1 "
               "--fatigue nowhere --recognition people",
               "nowhere");
    shell_says(
        1,
        "tscaf-model train --model base.safetensors --out x --steps 1 "
        "--fatigue fatigue --recognition people --teacher base.safetensors",
        "has no \"embedding\"");
    shell_says(
        1,
        "tscaf-model train --model base.safetensors --out /nowhere/x --steps "
        "1 --batch 4 --fatigue fatigue --recognition people",
        "/nowhere/x");
    shell_says(1,
               "d=$(printf 'f\\377'); cp -r fatigue \"$d\"; tscaf-model train "
               "--model base.safetensors --out x --steps 1 --batch 4 --save 1 "
               "--fatigue \"$d\"; code=$?; rm -r \"$d\"; exit $code",
               "\" is not UTF-8, as a model's metadata are");
    shell_says(1,
               "tscaf-model train --model base.safetensors --out x --steps 1 "
               "--fatigue $(printf %1900s x | tr ' ' x)",
               "bytes, over 2047: shorter paths");
    shell_says(1,
               "tscaf-model train --model base.safetensors --out x --steps 9 "
               "--fatigue fatigue --decay-steps 3",
               "3 decay steps need the stable schedule");
    shell_says(1,
               "tscaf-model train --model base.safetensors --out x --steps 9 "
               "--fatigue fatigue --teacher t.onnx --mix 0.1 --hint root",
               "teacher t.onnx: needs recognition data");
    shell_says(2, "tscaf-model eval base.safetensors", "usage:");
    shell_says(1, "tscaf-model eval --pairs nowhere base.safetensors",
               "nowhere");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(train__two_queues__beats_the_untrained),
        cmocka_unit_test(train__killed_and_resumed__same_weights),
        cmocka_unit_test(train__cuda__as_others_and_after_a_lost_context),
        cmocka_unit_test(train__auto_without_a_gpu__says_why),
        cmocka_unit_test(train__told_to_stop__checkpoint),
        cmocka_unit_test(train__stable_schedule__ended_later),
        cmocka_unit_test(train__short_and_broken_data__told),
        cmocka_unit_test(train__broken_among_the_held_out__left_out),
        cmocka_unit_test(train__not_finite__step_and_tensor_named),
        cmocka_unit_test(fatigue__other_labels__refused),
        cmocka_unit_test(train__mistakes__named),
    };

    cmocka_set_test_filter(getenv("TEST_FILTER")); /* NULL: all */
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
