// Sparse int8 weights with NEON, which looks up bytes in a table.
#include <arm_neon.h>

#include "kernels/sparse_bytes-inl.h"

namespace autoglm::sparse {

void expand_units_neon(Cursor* cursor, int num_units, int8_t* out) {
  expand_bytes(cursor, num_units, out, [](const int8_t* from, const uint8_t* source, int8_t* to) {
    vst1_s8(to, vtbl1_s8(vld1_s8(from), vreinterpret_s8_u8(vld1_u8(source))));
  });
}

}  // namespace autoglm::sparse
