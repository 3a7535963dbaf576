/* tscaf-model train-detector and eval-detector on drawn faces. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/shell.h"
#include "tests/support/unit.h"

/* Ten drawn faces as pictures of their own, whose landmarks are the
 * template's. */
static int set_up(void **state)
{
    char text[4096];

    (void)state;
    shell_init();
    if (shell("echo 'file,width,height,x,y,w,h,l0x,l0y,l1x,l1y,l2x,l2y,l3x,"
              "l3y,l4x,l4y,score' > faces.csv; for i in 0 1 2 3 4 5 6 7 8 9; "
              "do tscaf-model sample --identity $i --noise $i $i.png; echo "
              "$i.png,112,112,18,12,76,96,38.29,51.70,73.53,51.50,56.03,71.74,"
              "41.55,92.37,70.73,92.20,0.9 >> faces.csv; done; touch none.txt",
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

/* A drawn face is soon learnt: the same pictures, seen as a whole. */
static void train__drawn_faces__found(void **state)
{
    const char *eval =
        "tscaf-model eval-detector --faces faces.csv --side 128 d.safetensors";

    (void)state;
    shell_says(0,
               "tscaf-model train-detector --faces faces.csv --negatives "
               "none.txt --out d.safetensors --steps 150 --side 128 --batch 4 "
               "--mosaic 0 --whole 1 --warm-up 10 --rate 5e-3 --threads 1 "
               "--json > log && tail -n 1 log",
               "\"step\":150,\"steps\":150,");
    assert_true(shell_number("tail -n 1 log", "class_loss") <
                0.3 * shell_number("head -n 1 log", "class_loss"));
    assert_true(shell_number(eval, "faces") == 10);
    assert_true(shell_number(eval, "found") >= 8);
    shell_says(0, eval, "\"recall_95\":[");
    /* Below the precision curve's end, too, a score counts as asked. */
    assert_true(shell_number("tscaf-model eval-detector --faces faces.csv "
                             "--side 128 --min-score 1e-6 d.safetensors",
                             "false_positives") >
                shell_number("tscaf-model eval-detector --faces faces.csv "
                             "--side 128 --min-score 0.02 d.safetensors",
                             "false_positives"));
    shell_says(0, "ls d.safetensors*", "d.safetensors\n");
}

static void train__told_to_stop__checkpoint(void **state)
{
    (void)state;
    shell_says(0,
               "T='tscaf-model train-detector --faces faces.csv --out s "
               "--steps 100000 --side 64 --batch 2'; $T 2>err & p=$!; until "
               "[ -s err ]; do sleep 0.05; done; kill -TERM $p; wait $p; echo "
               "\"exit $?\"; cat err; ls "
               "s.checkpoint",
               "exit 3");
    shell_says(1,
               "tscaf-model train-detector --faces faces.csv --out s --steps "
               "100000 --side 96 --batch 2 --resume",
               "s.checkpoint: was made with \" side 64;");
}

static void both__mistakes__named(void **state)
{
    (void)state;
    shell_says(2, "tscaf-model train-detector", "usage:");
    shell_says(0, "tscaf-model train-detector --help", "--mosaic");
    shell_says(2, "tscaf-model train-detector --side 100",
               "--side cannot be \"100\"");
    shell_says(2, "tscaf-model train-detector --batch 1", "--batch");
    shell_says(1,
               "tscaf-model train-detector --faces nowhere.csv --out x --steps "
               "1",
               "nowhere.csv");
    shell_says(1,
               "tscaf-model train-detector --faces faces.csv --out x --steps 1 "
               "--backend none",
               "none");
    shell_says(1,
               "cp faces.csv lost.csv; rm -f lost*.png; sed -i "
               "s/^[0-9]/lost-/ lost.csv; tscaf-model train-detector --faces "
               "lost.csv --out x --steps 1",
               "no picture can be read");
    shell_says(2, "tscaf-model eval-detector", "usage:");
    shell_says(2, "tscaf-model eval-detector --min-score 2 x",
               "--min-score cannot be \"2\"");
    shell_says(1, "tscaf-model eval-detector --faces faces.csv faces.csv",
               "faces.csv");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(train__drawn_faces__found),
        cmocka_unit_test(train__told_to_stop__checkpoint),
        cmocka_unit_test(both__mistakes__named),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
