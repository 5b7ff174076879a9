#include "kernels/transform.h"

#include <cmath>

namespace autoglm {
namespace {

constexpr int largest_power_of_two_divisor(int n) { return n & -n; }

// The unnormalised transform of `count` vectors, element i of vector j at x[i * stride + j].
void hadamard_block(float* x, int size, int stride, int count) {
  for (int half = 1; half < size; half *= 2) {
    for (int base = 0; base < size; base += 2 * half) {
      for (int i = base; i < base + half; ++i) {
        float* a = x + static_cast<size_t>(i) * stride;
        float* b = x + static_cast<size_t>(i + half) * stride;
        for (int j = 0; j < count; ++j) {
          const float sum = a[j] + b[j];
          b[j] = a[j] - b[j];
          a[j] = sum;
        }
      }
    }
  }
}

// Rotates `count` vectors of length n that lie as in hadamard_block.
void rotate(float* x, int n, int stride, int count, std::span<const float> signs) {
  const int block = largest_power_of_two_divisor(n);
  const float norm = 1.0f / std::sqrt(static_cast<float>(block));
  for (int i = 0; i < n; ++i) {
    float* row = x + static_cast<size_t>(i) * stride;
    for (int j = 0; j < count; ++j) row[j] *= signs[i] * norm;
  }
  for (int base = 0; base < n; base += block) {
    hadamard_block(x + static_cast<size_t>(base) * stride, block, stride, count);
  }
}

}  // namespace

void transform_row(const RowTransform& transform, float* row, int cols) {
  if (!transform.column_scale.empty()) {
    for (int k = 0; k < cols; ++k) row[k] *= transform.column_scale[k];
  }
  if (!transform.signs.empty()) rotate(row, cols, 1, 1, transform.signs);
}

void rotate_columns(float* matrix, int rows, int cols, std::span<const float> signs) {
  rotate(matrix, rows, cols, cols, signs);
}

}  // namespace autoglm
