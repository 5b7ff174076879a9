// AMX tiles of bf16: configuration, packing, and the 32 x 32 product all training kernels rest on.
//
// A packed left operand has tiles of 16 rows x 32 columns, a packed right one tiles of 16 pairs of
// rows x 16 columns; a tile is 1 KiB and tiles of one panel lie next to each other along K. The two
// forms of the same numbers are 16 x 16 transposes of 32-bit words of each other.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace lite {

using bf16 = std::uint16_t;

constexpr int kTileRows = 16;
constexpr int kTileK = 32;
constexpr int kTileElements = kTileRows * kTileK;
constexpr int kBlock = 32;  // rows and columns of one product of 2 x 2 tiles

// Switches the tile unit on for the calling thread while it lives.
class TileScope {
 public:
  TileScope() {
    alignas(64) struct {
      std::uint8_t palette = 1;
      std::uint8_t start_row = 0;
      std::uint8_t reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } config;
    for (int tile = 0; tile < 8; ++tile) {
      config.row_bytes[tile] = 64;
      config.rows[tile] = kTileRows;
    }
    // Without this gcc 12 drops the stores above.
    asm volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

struct FreeAligned {
  void operator()(void* memory) const { std::free(memory); }
};

// Scratch memory that only grows, one per use and thread: fresh pages cost more than the work on
// them.
template <typename T>
class Scratch {
 public:
  T* get(std::size_t count) {
    if (count > capacity_) {
      const std::size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096;
      memory_.reset(static_cast<T*>(std::aligned_alloc(4096, bytes)));
      capacity_ = count;
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<T, FreeAligned> memory_;
  std::size_t capacity_ = 0;
};

inline float to_float(bf16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

inline __m512 widen(const bf16* source) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline __m256i narrow(__m512 value) { return (__m256i)_mm512_cvtneps_pbh(value); }

inline void store_narrow(bf16* target, __m512 value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), narrow(value));
}

// Two rows of 16 numbers as 16 pairs: what one row of a right-hand tile holds.
inline __m512i pair_rows(__m256i even, __m256i odd) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

inline void transpose_words(__m512i rows[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    rows[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    rows[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// One tile from 16 rows of 32 numbers; transposed it is a right-hand tile of the transposed matrix.
inline void tile_from_rows(const bf16* source, long stride, bool is_transposed, bf16* tile) {
  __m512i rows[16];
  for (int r = 0; r < 16; ++r) rows[r] = _mm512_loadu_si512(source + r * stride);
  if (is_transposed) transpose_words(rows);
  for (int r = 0; r < 16; ++r) _mm512_store_si512(tile + r * kTileK, rows[r]);
}

// One right-hand tile from 32 rows of 16 numbers; transposed it is a left-hand tile of the
// transpose.
inline void tile_from_columns(const bf16* source, long stride, bool is_transposed, bf16* tile) {
  __m512i rows[16];
  for (int r = 0; r < 16; ++r) {
    const bf16* pair = source + 2 * r * stride;
    rows[r] = pair_rows(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(pair)),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pair + stride)));
  }
  if (is_transposed) transpose_words(rows);
  for (int r = 0; r < 16; ++r) _mm512_store_si512(tile + r * kTileK, rows[r]);
}

// What a product fetches for the one after it: `lines` cache lines in every step along K.
struct Ahead {
  const bf16* at = nullptr;
  int lines = 0;

  void fetch(int step) const {
    const bf16* line = at + static_cast<long>(step) * lines * kTileK;
    for (int i = 0; i < lines; ++i) _mm_prefetch(line + i * kTileK, _MM_HINT_T1);
  }
};

// c[32, 32] (+)= a * b over `depth` tiles along K; the second panels lie a_panel and b_panel
// behind.
inline void multiply_block(const bf16* a, long a_panel, const bf16* b, long b_panel, int depth,
                           bool is_adding, float* c, long stride, Ahead ahead = {}) {
  const long bytes = stride * static_cast<long>(sizeof(float));
  float* low = c + kTileRows * stride;
  if (is_adding) {
    _tile_loadd(0, c, bytes);
    _tile_loadd(1, c + kTileRows, bytes);
    _tile_loadd(2, low, bytes);
    _tile_loadd(3, low + kTileRows, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int k = 0; k < depth; ++k) {
    const long at = static_cast<long>(k) * kTileElements;
    ahead.fetch(k);
    _tile_loadd(4, a + at, 64);
    _tile_loadd(6, b + at, 64);
    _tile_loadd(7, b + b_panel + at, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + a_panel + at, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + kTileRows, bytes);
  _tile_stored(2, low, bytes);
  _tile_stored(3, low + kTileRows, bytes);
}

// e^x for x <= 88, relative error below 3e-7; far below zero it is 0.
inline __m512 exp512(__m512 x) {
  const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-60.0f), _CMP_GE_OQ);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.3888889e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3333333e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1666667e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666667e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(counts, p, n);
}

}  // namespace lite
