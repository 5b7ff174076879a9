// Kernels for AVX-512 with VNNI.
#include "kernels/ref.h"

// Each file builds on the ones above it.
// clang-format off
#include "kernels/vec_avx512.h"
#include "kernels/rows-inl.h"
#include "kernels/store_kv-inl.h"
#include "kernels/attention-inl.h"
#include "kernels/attention_planes-inl.h"
#include "kernels/attention_dots_avx512-inl.h"
#include "kernels/attention_i8-inl.h"
#include "kernels/dot_avx512-inl.h"
#include "kernels/gemm_float-inl.h"
#include "kernels/gemm_integer-inl.h"
// clang-format on

namespace autoglm {

extern const Kernels kAvx512Kernels;
const Kernels kAvx512Kernels = {
    .isa = Isa::kAvx512,
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
