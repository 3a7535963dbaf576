#define LANES 16
#define KERNELS mdl_kernels_16
#include "model/backends/cpu/kernels_body.h"
