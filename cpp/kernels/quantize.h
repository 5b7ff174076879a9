// Rounds one row of weights to integer codes.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/kernels.h"

namespace autoglm {

// Symmetric int8: w ~ scale * code, code in -127..127. Returns scale; n is a multiple of 16.
float quantize_row_int8(const float* row, int n, int8_t* codes);

// Two levels of scales (QServe, arXiv 2405.04532), for int4 and int3: w ~ scale * group_scale[g] *
// (code - code_of_zero(type)) with integer group scales 1..16 over groups of 64; both levels are
// chosen by squared error, of which that of each column counts as `importance` says (empty: all the
// same). Returns scale; n is a multiple of 64.
float quantize_row_grouped(WeightType type, const float* row, int n, uint8_t* codes,
                           uint8_t* group_scale, std::span<const float> importance = {});

}  // namespace autoglm
