// Sixteen floats in four NEON registers. Needs nothing beyond ARMv8.0; included only by the NEON
// files.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"

namespace autoglm {
namespace {

// F32x16 that a kernel may accumulate at once: 16 of the 32 registers.
constexpr int kAccumulators = 4;

struct F32x16 {
  float32x4_t q0, q1, q2, q3;
};

template <typename Op>
inline F32x16 each(F32x16 a, Op op) {
  return {op(a.q0), op(a.q1), op(a.q2), op(a.q3)};
}
template <typename Op>
inline F32x16 each(F32x16 a, F32x16 b, Op op) {
  return {op(a.q0, b.q0), op(a.q1, b.q1), op(a.q2, b.q2), op(a.q3, b.q3)};
}

inline F32x16 splat(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {v, v, v, v};
}
inline F32x16 load(const float* p) {
  return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
inline void store(float* p, F32x16 a) {
  vst1q_f32(p, a.q0);
  vst1q_f32(p + 4, a.q1);
  vst1q_f32(p + 8, a.q2);
  vst1q_f32(p + 12, a.q3);
}
inline F32x16 load_partial(const float* p, int n) {
  if (n == 16) return load(p);
  float padded[16] = {};
  std::memcpy(padded, p, n * sizeof(float));
  return load(padded);
}
inline void store_partial(float* p, int n, F32x16 a) {
  if (n == 16) return store(p, a);
  float padded[16];
  store(padded, a);
  std::memcpy(p, padded, n * sizeof(float));
}
inline F32x16 operator+(F32x16 a, F32x16 b) {
  return each(a, b, [](float32x4_t x, float32x4_t y) { return vaddq_f32(x, y); });
}
inline F32x16 operator-(F32x16 a, F32x16 b) {
  return each(a, b, [](float32x4_t x, float32x4_t y) { return vsubq_f32(x, y); });
}
inline F32x16 operator*(F32x16 a, F32x16 b) {
  return each(a, b, [](float32x4_t x, float32x4_t y) { return vmulq_f32(x, y); });
}
inline F32x16 operator/(F32x16 a, F32x16 b) {
  return each(a, b, [](float32x4_t x, float32x4_t y) { return vdivq_f32(x, y); });
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {vfmaq_f32(c.q0, a.q0, b.q0), vfmaq_f32(c.q1, a.q1, b.q1), vfmaq_f32(c.q2, a.q2, b.q2),
          vfmaq_f32(c.q3, a.q3, b.q3)};
}
inline F32x16 max(F32x16 a, F32x16 b) {
  return each(a, b, [](float32x4_t x, float32x4_t y) { return vmaxq_f32(x, y); });
}
inline F32x16 min(F32x16 a, F32x16 b) {
  return each(a, b, [](float32x4_t x, float32x4_t y) { return vminq_f32(x, y); });
}
inline F32x16 abs(F32x16 a) {
  return each(a, [](float32x4_t x) { return vabsq_f32(x); });
}
inline F32x16 round_even(F32x16 a) {
  return each(a, [](float32x4_t x) { return vrndnq_f32(x); });
}
// p * 2^n, where t = n + 1.5 * 2^23; the product must be a normal number.
inline F32x16 scale_by_power(F32x16 p, F32x16 t) {
  return each(p, t, [](float32x4_t x, float32x4_t y) {
    const int32x4_t shifted = vshlq_n_s32(vreinterpretq_s32_f32(y), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), shifted));
  });
}
// The number whose bits are those of `a` subtracted from `bits`.
inline F32x16 subtract_bits(int32_t bits, F32x16 a) {
  return each(a, a, [bits](float32x4_t x, float32x4_t) {
    return vreinterpretq_f32_s32(vsubq_s32(vdupq_n_s32(bits), vreinterpretq_s32_f32(x)));
  });
}
// a < b ? x : y by lanes.
inline F32x16 select_less(F32x16 a, F32x16 b, F32x16 x, F32x16 y) {
  return {
      vbslq_f32(vcltq_f32(a.q0, b.q0), x.q0, y.q0), vbslq_f32(vcltq_f32(a.q1, b.q1), x.q1, y.q1),
      vbslq_f32(vcltq_f32(a.q2, b.q2), x.q2, y.q2), vbslq_f32(vcltq_f32(a.q3, b.q3), x.q3, y.q3)};
}
// The first n of four lanes of x, `fill` in the others.
inline float32x4_t keep_first(float32x4_t x, int n, float32x4_t fill) {
  constexpr int32_t kLanes[4] = {0, 1, 2, 3};
  return vbslq_f32(vcltq_s32(vld1q_s32(kLanes), vdupq_n_s32(n)), x, fill);
}
// The first n lanes of x, `fill` in the others; n in 0..16.
inline F32x16 keep_first(F32x16 x, int n, F32x16 fill) {
  return {keep_first(x.q0, n, fill.q0), keep_first(x.q1, n - 4, fill.q1),
          keep_first(x.q2, n - 8, fill.q2), keep_first(x.q3, n - 12, fill.q3)};
}
inline float reduce_add(F32x16 a) {
  return vaddvq_f32(vaddq_f32(vaddq_f32(a.q0, a.q1), vaddq_f32(a.q2, a.q3)));
}
inline float reduce_max(F32x16 a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.q0, a.q1), vmaxq_f32(a.q2, a.q3)));
}
// 16 pairs of bf16: the first of each pair and the second.
inline void load_bf16_pairs(const uint16_t* p, F32x16* even, F32x16* odd) {
  const F32x16 pairs = load(reinterpret_cast<const float*>(p));
  *even = each(pairs, [](float32x4_t x) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(x), 16));
  });
  *odd = each(pairs, [](float32x4_t x) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0xffff0000)));
  });
}
// The sixteen IEEE halves at p.
inline F32x16 load(const uint16_t* p) {
  const float16x8_t low = vreinterpretq_f16_u16(vld1q_u16(p));
  const float16x8_t high = vreinterpretq_f16_u16(vld1q_u16(p + 8));
  return {vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low), vcvt_f32_f16(vget_low_f16(high)),
          vcvt_high_f32_f16(high)};
}
inline void store_halves(uint16_t* p, F32x16 a) {
  const F32x16 largest = splat(65504.0f);
  const F32x16 clamped = max(min(a, largest), splat(0.0f) - largest);
  const float16x8_t low = vcvt_high_f16_f32(vcvt_f16_f32(clamped.q0), clamped.q1);
  const float16x8_t high = vcvt_high_f16_f32(vcvt_f16_f32(clamped.q2), clamped.q3);
  vst1q_u16(p, vreinterpretq_u16_f16(low));
  vst1q_u16(p + 8, vreinterpretq_u16_f16(high));
}
// The low bytes of sixteen lanes.
inline void store_low_bytes(int8_t* p, int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
  const int16x8_t high = vcombine_s16(vmovn_s32(c), vmovn_s32(d));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
// Integral values in -128..127.
inline void store_codes(int8_t* p, F32x16 a) {
  store_low_bytes(p, vcvtq_s32_f32(a.q0), vcvtq_s32_f32(a.q1), vcvtq_s32_f32(a.q2),
                  vcvtq_s32_f32(a.q3));
}
inline int8x16_t low_nibbles(int8x16_t bytes) { return vandq_s8(bytes, vdupq_n_s8(15)); }
inline int8x16_t high_nibbles(int8x16_t bytes) {
  return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(bytes), 4));
}
inline int8x16_t load_bytes(const void* p) { return vld1q_s8(static_cast<const int8_t*>(p)); }
inline F32x16 from_int32(const int32_t* p) {
  return {vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4)),
          vcvtq_f32_s32(vld1q_s32(p + 8)), vcvtq_f32_s32(vld1q_s32(p + 12))};
}

}  // namespace
}  // namespace autoglm
