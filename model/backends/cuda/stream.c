/* What goes with a stream: the vendors' handles, and recordings. */
#include <pthread.h>
#include <string.h>

#include "model/backends/cuda/plan.h"

const struct gpu_vendor *const cuda_vendors[2] = {&gpu_cudnn, &gpu_cublaslt};

/* While one thread records, others may run, but none may wait for the whole
 * device, as cuDNN does when its handle is closed: that would fail, and spoil
 * the recording. */
static pthread_mutex_t recording = PTHREAD_MUTEX_INITIALIZER;

enum ut_err cuda_handles_open(struct gpu_stream *s, void *handles[2],
                              struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (int i = 0; i < 2 && !rc; i++)
        rc = cuda_vendors[i]->open(s, &handles[i], e);
    if (rc)
        cuda_handles_close(handles, false);
    return rc;
}

void cuda_handles_close(void *handles[2], bool lost)
{
    pthread_mutex_lock(&recording);
    for (int i = 0; i < 2; i++)
        if (handles[i])
            cuda_vendors[i]->close(handles[i], lost);
    pthread_mutex_unlock(&recording);
    memset(handles, 0, 2 * sizeof(*handles));
}

struct gpu_graph *cuda_record(struct gpu_stream *s, cuda_queueing *queue,
                              void *arg)
{
    struct gpu_graph *graph = NULL;
    struct ut_error ignored;
    enum ut_err rc;

    pthread_mutex_lock(&recording);
    if (!gpu_record(s, &ignored)) {
        rc = queue(arg, &ignored);
        if (gpu_recorded(s, &graph, &ignored))
            graph = NULL;
        if (rc && graph) {
            gpu_graph_free(graph);
            graph = NULL;
        }
    }
    pthread_mutex_unlock(&recording);
    return graph;
}
