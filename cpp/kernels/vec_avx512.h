// Sixteen floats in one AVX-512 register. Included only by files compiled for AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace autoglm {
namespace {

// F32x16 that a kernel may accumulate at once: 16 of the 32 registers.
constexpr int kAccumulators = 16;

struct F32x16 {
  __m512 v;
};

inline F32x16 splat(float x) { return {_mm512_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline F32x16 load_partial(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
inline void store_partial(float* p, int n, F32x16 a) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}
inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
inline F32x16 round_even(F32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// p * 2^n, where t = n + 1.5 * 2^23; the product must be a normal number.
inline F32x16 scale_by_power(F32x16 p, F32x16 t) {
  const __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(t.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p.v), shifted))};
}
// The number whose bits are those of `a` subtracted from `bits`.
inline F32x16 subtract_bits(int32_t bits, F32x16 a) {
  return {_mm512_castsi512_ps(_mm512_sub_epi32(_mm512_set1_epi32(bits), _mm512_castps_si512(a.v)))};
}
// a < b ? x : y by lanes.
inline F32x16 select_less(F32x16 a, F32x16 b, F32x16 x, F32x16 y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
// The first n lanes of x, `fill` in the others; n in 0..16.
inline F32x16 keep_first(F32x16 x, int n, F32x16 fill) {
  return {_mm512_mask_blend_ps(first_lanes(n), fill.v, x.v)};
}
inline float reduce_add(F32x16 a) { return _mm512_reduce_add_ps(a.v); }
inline float reduce_max(F32x16 a) { return _mm512_reduce_max_ps(a.v); }
// 16 pairs of bf16: the first of each pair and the second.
inline void load_bf16_pairs(const uint16_t* p, F32x16* even, F32x16* odd) {
  const __m512i bits = _mm512_loadu_si512(p);
  even->v = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
  odd->v = _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(0xffff0000)));
}
// The sixteen IEEE halves at p.
inline F32x16 load(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_halves(uint16_t* p, F32x16 a) {
  const __m512 largest = _mm512_set1_ps(65504.0f);
  const __m512 clamped =
      _mm512_max_ps(_mm512_min_ps(a.v, largest), _mm512_sub_ps(_mm512_setzero_ps(), largest));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Integral values in -128..127.
inline void store_codes(int8_t* p, F32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
inline F32x16 from_int32(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }

}  // namespace
}  // namespace autoglm
