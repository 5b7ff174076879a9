// What no weight and no value of a forward pass may be: NaN or infinite.
#pragma once

#include <cstddef>

#include "base/error.h"

namespace autoglm {

// Adding x * 0 finds NaN and infinity without a branch an element, in sums the compiler can keep in
// vector lanes.
inline bool is_all_finite(const float* x, size_t n) {
  constexpr size_t kLanes = 16;
  float poison[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) poison[j] += x[i + j] * 0.0f;
  }
  for (size_t j = 0; i + j < n; ++j) poison[j] += x[i + j] * 0.0f;
  float total = 0.0f;
  for (const float lane : poison) total += lane;
  return total == 0.0f;
}

[[noreturn]] inline void throw_not_finite() {
  throw Error(kModelFileError,
              "the model computed a value that is NaN or infinite; its weights are broken");
}

}  // namespace autoglm
