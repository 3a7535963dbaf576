/* tscaf-model study at the smallest scale: drawn faces, a few steps. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/shell.h"
#include "tests/support/unit.h"

#define TRAIN                                                                  \
    "-- --fatigue drivers --recognition people --steps 12 --batch 4 --save 2 " \
    "--warm-up 2 --no-augment --held-out 0 --threads 1 "
#define STUDY                                                                  \
    "tscaf-model study --networks mobilenetv2:0.1 --dim 16 --test-fatigue "    \
    "drivers "                                                                 \
    "--faces people "

static int set_up(void **state)
{
    char text[65536];

    (void)state;
    shell_init();
    if (shell(
            "mkdir -p drivers/0 drivers/1 people; for i in 1 2 3 4 5 6; do "
            "tscaf-model sample --identity $i --noise $i drivers/0/$i.png; "
            "tscaf-model sample --identity $i --eyes 0.1 --mouth 1 --noise $i "
            "drivers/1/$i.png; mkdir people/$i; for n in 1 2 3; do "
            "tscaf-model sample --identity $i --noise $n people/$i/$n.png; "
            "done; done",
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

/* Killed with its training at any moment, it gives what it would have given. */
static void study__killed__goes_on_to_the_same(void **state)
{
    (void)state;
    shell_says(0,
               STUDY "--tables 1,5 --work one --report one.md " TRAIN
                     "2>&1 && cat one.md",
               "| parallel |");
    shell_says(0, "cat one.md", "| iresnet50 | 43.92 | 43.92 |");
    shell_says(0, "cat one.md", "| mobilenetv2 | 14.77 | 14.77 |");
    shell_says(0, "cat one.md; grep -c ' 1 of 1 |' one.md", "\n2\n");
    /* A training that outlives its study keeps the folder. */
    shell_says(0,
               STUDY "--tables 1,5 --work two --report two.md " TRAIN
                     "2>/dev/null & n=0; while ! ls two/*.checkpoint "
                     ">/dev/null 2>&1 && [ $n -lt 1200 ]; do sleep 0.05; "
                     "n=$((n + 1)); done; kill -9 $!; n=0; while [ $n -lt 600 "
                     "]; do " STUDY
                     "--tables 1,5 --work two --report two.md " TRAIN
                     "2>err; c=$?; grep -q 'is at work here' err || break; "
                     "sleep 0.2; n=$((n + 1)); done; [ $c = 0 ] && cmp one.md "
                     "two.md && for f in one/*.safetensors; do cmp $f "
                     "two/${f#one/} || exit 1; done; echo the same",
               "the same");
    /* Done is done. */
    shell_says(0,
               "touch mark; " STUDY
               "--tables 5 --work two --report two.md " TRAIN
               "&& find two -name '*.safetensors' -newer mark | wc -l",
               "\n0\n");
    /* A study may go on in another precision: what has begun keeps its own,
     * and the report says so. */
    shell_says(0, "cat two.md", "- In float32: all.");
    shell_says(0,
               "rm two/*tree*.json && sed -i s/float32/bfloat16/ "
               "two/*parallel*.json && " STUDY "--precision bfloat16 "
               "--tables 5 --work two --report two.md " TRAIN "&& cat two.md",
               "- In float32: mobilenetv2:0.1-lase-tree-alternate-s1.\n"
               "- In bfloat16: mobilenetv2:0.1-lase-parallel-alternate-s1.\n");
    /* Figures that say it in no words say nothing. */
    shell_says(0,
               "sed -i 's/\"bfloat16\"/3/' two/*parallel*.json && " STUDY
               "--tables 5 --work two --report two.md " TRAIN
               "&& ! grep 'In bfloat16' two.md && cat two.md",
               "| parallel |");
    shell_says(0, "tscaf-model plot training --out t.svg two/*.log && ls t.svg",
               "t.svg");
}

/* Every row stands in the report before it is trained. */
static void study__training_fails__rows_and_reason(void **state)
{
    (void)state;
    shell_says(1,
               STUDY "--seeds 1,2 --work bad --report bad.md -- --fatigue "
                     "nowhere --steps 1",
               "mobilenetv2:0.1-lase-tree-alternate-s1: the training ended "
               "with 1");
    shell_says(0, "cat bad.md", "## Table 2");
    shell_says(0, "cat bad.md", "| SENet | | | | | | 0 of 2 |");
    shell_says(0, "cat bad.md", "| accumulation, w = 0.9 | | | | | | 0 of 2 |");
    shell_says(0, "cat bad.md", "| LANet and SENet (LASE) |");
    shell_says(0, "cat bad.md", "seeds 1 2.");
    /* Rows must be comparable: other options want another folder. */
    shell_says(
        1, STUDY "--work bad --report bad.md -- --fatigue nowhere --steps 2",
        "bad: was begun with other options");
}

static void study__mistakes__named(void **state)
{
    (void)state;
    shell_says(2, "tscaf-model study", "usage:");
    shell_says(0, "tscaf-model study --help", "--networks");
    shell_says(2, "tscaf-model study --networks vgg16", "cannot be \"vgg16\"");
    shell_says(2, "tscaf-model study --networks ../x", "cannot be");
    shell_says(2, "tscaf-model study --precision half", "cannot be \"half\"");
    shell_says(2, "tscaf-model study --precision int8", "cannot be \"int8\"");
    shell_says(2, STUDY "--work x --report y -- --precision bfloat16",
               "stands before --");
    shell_says(2, "tscaf-model study --tables 6", "cannot be \"6\"");
    shell_says(2, "tscaf-model study --seeds 1,", "cannot be \"1,\"");
    shell_says(2, STUDY "--work x --report y", "usage:");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(study__killed__goes_on_to_the_same),
        cmocka_unit_test(study__training_fails__rows_and_reason),
        cmocka_unit_test(study__mistakes__named),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
