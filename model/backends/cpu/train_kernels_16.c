#define LANES 16
#define KERNELS mdl_train_kernels_16
#include "model/backends/cpu/train_kernels_body.h"
