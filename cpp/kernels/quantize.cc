// Compiled without contraction to fused multiply-add, so that every machine writes the same bytes.
#include "kernels/quantize.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace autoglm {
namespace {

constexpr int kLanes = 16;  // partial sums: a fixed order the compiler can still vectorise

// Rounds to nearest even for |x| < 2^22.
inline float round_even(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

// Codes lie in [-half, half - 1].
inline float grouped_code(float w, float inverse, float half) {
  return std::min(half - 1.0f, std::max(-half, round_even(w * inverse)));
}

float sum_lanes(const float (&lanes)[kLanes]) {
  float sum = 0.0f;
  for (const float lane : lanes) sum += lane;
  return sum;
}

float max_abs(const float* x, int n) {
  float lanes[kLanes] = {};
  for (int i = 0; i < n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] = std::max(lanes[j], std::fabs(x[i + j]));
  }
  return *std::max_element(lanes, lanes + kLanes);
}

// Squared error of a group rounded with scale `d` > 0; `importance` may be null.
float group_error(const float* w, const float* importance, float d, float half) {
  const float inverse = 1.0f / d;
  float lanes[kLanes] = {};
  for (int i = 0; i < kGroupSize; i += kLanes) {
    float squares[kLanes];
    for (int j = 0; j < kLanes; ++j) {
      const float rest = w[i + j] - d * grouped_code(w[i + j], inverse, half);
      squares[j] = rest * rest;
    }
    if (importance != nullptr) {
      for (int j = 0; j < kLanes; ++j) squares[j] *= importance[i + j];
    }
    for (int j = 0; j < kLanes; ++j) lanes[j] += squares[j];
  }
  return sum_lanes(lanes);
}

// The scale of least squared error among divisors of the largest magnitude.
float best_group_scale(const float* w, const float* importance, float half) {
  const float largest = max_abs(w, kGroupSize);
  if (largest == 0.0f) return 0.0f;
  float best = 0.0f, best_error = INFINITY;
  // From 5.5 to 8 for codes of 4 bits; fewer bits gain from cutting off more.
  const float first = half == 8.0f ? 5.5f : 0.5f * half;
  for (float steps = first; steps <= half; steps += 0.03125f * half) {
    const float d = largest / steps;
    const float error = group_error(w, importance, d, half);
    if (error < best_error) {
      best_error = error;
      best = d;
    }
  }
  return best;
}

int nearest_group_scale(float wanted, float scale) {
  return static_cast<int>(std::clamp(round_even(wanted / scale), 1.0f, 16.0f));
}

}  // namespace

float quantize_row_int8(const float* row, int n, int8_t* codes) {
  const float scale = max_abs(row, n) / 127.0f;
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  if (scale <= 0.0f || !std::isfinite(inverse)) {
    std::fill(codes, codes + n, int8_t{0});
    return 0.0f;
  }
  for (int i = 0; i < n; ++i) {
    const float code = round_even(row[i] * inverse);
    codes[i] = static_cast<int8_t>(std::clamp(code, -127.0f, 127.0f));
  }
  return scale;
}

float quantize_row_grouped(WeightType type, const float* row, int n, uint8_t* codes,
                           uint8_t* group_scale, std::span<const float> importance) {
  const int num_groups = n / kGroupSize;
  const auto half = static_cast<float>(code_of_zero(type));
  const auto importance_of = [&](int g) {
    return importance.empty() ? nullptr : importance.data() + g * kGroupSize;
  };
  std::vector<float> wanted(num_groups);
  for (int g = 0; g < num_groups; ++g) {
    wanted[g] = best_group_scale(row + g * kGroupSize, importance_of(g), half);
  }
  const float largest = *std::max_element(wanted.begin(), wanted.end());
  std::fill(codes, codes + n, static_cast<uint8_t>(code_of_zero(type)));
  std::fill(group_scale, group_scale + num_groups, uint8_t{1});
  if (largest < 1e-30f) return 0.0f;

  float best = largest / 16.0f, best_error = INFINITY;
  for (float steps = 16.0f; steps >= 9.0f; steps -= 0.5f) {
    const float scale = largest / steps;
    float error = 0.0f;
    for (int g = 0; g < num_groups && error < best_error; ++g) {
      if (wanted[g] == 0.0f) continue;
      const float group_step = scale * nearest_group_scale(wanted[g], scale);
      error += group_error(row + g * kGroupSize, importance_of(g), group_step, half);
    }
    if (error < best_error) {
      best_error = error;
      best = scale;
    }
  }
  for (int g = 0; g < num_groups; ++g) {
    if (wanted[g] == 0.0f) continue;
    const int integer_scale = nearest_group_scale(wanted[g], best);
    group_scale[g] = static_cast<uint8_t>(integer_scale);
    const float inverse = 1.0f / (best * static_cast<float>(integer_scale));
    for (int i = 0; i < kGroupSize; ++i) {
      const int k = g * kGroupSize + i;
      codes[k] = static_cast<uint8_t>(grouped_code(row[k], inverse, half) + half);
    }
  }
  return best;
}

}  // namespace autoglm
