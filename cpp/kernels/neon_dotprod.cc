// Kernels for NEON with the dot product instructions (ARMv8.2).
#include "kernels/ref.h"

// Each file builds on the ones above it.
// clang-format off
#include "kernels/vec_neon.h"
#include "kernels/rows-inl.h"
#include "kernels/store_kv-inl.h"
#include "kernels/attention-inl.h"
#include "kernels/dot_neon_dotprod-inl.h"
#include "kernels/attention_dots_neon-inl.h"
#include "kernels/attention_i8-inl.h"
#include "kernels/dot_neon-inl.h"
#include "kernels/gemm_float-inl.h"
#include "kernels/gemm_integer-inl.h"
// clang-format on

namespace autoglm {

extern const Kernels kDotprodKernels;
const Kernels kDotprodKernels = {
    .isa = Isa::kDotprod,
    .rows_format = rows_format,
    .pack_row = pack_row,
    .gemm = gemm,
    .rms_norm = rms_norm,
    .add = add,
    .rope = rope,
    .store_kv = store_kv,
    .attention = attention,
    .unpack_row = ref::unpack_row,
};

}  // namespace autoglm
