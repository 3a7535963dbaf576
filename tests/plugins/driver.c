/* In the place of NVIDIA's driver (libcuda.so.1): as much of it as CUDA's
 * runtime asks before it gives up. $TSCAF_TEST_DRIVER: the version of CUDA it
 * is for, as 12040. It has no GPU. */
#include <stdlib.h>
#include <string.h>

#define CUDA_ERROR_NO_DEVICE 100

int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuGetProcAddress_v2(const char *name, void **to, int version,
                        unsigned long long flags, void *status);

/* All the rest. */
static int refuse(void)
{
    return CUDA_ERROR_NO_DEVICE;
}

int cuInit(unsigned flags)
{
    (void)flags;
    return CUDA_ERROR_NO_DEVICE;
}

int cuDriverGetVersion(int *version)
{
    const char *text = getenv("TSCAF_TEST_DRIVER");

    *version = text ? atoi(text) : 0;
    return 0;
}

int cuGetProcAddress_v2(const char *name, void **to, int version,
                        unsigned long long flags, void *status)
{
    (void)version;
    (void)flags;
    (void)status;
    *(int (**)(void))to = refuse;
    if (!strcmp(name, "cuInit"))
        *(int (**)(unsigned))to = cuInit;
    else if (!strcmp(name, "cuDriverGetVersion"))
        *(int (**)(int *))to = cuDriverGetVersion;
    else if (!strcmp(name, "cuGetProcAddress"))
        *(int (**)(const char *, void **, int, unsigned long long, void *))to =
            cuGetProcAddress_v2;
    return 0;
}
