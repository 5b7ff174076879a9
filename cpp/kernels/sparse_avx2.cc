// Sparse int8 weights with AVX2, whose processors shuffle bytes by a table.
#include <immintrin.h>

#include "kernels/sparse_bytes-inl.h"

namespace autoglm::sparse {

void expand_units_avx2(Cursor* cursor, int num_units, int8_t* out) {
  expand_bytes(cursor, num_units, out, [](const int8_t* from, const uint8_t* source, int8_t* to) {
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    const __m128i places = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(source));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(codes, places));
  });
}

}  // namespace autoglm::sparse
