// Sixteen floats in two AVX2 registers. Included only by files compiled for AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace autoglm {
namespace {

// F32x16 that a kernel may accumulate at once. More than fit the registers, but operands from the
// stack cost less than loading weights and keys twice.
constexpr int kAccumulators = 16;

struct F32x16 {
  __m256 low, high;
};

inline F32x16 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
// All ones in the first n of eight lanes.
inline __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline F32x16 load_partial(const float* p, int n) {
  return {_mm256_maskload_ps(p, first_lanes(n)), _mm256_maskload_ps(p + 8, first_lanes(n - 8))};
}
inline void store_partial(float* p, int n, F32x16 a) {
  _mm256_maskstore_ps(p, first_lanes(n), a.low);
  _mm256_maskstore_ps(p + 8, first_lanes(n - 8), a.high);
}
inline F32x16 operator+(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline F32x16 operator-(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline F32x16 operator*(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline F32x16 operator/(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline F32x16 max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline F32x16 min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline F32x16 abs(F32x16 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
inline F32x16 round_even(F32x16 a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, kMode), _mm256_round_ps(a.high, kMode)};
}
inline __m256 scale_by_power(__m256 p, __m256 t) {
  const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), shifted));
}
// p * 2^n, where t = n + 1.5 * 2^23; the product must be a normal number.
inline F32x16 scale_by_power(F32x16 p, F32x16 t) {
  return {scale_by_power(p.low, t.low), scale_by_power(p.high, t.high)};
}
// The number whose bits are those of `a` subtracted from `bits`.
inline F32x16 subtract_bits(int32_t bits, F32x16 a) {
  const __m256i from = _mm256_set1_epi32(bits);
  return {_mm256_castsi256_ps(_mm256_sub_epi32(from, _mm256_castps_si256(a.low))),
          _mm256_castsi256_ps(_mm256_sub_epi32(from, _mm256_castps_si256(a.high)))};
}
// a < b ? x : y by lanes.
inline F32x16 select_less(F32x16 a, F32x16 b, F32x16 x, F32x16 y) {
  return {_mm256_blendv_ps(y.low, x.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.high, x.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}
// The first n lanes of x, `fill` in the others; n in 0..16.
inline F32x16 keep_first(F32x16 x, int n, F32x16 fill) {
  return {_mm256_blendv_ps(fill.low, x.low, _mm256_castsi256_ps(first_lanes(n))),
          _mm256_blendv_ps(fill.high, x.high, _mm256_castsi256_ps(first_lanes(n - 8)))};
}
inline float reduce_add(F32x16 a) {
  const __m256 sum8 = _mm256_add_ps(a.low, a.high);
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(sum8), _mm256_extractf128_ps(sum8, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
inline float reduce_max(F32x16 a) {
  const __m256 max8 = _mm256_max_ps(a.low, a.high);
  __m128 best = _mm_max_ps(_mm256_castps256_ps128(max8), _mm256_extractf128_ps(max8, 1));
  best = _mm_max_ps(best, _mm_movehl_ps(best, best));
  return _mm_cvtss_f32(_mm_max_ss(best, _mm_movehdup_ps(best)));
}
inline __m256 even_bf16(__m256i bits) { return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)); }
inline __m256 odd_bf16(__m256i bits) {
  return _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(0xffff0000)));
}
// 16 pairs of bf16: the first of each pair and the second.
inline void load_bf16_pairs(const uint16_t* p, F32x16* even, F32x16* odd) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
  *even = {even_bf16(low), even_bf16(high)};
  *odd = {odd_bf16(low), odd_bf16(high)};
}
// The sixteen IEEE halves at p.
inline F32x16 load(const uint16_t* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
inline __m128i to_halves(__m256 a) {
  const __m256 largest = _mm256_set1_ps(65504.0f);
  const __m256 clamped =
      _mm256_max_ps(_mm256_min_ps(a, largest), _mm256_sub_ps(_mm256_setzero_ps(), largest));
  return _mm256_cvtps_ph(clamped, _MM_FROUND_TO_NEAREST_INT);
}
inline void store_halves(uint16_t* p, F32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_halves(a.low));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p) + 1, to_halves(a.high));
}
// Integral values in -128..127.
inline void store_codes(int8_t* p, F32x16 a) {
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packs_epi32(_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)), 0xd8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
inline F32x16 from_int32(const int32_t* p) {
  const auto* words = reinterpret_cast<const __m256i*>(p);
  return {_mm256_cvtepi32_ps(_mm256_loadu_si256(words)),
          _mm256_cvtepi32_ps(_mm256_loadu_si256(words + 1))};
}

}  // namespace
}  // namespace autoglm
