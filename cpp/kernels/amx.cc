// Kernels for AMX (int8 and bf16 tiles); few rows and everything else stay on AVX-512.
#include "kernels/ref.h"

// Each file builds on the ones above it.
// clang-format off
#include "kernels/vec_avx512.h"
#include "kernels/rows-inl.h"
#include "kernels/store_kv-inl.h"
#include "kernels/attention-inl.h"
#include "kernels/attention_planes-inl.h"
#include "kernels/attention_dots_amx-inl.h"
#include "kernels/attention_i8-inl.h"
#include "kernels/dot_avx512-inl.h"
#include "kernels/gemm_float-inl.h"
#include "kernels/gemm_integer-inl.h"
#include "kernels/gemm_amx-inl.h"
#include "kernels/gemm_few-inl.h"
// clang-format on

namespace autoglm {
namespace {

// Below this many plane rows a matrix-vector pass over integer weights is faster than tiles, and
// gives the same bits. bf16 always takes tiles: float sums in another order would round
// differently.
constexpr int kFewestTileRows = 6;
// The same for weights whose zeros are not stored. Without tiles 3 rows take two passes over the
// codes, 5 too; a pass over half of the weights is cheap enough for two.
constexpr int kFewestSparse8TileRows = 3;
constexpr int kFewestHalf8TileRows = 5;

constexpr int fewest_tile_rows(WeightType type) {
  if (type == WeightType::kS8) return kFewestSparse8TileRows;
  return type == WeightType::kH8 ? kFewestHalf8TileRows : kFewestTileRows;
}

PackedRows amx_rows_format(WeightType type, int rows, int padded_cols, bool is_precise) {
  PackedRows out = rows_format(type, rows, padded_cols, is_precise);
  if (type == WeightType::kF32) return out;
  if (type == WeightType::kBF16 && is_precise) out.planes = 2;
  if (type == WeightType::kBF16 || rows * out.planes >= fewest_tile_rows(type)) {
    out.format = RowsFormat::kTile;
  }
  return out;
}

inline void store_bf16(bf16_t* p, __m512i bits) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}

// Rounds to the nearest bf16 (ties to even); the result is in the upper halves, the lower are zero.
// NaN keeps its bits: rounding up would carry some of them over into a zero.
inline __m512i round_to_bf16(F32x16 x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  return _mm512_and_si512(_mm512_mask_mov_epi32(rounded, is_nan, bits),
                          _mm512_set1_epi32(0xffff0000));
}

void pack_row_bf16_tile(const PackedRows& out, int row, const float* x, int cols) {
  const size_t row_size = static_cast<size_t>(out.padded_cols) * 2;
  const size_t first = static_cast<size_t>(row) * out.planes;
  for (int k = 0; k < out.padded_cols; k += 16) {
    const F32x16 value = load_padded(x, k, cols);
    const __m512i high = round_to_bf16(value);
    store_bf16(reinterpret_cast<bf16_t*>(row_bytes(out, first, row_size, 2 * k)), high);
    if (out.planes == 1) continue;
    const F32x16 rest = value - F32x16{_mm512_castsi512_ps(high)};
    store_bf16(reinterpret_cast<bf16_t*>(row_bytes(out, first + 1, row_size, 2 * k)),
               round_to_bf16(rest));
  }
}

void amx_pack_row(const PackedRows& out, WeightType type, int row, const float* x, int cols) {
  if (out.format == RowsFormat::kTile && type == WeightType::kBF16) {
    pack_row_bf16_tile(out, row, x, cols);
  } else {
    pack_row(out, type, row, x, cols);
  }
}

void amx_gemm(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
              int block_end, std::byte* scratch) {
  if (x.format != RowsFormat::kTile) {
    gemm(w, x, y, block_begin, block_end, scratch);
  } else if (w.type == WeightType::kBF16) {
    gemm_tiles<WeightType::kBF16>(w, x, y, block_begin, block_end, scratch);
  } else if (w.type == WeightType::kB8) {
    gemm_tiles<WeightType::kB8>(w, x, y, block_begin, block_end, scratch);
  } else if (is_sparse(w.type)) {
    gemm_tiles<WeightType::kS8>(w, x, y, block_begin, block_end, scratch);
  } else if (x.rows * x.planes <= kTileRows) {
    gemm_few_rows(w, x, y, block_begin, block_end, scratch);
  } else if (w.type == WeightType::kI8) {
    gemm_tiles<WeightType::kI8>(w, x, y, block_begin, block_end, scratch);
  } else if (w.type == WeightType::kI3) {
    gemm_tiles<WeightType::kI3>(w, x, y, block_begin, block_end, scratch);
  } else {
    gemm_tiles<WeightType::kI4>(w, x, y, block_begin, block_end, scratch);
  }
}

}  // namespace

extern const Kernels kAmxKernels;
const Kernels kAmxKernels = {
    .isa = Isa::kAmx,
    .rows_format = amx_rows_format,
    .pack_row = amx_pack_row,
    .gemm = amx_gemm,
    .rms_norm = rms_norm,
    .add = add,
    .rope = rope,
    .store_kv = store_kv,
    .attention = attention,
    .unpack_row = ref::unpack_row,
};

}  // namespace autoglm
