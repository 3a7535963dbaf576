/* What the GPU can do at most, by measuring it: the rate of a large square
 * matrix product in each precision, by cuBLASLt's first choice, and of copying
 * its memory. scripts/gpu-check gives the network's rates as shares of these.
 *
 *   make build/release/tests/cuda/peak && build/release/tests/cuda/peak
 *   {"float32":TFLOP/s,"float16":...,"bfloat16":...,"tf32":...,
 *    "gigabytes_per_second":...}
 */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#define SIDE 8192
#define REPEATS 10
#define COPY ((size_t)1 << 30)

/* None of these may fail: a machine where one does has no peak to tell. */
static void must(int status, const char *what)
{
    if (!status)
        return;
    fprintf(stderr, "peak: %s: status %d\n", what, status);
    exit(1);
}

static cudaStream_t stream;

/* Seconds of one of REPEATS runs, after one that warms up; the best of three.
 */
static double timed(void (*run)(void *arg), void *arg)
{
    cudaEvent_t from, to;
    double best = 1e9;
    float ms = 0;

    must(cudaEventCreate(&from), "an event");
    must(cudaEventCreate(&to), "an event");
    run(arg);
    for (int round = 0; round < 3; round++) {
        must(cudaEventRecord(from, stream), "an event");
        for (int i = 0; i < REPEATS; i++)
            run(arg);
        must(cudaEventRecord(to, stream), "an event");
        must(cudaEventSynchronize(to), "a run");
        must(cudaEventElapsedTime(&ms, from, to), "a time");
        if (ms / 1e3 / REPEATS < best)
            best = ms / 1e3 / REPEATS;
    }
    must(cudaEventDestroy(from), "an event");
    must(cudaEventDestroy(to), "an event");
    return best;
}

struct product {
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t layout;
    cublasLtMatmulHeuristicResult_t found;
    void *a, *b, *c, *room;
};

static void multiply(void *arg)
{
    struct product *p = arg;
    const float one = 1, zero = 0;

    must(cublasLtMatmul(p->lt, p->desc, &one, p->a, p->layout, p->b, p->layout,
                        &zero, p->c, p->layout, p->c, p->layout, &p->found.algo,
                        p->room, p->found.workspaceSize, stream),
         "a product");
}

/* TFLOP/s, summed in float32. Not of zeros: power, and so the
 * clock, depends on the numbers. */
static double matrix_rate(cudaDataType_t type, size_t size,
                          cublasComputeType_t how)
{
    struct product p = {0};
    cublasLtMatmulPreference_t wish;
    size_t room = (size_t)64 << 20;
    cublasOperation_t turned = CUBLAS_OP_T;
    double seconds;
    int n = 0;

    must(cublasLtCreate(&p.lt), "cuBLASLt");
    must(cudaMalloc(&p.a, SIDE * size * SIDE), "memory");
    must(cudaMalloc(&p.b, SIDE * size * SIDE), "memory");
    must(cudaMalloc(&p.c, SIDE * size * SIDE), "memory");
    must(cudaMalloc(&p.room, room), "memory");
    must(cudaMemset(p.a, 0x35, SIDE * size * SIDE), "memory");
    must(cudaMemset(p.b, 0x2b, SIDE * size * SIDE), "memory");
    must(cublasLtMatmulDescCreate(&p.desc, how, CUDA_R_32F), "a product");
    must(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_TRANSA,
                                        &turned, sizeof(turned)),
         "a product");
    must(cublasLtMatrixLayoutCreate(&p.layout, type, SIDE, SIDE, SIDE),
         "a matrix");
    must(cublasLtMatmulPreferenceCreate(&wish), "a product");
    must(cublasLtMatmulPreferenceSetAttribute(
             wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room,
             sizeof(room)),
         "a product");
    must(cublasLtMatmulAlgoGetHeuristic(p.lt, p.desc, p.layout, p.layout,
                                        p.layout, p.layout, wish, 1, &p.found,
                                        &n),
         "a product");
    must(n != 1, "no way to multiply");
    seconds = timed(multiply, &p);
    cublasLtMatmulPreferenceDestroy(wish);
    cublasLtMatrixLayoutDestroy(p.layout);
    cublasLtMatmulDescDestroy(p.desc);
    cublasLtDestroy(p.lt);
    cudaFree(p.a);
    cudaFree(p.b);
    cudaFree(p.c);
    cudaFree(p.room);
    return 2.0 * SIDE * SIDE * SIDE / seconds / 1e12;
}

static void copy(void *arg)
{
    char *at = arg;

    must(cudaMemcpyAsync(at + COPY, at, COPY, cudaMemcpyDeviceToDevice, stream),
         "a copy");
}

int main(void)
{
    double rates[4], seconds;
    void *memory;

    must(cudaStreamCreate(&stream), "no GPU");
    rates[0] = matrix_rate(CUDA_R_32F, 4, CUBLAS_COMPUTE_32F);
    rates[1] = matrix_rate(CUDA_R_16F, 2, CUBLAS_COMPUTE_32F);
    rates[2] = matrix_rate(CUDA_R_16BF, 2, CUBLAS_COMPUTE_32F);
    rates[3] = matrix_rate(CUDA_R_32F, 4, CUBLAS_COMPUTE_32F_FAST_TF32);
    must(cudaMalloc(&memory, 2 * COPY), "memory");
    seconds = timed(copy, memory);
    printf("{\"float32\":%.2f,\"float16\":%.2f,\"bfloat16\":%.2f,"
           "\"tf32\":%.2f,\"gigabytes_per_second\":%.0f}\n",
           rates[0], rates[1], rates[2], rates[3], 2.0 * COPY / seconds / 1e9);
    return 0;
}
