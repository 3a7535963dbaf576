#define LANES 8
#define KERNELS mdl_train_kernels_8
#include "model/backends/cpu/train_kernels_body.h"
