// Sparse int8 weights with AVX-512 VBMI2, whose vpexpandb puts 64 codes to their places at once.
#include <immintrin.h>

#include "kernels/sparse.h"

namespace autoglm::sparse {
namespace {

constexpr int kUnit = 64;
constexpr int kPrefetchCodes = 2048;  // about as far ahead as a page of masks
constexpr int kPrefetchUnits = 256;

// Walks the units of one block.
class Feed {
 public:
  Feed(const PackedMatrix& w, int block)
      : masks_(w.mask + static_cast<size_t>(block) * (w.padded_cols / 4)),
        codes_(reinterpret_cast<const int8_t*>(w.weight) +
               static_cast<size_t>(block) * sparse_capacity(w.padded_cols)),
        last_(sparse_most_codes(w.padded_cols)) {}

  // The next 64 codes, those that are not stored taken from `rest`.
  __m512i next(__m512i rest) {
    const uint64_t mask = *masks_;
    const int8_t* from = codes_ + (at_ < last_ ? at_ : last_);
    _mm_prefetch(reinterpret_cast<const char*>(masks_ + kPrefetchUnits), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(from + kPrefetchCodes), _MM_HINT_T0);
    ++masks_;
    at_ += _mm_popcnt_u64(mask);
    return _mm512_mask_expand_epi8(rest, mask, _mm512_loadu_si512(from));
  }

 private:
  const uint64_t* masks_;
  const int8_t* codes_;
  int64_t last_;
  int64_t at_ = 0;
};

// vpdpbusd multiplies unsigned by signed bytes: codes are shifted by 128, and the shift is taken
// off with the activations' sums.
template <int kRows>
void dot_rows(const PackedMatrix& w, const PackedRows& x, int block, int first_row, int32_t* sums,
              int stride) {
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  const int8_t* rows[kRows];
  __m512i even[kRows], odd[kRows];
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const size_t row = static_cast<size_t>(first_row) + r;
    rows[r] = static_cast<const int8_t*>(x.data) + row * x.padded_cols;
    const int num_groups = x.padded_cols / kGroupSize;
    int32_t sum = 0;
    for (int g = 0; g < num_groups; ++g) sum += x.group_sum[row * num_groups + g];
    even[r] = _mm512_set1_epi32(-128 * sum);
    odd[r] = _mm512_setzero_si512();
  }
  Feed feed(w, block);
  for (int k = 0; k < w.padded_cols; k += 8) {
    const __m512i first = _mm512_xor_si512(feed.next(_mm512_setzero_si512()), sign);
    const __m512i second = _mm512_xor_si512(feed.next(_mm512_setzero_si512()), sign);
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      int32_t quads[2];
      __builtin_memcpy(quads, rows[r] + k, 8);
      even[r] = _mm512_dpbusd_epi32(even[r], first, _mm512_set1_epi32(quads[0]));
      odd[r] = _mm512_dpbusd_epi32(odd[r], second, _mm512_set1_epi32(quads[1]));
    }
  }
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    _mm512_storeu_si512(sums + static_cast<size_t>(r) * stride, _mm512_add_epi32(even[r], odd[r]));
  }
}

}  // namespace

void expand_block_vbmi2(const PackedMatrix& w, int block, int8_t* out) {
  Feed feed(w, block);
  for (int k = 0; k < w.padded_cols; k += 4) {
    _mm512_storeu_si512(out + static_cast<size_t>(k) * kRowBlock,
                        feed.next(_mm512_setzero_si512()));
  }
}

void dot_block_vbmi2(const PackedMatrix& w, const PackedRows& x, int block, int first_row,
                     int num_rows, int32_t* sums, int stride) {
  if (num_rows == 4) {
    dot_rows<4>(w, x, block, first_row, sums, stride);
  } else if (num_rows == 2) {
    dot_rows<2>(w, x, block, first_row, sums, stride);
  } else {
    dot_rows<1>(w, x, block, first_row, sums, stride);
  }
}

}  // namespace autoglm::sparse
