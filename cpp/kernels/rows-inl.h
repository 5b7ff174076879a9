// Kernels that work on one row of activations, written once over F32x16: norms, exponentials,
// quantising.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/kernels.h"

namespace autoglm {
namespace {

// Adding it to |x| < 2^22 leaves x, rounded to the nearest even integer, in the lowest bits.
constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23

// Rows of activations come from another core or from memory: they are fetched three quarters of a
// page ahead, into the next row at the end of one.
constexpr int kFloatsAhead = 768;

// e^x with relative error below 3e-7; 0 below -87, and x is taken as 88 above that.
inline F32x16 exp(F32x16 x) {
  const F32x16 lowest = splat(-87.0f);
  const F32x16 clamped = min(max(x, lowest), splat(88.0f));
  const F32x16 rounded = fma(clamped, splat(1.44269504f), splat(kRounding));
  const F32x16 n = rounded - splat(kRounding);
  F32x16 r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  // Smallest largest error on |r| <= ln(2)/2, with e^0 = 1.
  F32x16 p = splat(0.00829031475f);
  p = fma(p, r, splat(0.0418979296f));
  p = fma(p, r, splat(0.166676362f));
  p = fma(p, r, splat(0.499991495f));
  p = fma(p, r, splat(0.999999707f));
  p = fma(p, r, splat(1.0f));
  return select_less(x, lowest, splat(0.0f), scale_by_power(p, rounded));
}

// 2^x for |x| <= 126 with relative error below 3e-7.
inline F32x16 exp2_within(F32x16 x) {
  const F32x16 rounded = x + splat(kRounding);
  const F32x16 f = x - (rounded - splat(kRounding));
  F32x16 p = splat(0.00132647273f);
  p = fma(p, f, splat(0.0096715127f));
  p = fma(p, f, splat(0.0555073374f));
  p = fma(p, f, splat(0.240222421f));
  p = fma(p, f, splat(0.693146978f));
  p = fma(p, f, splat(1.0f));
  return scale_by_power(p, rounded);
}

// 2^x for x <= 125 with relative error below 3e-7; x is taken as -64 below that, where products
// with it are no denormals yet: these take processors a hundred cycles.
inline F32x16 exp2_not_large(F32x16 x) { return exp2_within(max(x, splat(-64.0f))); }

// 1/x for 1 <= x <= 2^126. Divisions would take longer than all the rest of silu: two steps of
// third order from an estimate whose bits are those of x subtracted from twice those of one.
inline F32x16 reciprocal(F32x16 x) {
  F32x16 y = subtract_bits(0x7ef311c7, x);
  for (int i = 0; i < 2; ++i) {
    const F32x16 error = fma(splat(0.0f) - x, y, splat(1.0f));
    y = fma(fma(error, error, error), y, y);
  }
  return y;
}

inline F32x16 silu(F32x16 x) {
  const F32x16 t = x * splat(-1.44269504f);
  const F32x16 power = exp2_within(min(max(t, splat(-126.0f)), splat(125.0f)));
  return x * reciprocal(splat(1.0f) + power);
}

void rms_norm(const float* x, const float* gain, float eps, int n, float* out) {
  const int whole = n / 16 * 16;
  F32x16 sum = splat(0.0f);
  for (int i = 0; i < whole; i += 16) {
    __builtin_prefetch(x + i + kFloatsAhead);
    const F32x16 value = load(x + i);
    sum = fma(value, value, sum);
  }
  if (whole < n) {
    const F32x16 value = load_partial(x + whole, n - whole);
    sum = fma(value, value, sum);
  }
  const float mean = reduce_add(sum) / static_cast<float>(n);
  const F32x16 inverse = splat(1.0f / std::sqrt(mean + eps));
  for (int i = 0; i < whole; i += 16) store(out + i, load(x + i) * inverse * load(gain + i));
  if (whole < n) {
    const int rest = n - whole;
    store_partial(out + whole, rest,
                  load_partial(x + whole, rest) * inverse * load_partial(gain + whole, rest));
  }
}

void add(const float* x, int n, float* y) {
  int i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, load(y + i) + load(x + i));
  if (i < n) store_partial(y + i, n - i, load_partial(y + i, n - i) + load_partial(x + i, n - i));
}

// Plain loops: the compiler has the registers of the including file to choose from.
void rope(float* __restrict head, const float* cos, const float* sin, int rotary_dim,
          bool is_interleaved) {
  const int half = rotary_dim / 2;
  if (is_interleaved) {
    for (int i = 0; i < half; ++i) {
      const float x = head[2 * i], y = head[2 * i + 1];
      head[2 * i] = x * cos[i] - y * sin[i];
      head[2 * i + 1] = y * cos[i] + x * sin[i];
    }
    return;
  }
  float* __restrict low = head;
  float* __restrict high = head + half;
  for (int i = 0; i < half; ++i) {
    const float x = low[i], y = high[i];
    low[i] = x * cos[i] - y * sin[i];
    high[i] = y * cos[i] + x * sin[i];
  }
}

inline F32x16 load_padded(const float* x, int k, int cols) {
  if (k + 16 <= cols) return load(x + k);
  return k < cols ? load_partial(x + k, cols - k) : splat(0.0f);
}

// NaN when a value is not finite, which a maximum alone would lose.
inline float max_abs(const float* x, int cols) {
  F32x16 largest = splat(0.0f), poison = splat(0.0f);
  for (int k = 0; k < cols; k += 16) {
    __builtin_prefetch(x + k + kFloatsAhead);
    const F32x16 value = load_padded(x, k, cols);
    largest = max(largest, abs(value));
    poison = fma(value, splat(0.0f), poison);
  }
  return reduce_max(largest) + reduce_add(poison);
}

// Where the 64 bytes at column byte `offset` of plane row `row` lie.
inline std::byte* row_bytes(const PackedRows& out, size_t row, size_t bytes_per_row,
                            size_t offset) {
  auto* base = static_cast<std::byte*>(out.data);
  if (out.format != RowsFormat::kTile) return base + row * bytes_per_row + offset;
  return base + row / 16 * 16 * bytes_per_row + offset / 64 * 1024 + row % 16 * 64 + offset % 64;
}

void pack_row_f32(const PackedRows& out, int row, const float* x, int cols) {
  float* to = static_cast<float*>(out.data) + static_cast<size_t>(row) * out.padded_cols;
  for (int k = 0; k < out.padded_cols; k += 16) store(to + k, load_padded(x, k, cols));
}

// Codes of 64 columns from column k; the sums of the codes of each plane if kHasSums.
template <int kPlanes, bool kHasSums>
inline void pack_group_i8(const float* x, int k, int cols, F32x16 inverse,
                          int8_t* const (&codes)[kPlanes], int32_t* const (&sums)[kPlanes]) {
  F32x16 total[2] = {splat(0.0f), splat(0.0f)};
  AUTOGLM_UNROLL
  for (int i = 0; i < kGroupSize; i += 16) {
    const F32x16 code = round_even(load_padded(x, k + i, cols) * inverse);
    F32x16 high = code;
    if constexpr (kPlanes == 2) {
      high = round_even(code * splat(1.0f / kPlaneBase));
      const F32x16 low = fma(splat(-kPlaneBase), high, code);
      store_codes(codes[1] + i, low);
      if constexpr (kHasSums) total[1] = total[1] + low;
    }
    store_codes(codes[0] + i, high);
    if constexpr (kHasSums) total[0] = total[0] + high;
  }
  if constexpr (kHasSums) {
    for (int p = 0; p < kPlanes; ++p) *sums[p] = static_cast<int32_t>(reduce_add(total[p]));
  }
}

// Tile products take signed codes on both sides and need no sums.
template <int kPlanes, bool kHasSums>
inline void pack_planes_i8(const PackedRows& out, int row, const float* x, int cols) {
  constexpr float kSteps = kPlanes == 2 ? kTwoPlaneSteps : 127.0f;
  const float own_largest = max_abs(x, cols);
  const float largest = own_largest < out.least_range ? out.least_range : own_largest;
  out.scale[row] = largest / kSteps;
  // A row that no scale fits, tiny or broken, has zeros for codes: 0 times NaN would be noise.
  const int num_used = largest > kTiniestRow ? cols : 0;
  const F32x16 inverse = splat(num_used > 0 ? kSteps / largest : 0.0f);
  const size_t first = static_cast<size_t>(row) * kPlanes;
  const int num_groups = out.padded_cols / kGroupSize;
  for (int g = 0; g < num_groups; ++g) {
    int8_t* codes[kPlanes];
    int32_t* sums[kPlanes] = {};
    for (int p = 0; p < kPlanes; ++p) {
      codes[p] =
          reinterpret_cast<int8_t*>(row_bytes(out, first + p, out.padded_cols, g * kGroupSize));
      if constexpr (kHasSums) sums[p] = out.group_sum + (first + p) * num_groups + g;
    }
    pack_group_i8<kPlanes, kHasSums>(x, g * kGroupSize, num_used, inverse, codes, sums);
  }
}

void pack_row_i8(const PackedRows& out, int row, const float* x, int cols) {
  const bool has_sums = out.format == RowsFormat::kI8;
  if (out.planes == 2) {
    return has_sums ? pack_planes_i8<2, true>(out, row, x, cols)
                    : pack_planes_i8<2, false>(out, row, x, cols);
  }
  return has_sums ? pack_planes_i8<1, true>(out, row, x, cols)
                  : pack_planes_i8<1, false>(out, row, x, cols);
}

// Combines the int32 dots of a row's planes into floats, before the weight scales.
inline F32x16 combine_planes(const int32_t* planes, int num_planes, int stride) {
  const F32x16 high = from_int32(planes);
  if (num_planes == 1) return high;
  return splat(kPlaneBase) * high + from_int32(planes + stride);
}

// Writes the outputs of one activation row for row block `block` (for kSwiGlu: gate, with `up` of
// block+1).
template <Epilogue kEpilogue>
inline void write_outputs(const PackedMatrix& w, const GemmOutput& y, int row, int block,
                          F32x16 value, F32x16 up) {
  constexpr bool kIsSwiGlu = kEpilogue == Epilogue::kSwiGlu;
  const int first = block * kRowBlock;
  const int num = w.rows - first < kRowBlock ? w.rows - first : kRowBlock;
  const float* bias = y.bias;
  if (bias != nullptr) {
    bias += static_cast<size_t>(row) * y.bias_stride + first;
    value = value + load_partial(bias, num);
  }
  float* out = y.data + static_cast<size_t>(row) * y.stride + (kIsSwiGlu ? first / 2 : first);
  if constexpr (kIsSwiGlu) {
    if (bias != nullptr) up = up + load(bias + kRowBlock);
    value = silu(value) * up;
  }
  if (num == kRowBlock) {
    if constexpr (kEpilogue == Epilogue::kAdd) value = load(out) + value;
    store(out, value);
  } else {
    if constexpr (kEpilogue == Epilogue::kAdd) value = load_partial(out, num) + value;
    store_partial(out, num, value);
  }
}

inline void write_outputs(const PackedMatrix& w, const GemmOutput& y, int row, int block,
                          F32x16 value, F32x16 up) {
  switch (y.epilogue) {
    case Epilogue::kStore:
      return write_outputs<Epilogue::kStore>(w, y, row, block, value, up);
    case Epilogue::kAdd:
      return write_outputs<Epilogue::kAdd>(w, y, row, block, value, up);
    case Epilogue::kSwiGlu:
      return write_outputs<Epilogue::kSwiGlu>(w, y, row, block, value, up);
  }
}

}  // namespace
}  // namespace autoglm
