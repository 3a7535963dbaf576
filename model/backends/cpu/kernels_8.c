#define LANES 8
#define KERNELS mdl_kernels_8
#include "model/backends/cpu/kernels_body.h"
