// Scalar kernels that the vector paths use as they are.
#pragma once

#include "kernels/kernels.h"

namespace autoglm::ref {

void rope(float* head, const float* cos, const float* sin, int rotary_dim, bool is_interleaved);
void unpack_row(const PackedMatrix& w, int row, float* out);

}  // namespace autoglm::ref
