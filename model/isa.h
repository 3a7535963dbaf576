#ifndef MODEL_ISA_H
#define MODEL_ISA_H

/* The vectors that kernels may use. */

enum mdl_isa {
    MDL_ISA_ANY,
    MDL_ISA_AVX2,   /* and FMA */
    MDL_ISA_AVX512, /* F, BW, VL, DQ */
};

/* What this processor has; less where $ONEDNN_MAX_CPU_ISA or, without it,
 * $DNNL_MAX_CPU_ISA, which oneDNN heeds, says "AVX2" or something before it.
 * Read once. Thread: any. */
enum mdl_isa mdl_isa(void);

#endif
