#ifndef BASE_PROCESSORS_H
#define BASE_PROCESSORS_H

/* Processors that this process may use: those of its affinity mask, but no more
 * than its cgroup's quota (version 2), rounded up. At least 1. Thread: any. */
int ut_processors(void);

/* The least quota of the group at path below root and of those above it, in
 * processors, rounded up; 0: there is none. */
int ut_processors_quota(const char *root, const char *path);

#endif
