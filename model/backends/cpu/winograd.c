/* Which convolutions are Winograd's. */
#include "model/backends/cpu/winograd.h"

#include "model/isa.h"

/* In float32 oneDNN is faster only where much of a tile lies outside of the
 * map: at 3x3 by up to 1.5 times, at 2x2 by 2; from 4x4 on ours is, by 1.1 and
 * soon by 2.5 to 4; in training, measured of IResNet50 by two threads, by 1.8.
 * With AVX-512 oneDNN has a Winograd of its own. */
static bool suits_f32(int height, int width)
{
    return mdl_isa() == MDL_ISA_AVX2 && height >= 4 && width >= 4;
}

const struct mdl_wino_kernel *
mdl_wino_choose(bool bf16, int channels, int outputs, int height, int width)
{
    if (!bf16)
        return suits_f32(height, width) ? &mdl_wino_f32 : NULL;
    return mdl_wino_bf16_available() && channels % 32 == 0 && outputs % 64 == 0
               ? &mdl_wino_bf16
               : NULL;
}
