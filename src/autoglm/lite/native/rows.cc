// Row-wise steps of training, each one pass over memory: norms, SwiGLU, embedding, cross-entropy.
#include <algorithm>
#include <cmath>

#include "tiles.h"

namespace lite {
namespace {

constexpr long kPartials = 16;  // fixed, so that sums over rows do not depend on the threads

float dot_of_self(const bf16* row, long size) {
  __m512 sum = _mm512_setzero_ps();
  for (long i = 0; i < size; i += 16) {
    const __m512 x = widen(row + i);
    sum = _mm512_fmadd_ps(x, x, sum);
  }
  return _mm512_reduce_add_ps(sum);
}

// dx += d norm(x); partial += dy * normed x.
void norm_row_backward(const bf16* x, const bf16* dy, const float* gain, float scale, long size,
                       float* partial, bf16* dx) {
  __m512 dot = _mm512_setzero_ps();
  const __m512 scales = _mm512_set1_ps(scale);
  for (long i = 0; i < size; i += 16) {
    const __m512 normed = _mm512_mul_ps(widen(x + i), scales);
    const __m512 grad = widen(dy + i);
    dot = _mm512_fmadd_ps(_mm512_mul_ps(grad, _mm512_loadu_ps(gain + i)), normed, dot);
    _mm512_storeu_ps(partial + i, _mm512_fmadd_ps(grad, normed, _mm512_loadu_ps(partial + i)));
  }
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(dot) / static_cast<float>(size));
  for (long i = 0; i < size; i += 16) {
    const __m512 normed = _mm512_mul_ps(widen(x + i), scales);
    const __m512 grad = _mm512_mul_ps(widen(dy + i), _mm512_loadu_ps(gain + i));
    const __m512 step = _mm512_fnmadd_ps(normed, mean, grad);
    store_narrow(dx + i, _mm512_fmadd_ps(step, scales, widen(dx + i)));
  }
}

__m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, exp512(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

float log_sum_of(const bf16* row, long vocab) {
  __m512 top = _mm512_set1_ps(-3e38f);
  for (long i = 0; i < vocab; i += 16) top = _mm512_max_ps(top, widen(row + i));
  const float highest = _mm512_reduce_max_ps(top);
  const __m512 shift = _mm512_set1_ps(highest);
  __m512 sum = _mm512_setzero_ps();
  for (long i = 0; i < vocab; i += 16) {
    sum = _mm512_add_ps(sum, exp512(_mm512_sub_ps(widen(row + i), shift)));
  }
  return highest + std::log(_mm512_reduce_add_ps(sum));
}

bf16 narrow_one(float value) {
  alignas(32) bf16 narrowed[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(narrowed), narrow(_mm512_set1_ps(value)));
  return narrowed[0];
}

// Turns a row of logits into its gradient; returns the loss.
float entropy_row(bf16* row, long vocab, long target, float z_coefficient, float scale) {
  const float log_sum = log_sum_of(row, vocab);
  const float picked = to_float(row[target]);
  const float weight = (1.0f + 2.0f * z_coefficient * log_sum) * scale;
  const __m512 base = _mm512_set1_ps(log_sum);
  const __m512 weights = _mm512_set1_ps(weight);
  for (long i = 0; i < vocab; i += 16) {
    store_narrow(row + i, _mm512_mul_ps(exp512(_mm512_sub_ps(widen(row + i), base)), weights));
  }
  row[target] = narrow_one(std::exp(picked - log_sum) * weight - scale);
  return log_sum - picked + z_coefficient * log_sum * log_sum;
}

// The same for the distance to another model's logits, and for `label_share` of the cross-entropy.
float distance_row(bf16* row, const bf16* wanted, long vocab, long target, float label_share,
                   float scale) {
  const float own = log_sum_of(row, vocab);
  const float other = log_sum_of(wanted, vocab);
  const float found = to_float(row[target]) - own;
  const float likely = std::exp(to_float(wanted[target]) - other);
  const __m512 own_base = _mm512_set1_ps(own);
  const __m512 other_base = _mm512_set1_ps(other);
  const __m512 share = _mm512_set1_ps(1.0f - label_share);
  const __m512 scales = _mm512_set1_ps(scale);
  __m512 sum = _mm512_setzero_ps();
  for (long i = 0; i < vocab; i += 16) {
    const __m512 x = _mm512_sub_ps(widen(row + i), own_base);
    const __m512 y = _mm512_sub_ps(widen(wanted + i), other_base);
    const __m512 goal = exp512(y);
    sum = _mm512_fmadd_ps(goal, _mm512_sub_ps(y, x), sum);
    store_narrow(row + i, _mm512_mul_ps(_mm512_fnmadd_ps(goal, share, exp512(x)), scales));
  }
  const float at_target = std::exp(found) - (1.0f - label_share) * likely - label_share;
  row[target] = narrow_one(at_target * scale);
  return (1.0f - label_share) * _mm512_reduce_add_ps(sum) - label_share * found;
}

}  // namespace
}  // namespace lite

using namespace lite;

// y = x / rms(x) * gain; `scales` keeps 1 / rms.
extern "C" void lite_norm(const bf16* x, const float* gain, long rows, long size, float eps,
                          bf16* y, float* scales) {
#pragma omp parallel for schedule(static)
  for (long r = 0; r < rows; ++r) {
    const bf16* in = x + r * size;
    const float scale = 1.0f / std::sqrt(dot_of_self(in, size) / static_cast<float>(size) + eps);
    scales[r] = scale;
    for (long i = 0; i < size; i += 16) {
      const __m512 factor = _mm512_mul_ps(_mm512_loadu_ps(gain + i), _mm512_set1_ps(scale));
      store_narrow(y + r * size + i, _mm512_mul_ps(widen(in + i), factor));
    }
  }
}

// dx += gradient of the norm; dgain += its gain's. `partials` is scratch of [16, size].
extern "C" void lite_norm_backward(const bf16* x, const bf16* dy, const float* gain,
                                   const float* scales, long rows, long size, float* partials,
                                   bf16* dx, float* dgain) {
  std::fill_n(partials, kPartials * size, 0.0f);
#pragma omp parallel for schedule(static)
  for (long part = 0; part < kPartials; ++part) {
    for (long r = rows * part / kPartials; r < rows * (part + 1) / kPartials; ++r) {
      norm_row_backward(x + r * size, dy + r * size, gain, scales[r], size, partials + part * size,
                        dx + r * size);
    }
  }
  for (long part = 0; part < kPartials; ++part) {
    for (long i = 0; i < size; ++i) dgain[i] += partials[part * size + i];
  }
}

// h = silu(gate) * up of rows [gate, up].
extern "C" void lite_swiglu(const bf16* gate_up, long rows, long size, bf16* h) {
#pragma omp parallel for schedule(static)
  for (long r = 0; r < rows; ++r) {
    const bf16* gates = gate_up + 2 * r * size;
    for (long i = 0; i < size; i += 16) {
      const __m512 gate = widen(gates + i);
      const __m512 active = _mm512_mul_ps(gate, sigmoid(gate));
      store_narrow(h + r * size + i, _mm512_mul_ps(active, widen(gates + size + i)));
    }
  }
}

// gate_up becomes its gradient, dh becomes h again, which the gradient of the next weight needs.
extern "C" void lite_swiglu_backward(bf16* gate_up, bf16* dh, long rows, long size) {
#pragma omp parallel for schedule(static)
  for (long r = 0; r < rows; ++r) {
    bf16* gates = gate_up + 2 * r * size;
    bf16* ups = gates + size;
    bf16* out = dh + r * size;
    for (long i = 0; i < size; i += 16) {
      const __m512 gate = widen(gates + i);
      const __m512 up = widen(ups + i);
      const __m512 grad = widen(out + i);
      const __m512 share = sigmoid(gate);
      const __m512 active = _mm512_mul_ps(gate, share);
      // d silu = share * (1 + gate * (1 - share)) = share + active * (1 - share)
      const __m512 slope = _mm512_add_ps(share, _mm512_fnmadd_ps(active, share, active));
      store_narrow(gates + i, _mm512_mul_ps(_mm512_mul_ps(grad, up), slope));
      store_narrow(ups + i, _mm512_mul_ps(grad, active));
      store_narrow(out + i, _mm512_mul_ps(active, up));
    }
  }
}

extern "C" void lite_embed(const bf16* table, const std::int64_t* ids, long rows, long size,
                           bf16* x) {
#pragma omp parallel for schedule(static)
  for (long r = 0; r < rows; ++r) std::copy_n(table + ids[r] * size, size, x + r * size);
}

// dtable[ids[r]] += dx[r]; threads share columns, not rows, so that the order of sums is fixed.
extern "C" void lite_embed_backward(const bf16* dx, const std::int64_t* ids, long rows, long size,
                                    float* dtable) {
#pragma omp parallel for schedule(static)
  for (long start = 0; start < size; start += 64) {
    for (long r = 0; r < rows; ++r) {
      for (long i = start; i < std::min(start + 64, size); i += 16) {
        float* target = dtable + ids[r] * size + i;
        _mm512_storeu_ps(target, _mm512_add_ps(_mm512_loadu_ps(target), widen(dx + r * size + i)));
      }
    }
  }
}

// Logits [rows, vocab] become gradients times `scale`; a target of -1 counts nothing.
extern "C" void lite_entropy(bf16* logits, const std::int64_t* targets, long rows, long vocab,
                             float z_coefficient, float scale, float* losses) {
#pragma omp parallel for schedule(static)
  for (long r = 0; r < rows; ++r) {
    bf16* row = logits + r * vocab;
    losses[r] = 0.0f;
    if (targets[r] < 0) {
      std::fill_n(row, vocab, bf16{0});
    } else {
      losses[r] = entropy_row(row, vocab, targets[r], z_coefficient, scale);
    }
  }
}

// As lite_entropy, for the distance to the logits `wanted` [rows, vocab] mixed with cross-entropy.
extern "C" void lite_distance(bf16* logits, const bf16* wanted, const std::int64_t* targets,
                              long rows, long vocab, float label_share, float scale,
                              float* losses) {
#pragma omp parallel for schedule(static)
  for (long r = 0; r < rows; ++r) {
    bf16* row = logits + r * vocab;
    losses[r] = 0.0f;
    if (targets[r] < 0) {
      std::fill_n(row, vocab, bf16{0});
    } else {
      losses[r] = distance_row(row, wanted + r * vocab, vocab, targets[r], label_share, scale);
    }
  }
}
