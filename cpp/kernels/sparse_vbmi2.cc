// Sparse int8 weights with AVX-512 VBMI2, whose vpexpandb puts 64 codes to their places at once.
#include <immintrin.h>

#include "kernels/sparse.h"

namespace autoglm::sparse {
namespace {

constexpr int kSpan = 16;             // units that are taken together: 64 columns
constexpr int kPrefetchBytes = 2048;  // the hardware does not look past the end of a page
constexpr int kMaskBytes = kSpan * 8;

// A cursor in registers, of one of kBlocks neighbours that are walked in parallel; 0 where nothing
// is to be fetched. It holds a pointer to the codes: an expanding load with an index takes longer.
template <int kBlocks>
class Feed {
 public:
  explicit Feed(const Cursor& cursor)
      : cursor_(cursor),
        masks_(cursor.masks + cursor.unit),
        codes_(cursor.codes + cursor.at),
        last_(cursor.codes + cursor.last) {}

  // To be called before every span. What lies ahead is in the same block, or in the one that is
  // walked after it.
  void fetch() {
    if constexpr (kBlocks == 0) return;
    const int64_t mask_bytes = cursor_.num_units * 8, code_bytes = cursor_.last + kUnit;
    const int64_t mask_at = (masks_ - cursor_.masks) * 8 + kPrefetchBytes;
    const auto* ahead = reinterpret_cast<const char*>(cursor_.masks) + mask_at;
    if (mask_at >= mask_bytes) ahead += (kBlocks - 1) * mask_bytes;
    for (int line = 0; line < kMaskBytes; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T0);
    code_distance_ = kPrefetchBytes;
    if (last_ + kUnit - codes_ <= kPrefetchBytes) code_distance_ += (kBlocks - 1) * code_bytes;
  }

  // Whether the next span lies inside the codes, as it does but at the end of a full block.
  bool is_inside() const { return last_ - codes_ >= (kSpan - 1) * kUnit; }

  // The next 64 codes, those that are not stored zero.
  template <bool kIsInside>
  __m512i next() {
    uint64_t mask = *masks_++;
    asm("" : "+r"(mask));  // gcc would load it twice
    const int8_t* from = kIsInside || codes_ < last_ ? codes_ : last_;
    if constexpr (kBlocks > 0) {
      _mm_prefetch(reinterpret_cast<const char*>(from + code_distance_), _MM_HINT_T0);
    }
    codes_ += _mm_popcnt_u64(mask);
    return _mm512_maskz_expand_epi8(mask, _mm512_loadu_si512(from));
  }

  // Where the walk stands.
  void store(Cursor* cursor) const {
    cursor->unit = static_cast<int>(masks_ - cursor_.masks);
    cursor->at = static_cast<int>(codes_ - cursor_.codes);
  }

 private:
  const Cursor cursor_;
  const uint64_t* masks_;
  const int8_t* codes_;
  const int8_t* const last_;
  int64_t code_distance_ = 0;
};

// Sums of activation rows with one block. There are `odd` ones for a few rows only: their products
// need not wait for each other.
template <int kRows, bool kIsSplit>
struct Sums {
  __m512i even[kRows];
  __m512i odd[kIsSplit ? kRows : 1];
};

// The products of a span. vpdpbusd multiplies unsigned by signed bytes: codes are shifted by 128,
// and the shift is taken off with the activations' sums.
template <bool kIsInside, int kRows, bool kIsSplit, typename Feed>
inline void add_span(Feed& feed, const int8_t* const (&rows)[kRows], int k,
                     Sums<kRows, kIsSplit>& sums) {
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  AUTOGLM_UNROLL
  for (int i = 0; i < 4 * kSpan; i += 8) {
    const __m512i first = _mm512_xor_si512(feed.template next<kIsInside>(), sign);
    const __m512i second = _mm512_xor_si512(feed.template next<kIsInside>(), sign);
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      int32_t quads[2];
      __builtin_memcpy(quads, rows[r] + k + i, 8);
      __m512i& even = sums.even[r];
      __m512i& odd = kIsSplit ? sums.odd[kIsSplit ? r : 0] : even;
      even = _mm512_dpbusd_epi32(even, first, _mm512_set1_epi32(quads[0]));
      odd = _mm512_dpbusd_epi32(odd, second, _mm512_set1_epi32(quads[1]));
    }
  }
}

// Blocks are walked in parallel: more streams keep the memory busy.
template <int kRows, int kBlocks>
void dot_rows(const PackedMatrix& w, const PackedRows& x, int block, int first_row, int32_t* out) {
  constexpr bool kIsSplit = kRows * kBlocks <= 8;  // or registers would not do
  const int8_t* rows[kRows];
  Sums<kRows, kIsSplit> sums[kBlocks];
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const size_t row = static_cast<size_t>(first_row) + r;
    rows[r] = static_cast<const int8_t*>(x.data) + row * x.padded_cols;
    const int num_groups = x.padded_cols / kGroupSize;
    int32_t sum = 0;
    for (int g = 0; g < num_groups; ++g) sum += x.group_sum[row * num_groups + g];
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      sums[b].even[r] = _mm512_set1_epi32(-128 * sum);
      if constexpr (kIsSplit) sums[b].odd[r] = _mm512_setzero_si512();
    }
  }
  Feed<kBlocks> feeds[2] = {Feed<kBlocks>(first_unit(w, block)),
                            Feed<kBlocks>(first_unit(w, block + kBlocks - 1))};
  for (int k = 0; k < w.padded_cols; k += 4 * kSpan) {
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      feeds[b].fetch();
      if (feeds[b].is_inside()) {
        add_span<true>(feeds[b], rows, k, sums[b]);
      } else {
        add_span<false>(feeds[b], rows, k, sums[b]);
      }
    }
  }
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b, out += kRowBlock) {
      __m512i sum = sums[b].even[r];
      if constexpr (kIsSplit) sum = _mm512_add_epi32(sum, sums[b].odd[r]);
      _mm512_storeu_si512(out, sum);
    }
  }
}

template <int kBlocks>
void dot_blocks(const PackedMatrix& w, const PackedRows& x, int block, int first_row, int num_rows,
                int32_t* sums) {
  if (num_rows == 8) {
    dot_rows<8, kBlocks>(w, x, block, first_row, sums);
  } else if (num_rows == 4) {
    dot_rows<4, kBlocks>(w, x, block, first_row, sums);
  } else if (num_rows == 2) {
    dot_rows<2, kBlocks>(w, x, block, first_row, sums);
  } else {
    dot_rows<1, kBlocks>(w, x, block, first_row, sums);
  }
}

template <bool kIsInside, typename Feed>
inline void expand_span(Feed& feed, int8_t* out) {
  AUTOGLM_UNROLL
  for (int i = 0; i < kSpan; ++i)
    _mm512_storeu_si512(out + i * kUnit, feed.template next<kIsInside>());
}

template <int kBlocks>
inline void expand(Cursor* cursor, int num_units, int8_t* out) {
  Feed<kBlocks> feed(*cursor);
  for (int unit = 0; unit < num_units; unit += kSpan, out += kSpan * kUnit) {
    feed.fetch();
    if (feed.is_inside()) {
      expand_span<true>(feed, out);
    } else {
      expand_span<false>(feed, out);
    }
  }
  feed.store(cursor);
}

}  // namespace

void expand_units_vbmi2(Cursor* cursor, int num_units, int8_t* out) {
  expand<2>(cursor, num_units, out);
}

void expand_near_vbmi2(Cursor* cursor, int num_units, int8_t* out) {
  expand<0>(cursor, num_units, out);
}

void dot_vbmi2(const PackedMatrix& w, const PackedRows& x, int block, int num_blocks, int first_row,
               int num_rows, int32_t* sums) {
  if (num_blocks == 2) {
    dot_blocks<2>(w, x, block, first_row, num_rows, sums);
  } else {
    dot_blocks<1>(w, x, block, first_row, num_rows, sums);
  }
}

}  // namespace autoglm::sparse
