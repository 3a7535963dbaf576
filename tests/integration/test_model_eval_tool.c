/* tscaf-model eval, calibrate and plot on small drawn datasets. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/server.h"
#include "tests/support/shell.h"
#include "tests/support/unit.h"

/* Drivers alert and yawning in two groups; six people with five pictures each;
 * the same people as LFW's files. */
static int set_up(void **state)
{
    char text[65536], line[256];
    const char *dir = shell_init();

    (void)state;
    snprintf(line, sizeof(line), "cp %s %s/m.safetensors", test_model(), dir);
    assert_int_equal(system(line), 0);
    if (shell(
            "mkdir drivers people lfw; printf 'file\\tlabel\\tgroup\\n' > "
            "drivers/all.tsv; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do "
            "tscaf-model sample --identity $i --noise $i drivers/$i.a.png; "
            "tscaf-model sample --identity $i --eyes 0.1 --mouth 1 --noise $i "
            "drivers/$i.d.png; "
            "printf \"$i.a.png\\t0\\t\\\"g$((i % 2))\\\"\\n"
            "$i.d.png\\t1\\t\\\"g$((i % 2))\\\"\\n\" >> drivers/all.tsv; "
            "done; for i in 1 2 3 4 5 6; do mkdir people/$i lfw/P_$i; for n "
            "in 1 2 3 4 5; do tscaf-model sample --identity $i --noise $n "
            "--light 0.$((n + 4)) people/$i/$n.png; cp people/$i/$n.png "
            "lfw/P_$i/P_${i}_000$n.png; done; done; (printf '2\\t3\\n'; for "
            "f in 0 1; do for i in 1 2 3; do printf \"P_$((i + f * 3))\\t1\\t"
            "2\\n\"; done; for i in 1 2 3; do printf \"P_$i\\t$((f + "
            "1))\\tP_$((i + 3))\\t2\\n\"; done; done) > lfw/pairs.txt",
            text, sizeof(text)))
        fail_msg("%s", text);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    shell_fini();
    return 0;
}

static void eval__fatigue__whole_and_by_group(void **state)
{
    const char *line =
        "tscaf-model eval --fatigue drivers/all.tsv m.safetensors";

    (void)state;
    assert_true(shell_number(line, "true_positive") +
                    shell_number(line, "false_negative") ==
                6); /* the last group's */
    shell_says(0, line,
               "{\"task\":\"fatigue\",\"threshold\":0.5,"
               "\"pictures\":24,\"accuracy\":");
    /* Names that need quoting stay JSON; groups have curves of their own. */
    shell_says(0, line, "{\"group\":\"\\\"g1\\\"\",\"pictures\":12,");
    shell_says(0,
               "tscaf-model eval --roc --fatigue drivers/all.tsv m.safetensors "
               "| python3 -c 'import json,sys; o=json.loads(sys.stdin.read()); "
               "r=o[\"roc\"]; print(r[0][:2], r[-1][:2], len(o[\"groups\"]))'",
               "[0.0, 0.0] [1.0, 1.0] 2");
}

static void eval__lfw_and_manifest__same_figures(void **state)
{
    double a, b;

    (void)state;
    a = shell_number("tscaf-model eval --pairs lfw/pairs.txt m.safetensors",
                     "auc");
    shell_says(
        0,
        "(printf 'fold\\tsame\\ta\\tb\\n'; for f in 0 1; do for i in 1 2 "
        "3; do k=$((i + f * 3)); printf \"$f\\t1\\tP_$k/P_${k}_0001.png"
        "\\tP_$k/P_${k}_0002.png\\n\"; done; for i in 1 2 3; do "
        "k=$((i + 3)); printf \"$f\\t0\\tP_$i/P_${i}_000$((f + "
        "1)).png\\tP_$k/P_${k}_0002.png\\n\"; done; done) > p.tsv; echo "
        "made",
        "made");
    b = shell_number(
        "tscaf-model eval --pairs p.tsv --pictures lfw m.safetensors", "auc");
    if (a != b)
        fail_msg("AUC %g of pairs.txt, %g of the manifest", a, b);
    shell_says(0, "tscaf-model eval --pairs lfw/pairs.txt m.safetensors",
               "\"pairs\":12,\"pictures\":12,\"folds\":2,\"accuracy\":");
    shell_says(1,
               "tscaf-model eval --pairs lfw/pairs.txt --pictures nowhere "
               "m.safetensors",
               "there is no nowhere/P_1/P_1_0001.jpg");
}

static void eval__faces__one_to_many(void **state)
{
    (void)state;
    shell_says(0, "tscaf-model eval --faces people --fmr 0.1 m.safetensors",
               "\"genuine\":60,\"impostor\":375,");
    /* Three enrolled by a picture each; their others are probes, the other
     * three are strangers. */
    shell_says(0, "tscaf-model eval --faces people --fmr 0.1 m.safetensors",
               "\"enrolled\":3,\"probes\":12,\"strangers\":15,\"rank1\":");
    assert_true(shell_number("tscaf-model eval --faces people --fmr 0.1 "
                             "m.safetensors",
                             "fpir_at_threshold") <= 1);
}

static void calibrate__stated_rates__in_the_file_and_served(void **state)
{
    struct test_server s;
    struct test_answer a = {0};
    const char *key = "\"identity_threshold\":", *at;
    char path[256], pwd[128];
    double threshold, found;

    (void)state;
    threshold = shell_number(
        "tscaf-model calibrate --fatigue drivers/all.tsv --fpr 0.9 --faces "
        "people --fmr 0.05 m.safetensors c.safetensors",
        "threshold");
    found = shell_number("tscaf-model eval --faces people --fmr 0.05 "
                         "c.safetensors",
                         "threshold");
    if (!(threshold - found < 1e-5 && found - threshold < 1e-5))
        fail_msg("threshold %g, eval says %g", threshold, found);
    /* Only the metadata differ; a second calibration replaces the first. */
    shell_says(0,
               "tscaf-model calibrate --faces people --fmr 0.1 c.safetensors "
               "d.safetensors && strings -n 9 d.safetensors | grep -o "
               "'calibration.recognition' | wc -l",
               "\n1\n");
    shell_says(0,
               "tscaf-model eval --faces people m.safetensors > a; "
               "tscaf-model eval --faces people d.safetensors > b; "
               "cmp a b && echo same",
               "same");
    shell_says(0, "tscaf-model eval --fatigue drivers/all.tsv c.safetensors",
               "\"recall\"");
    assert_int_equal(shell("pwd", pwd, sizeof(pwd)), 0);
    pwd[strcspn(pwd, "\n")] = '\0';
    snprintf(path, sizeof(path), "%s/c.safetensors", pwd);
    test_server_start(&s, (const char *const[]){"--model", path, NULL});
    test_get(&s, "/v1/models", &a);
    assert_int_equal(a.status, 200);
    at = strstr(a.body, key);
    if (!at || strtof(at + strlen(key), NULL) != (float)threshold)
        fail_msg("no %g in %s", threshold, a.body);
    test_answer_fini(&a);
    test_server_stop(&s);
}

static void calibrate__too_few__refused(void **state)
{
    (void)state;
    shell_says(1, "tscaf-model calibrate --faces people m.safetensors x",
               "people: 375 negatives cannot tell a rate of 0.001: that takes "
               "10000");
    shell_says(2, "ls x", "ls");
    shell_says(2, "tscaf-model calibrate --fmr 2 m.safetensors x",
               "--fmr cannot be \"2\"");
    shell_says(2, "tscaf-model calibrate m.safetensors x", "usage:");
    shell_says(0, "tscaf-model calibrate --help", "--fpr");
    shell_says(1, "tscaf-model calibrate --faces nowhere m.safetensors x",
               "nowhere");
}

static void plot__each_kind__a_picture(void **state)
{
    (void)state;
    shell_says(
        0,
        "tscaf-model init --seed 9 mobilenetv2 n.safetensors; "
        "tscaf-model plot roc --out r.png --fatigue drivers/all.tsv "
        "m.safetensors n.safetensors && tscaf-model plot roc --out p.svg "
        "--pairs lfw/pairs.txt m.safetensors && tscaf-model plot roc "
        "--out f.svg --faces people m.safetensors && tscaf-model plot "
        "confusion --out c.png --fatigue drivers/all.tsv m.safetensors "
        "&& grep -c 'm, AUC' p.svg && ls r.png p.svg f.svg c.png",
        "r.png");
    shell_says(
        0,
        "tscaf-model plot grad-cam --out g.png --picture drivers/1.d.png "
        "--picture drivers/2.a.png --reference drivers/1.a.png "
        "--attention m.safetensors && ls g.png",
        "\"leaf\":\"recognition\",\"picture\":1,\"score\":");
    shell_says(0,
               "tscaf-model plot tsne --out t.svg --data people --perplexity 4 "
               "--people 3 --leaf recognition --leaf fatigue m.safetensors && "
               "grep -o 'identity [0-9]' t.svg | sort -u | wc -l",
               "3\n");
    shell_says(0,
               "printf '{\"step\":20,\"fatigue_loss\":0.7,"
               "\"recognition_loss\":0.0}\\n{\"step\":40,\"fatigue_loss\":"
               "0.5,\"recognition_loss\":0.0}\\n{\"step\":6' > log && "
               "tscaf-model plot training --out l.svg log && grep -c 'fatigue "
               "loss' l.svg && ! grep 'recognition loss' l.svg && echo fine",
               "fine");
}

static void plot__mistakes__named(void **state)
{
    (void)state;
    shell_says(2, "tscaf-model plot", "usage:");
    shell_says(2, "tscaf-model plot pie --out x.png y", "no figure \"pie\"");
    shell_says(1, "tscaf-model plot roc --out x.png m.safetensors",
               "roc wants --fatigue, --pairs or --faces");
    shell_says(1, "tscaf-model plot grad-cam --out x.png m.safetensors",
               "--picture");
    shell_says(1, "tscaf-model plot tsne --out x.png m.safetensors", "--data");
    shell_says(1,
               "tscaf-model plot tsne --out x.png --data people --leaf eyes "
               "m.safetensors",
               "no output \"eyes.lase\"");
    shell_says(1, "tscaf-model plot training --out x.png m.safetensors",
               "has no line of train --json");
    shell_says(2, "tscaf-model plot tsne --out x.png --points 4001 m",
               "--points cannot be \"4001\"");
    shell_says(1,
               "tscaf-model plot confusion --out x.bmp --fatigue "
               "drivers/all.tsv m.safetensors",
               "neither with .png nor .svg");
    shell_says(2, "ls x.png", "ls");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eval__fatigue__whole_and_by_group),
        cmocka_unit_test(eval__lfw_and_manifest__same_figures),
        cmocka_unit_test(eval__faces__one_to_many),
        cmocka_unit_test(calibrate__stated_rates__in_the_file_and_served),
        cmocka_unit_test(calibrate__too_few__refused),
        cmocka_unit_test(plot__each_kind__a_picture),
        cmocka_unit_test(plot__mistakes__named),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
