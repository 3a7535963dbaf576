/* The weights that an installed server finds by itself. */
#include <stdio.h>
#include <unistd.h>

#include "tests/support/shell.h"
#include "tests/support/unit.h"

/* A copy of tscafd in bin/, until it is ready; what it said. */
#define SERVE(options)                                                         \
    "rm -f log; bin/tscafd --data $(mktemp -d data.XXXX) --listen "            \
    "127.0.0.1:0 " options                                                     \
    " 2> log & p=$!; n=0; while kill -0 $p && ! grep -q ready: log && [ $n "   \
    "-lt 1200 ]; do sleep 0.05; n=$((n + 1)); done; kill $p; wait $p; cat log"

static void model__installed__served_unless_told_otherwise(void **state)
{
    (void)state;
    shell_says(0,
               "mkdir -p bin share/tscaf && cp $(command -v tscafd) bin && "
               "tscaf-model init --name from-share tiny.json "
               "share/tscaf/tscaf_mobilenetv2.safetensors && tscaf-model init "
               "--name given tiny.json given.safetensors && ls",
               "given.safetensors");
    shell_says(0, SERVE(""), "ready: model from-share");
    shell_says(0, SERVE("--model none"), "ready: model untrained");
    shell_says(0, SERVE("--model given.safetensors"), "ready: model given");
}

static int set_up(void **state)
{
    char text[4096], line[4200];

    (void)state;
    shell_init();
    snprintf(line, sizeof(line), "cp %s/tests/support/tiny.json .",
             getcwd(text, sizeof(text)));
    shell_says(0, line, "");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    shell_fini();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model__installed__served_unless_told_otherwise),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
