/* Command lines in a folder of their own. */
#include "tests/support/shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/support/server.h"
#include "tests/support/unit.h"

static char dir[64];

const char *shell_init(void)
{
    snprintf(dir, sizeof(dir), "/tmp/test_shell_XXXXXX");
    assert_non_null(mkdtemp(dir));
    return dir;
}

void shell_fini(void)
{
    char line[128];

    snprintf(line, sizeof(line), "rm -rf %s", dir);
    assert_int_equal(system(line), 0);
}

int shell(const char *line, char *text, size_t size)
{
    char all[8192], programs[1024];
    size_t n;
    FILE *p;

    assert_non_null(realpath(test_programs(), programs));
    assert_in_range(snprintf(all, sizeof(all),
                             "cd %s && export PATH=%s:$PATH; ( %s ) 2>&1", dir,
                             programs, line),
                    1, sizeof(all) - 1);
    p = popen(all, "r");
    assert_non_null(p);
    n = fread(text, 1, size - 1, p);
    text[n] = '\0';
    return WEXITSTATUS(pclose(p));
}

void shell_says(int code, const char *line, const char *what)
{
    char text[65536];
    int got = shell(line, text, sizeof(text));

    if (got != code || !strstr(text, what))
        fail_msg("%s: exit %d, not %d, or no \"%s\" in:\n%s", line, got, code,
                 what, text);
}

double shell_number(const char *line, const char *name)
{
    char text[65536], key[64], *at = NULL, *next = text;

    if (shell(line, text, sizeof(text)))
        fail_msg("%s:\n%s", line, text);
    snprintf(key, sizeof(key), "\"%s\":", name);
    while ((next = strstr(next, key)))
        at = next++;
    if (!at)
        fail_msg("no %s in:\n%s", name, text);
    return strtod(at + strlen(key), NULL);
}
