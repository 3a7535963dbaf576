#ifndef TESTS_SUPPORT_SHELL_H
#define TESTS_SUPPORT_SHELL_H

#include <stddef.h>

/* Command lines as a user types them, in a folder of their own with the
 * programs under test on the PATH. Anything that fails here fails the test. */

/* Makes the folder and returns it; shell_fini removes it. */
const char *shell_init(void);
void shell_fini(void);

/* Runs a line there; its exit code, and what it printed (stderr too). */
int shell(const char *line, char *text, size_t size);
/* Runs a line that must exit with code and print what. */
void shell_says(int code, const char *line, const char *what);
/* The last number of that name in the JSON that a line prints. */
double shell_number(const char *line, const char *name);

#endif
