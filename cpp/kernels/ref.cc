// Scalar kernels: the portable path and the oracle the other paths are tested against.
#include "kernels/ref.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/float16.h"
#include "kernels/kernels.h"
#include "kernels/sparse.h"
#include "kernels/tiles.h"

namespace autoglm {
namespace {

constexpr int kRowsAtOnce = 4;  // activation rows that share one pass over a weight block

// NaN when a value is not finite, which a maximum alone would lose.
float max_abs(const float* x, int n) {
  float largest = 0.0f, poison = 0.0f;
  for (int i = 0; i < n; ++i) {
    largest = std::max(largest, std::fabs(x[i]));
    poison += x[i] * 0.0f;
  }
  return largest + poison;
}

PackedRows rows_format(WeightType type, int rows, int padded_cols, bool is_precise) {
  const bool is_integer = type != WeightType::kF32 && type != WeightType::kBF16;
  PackedRows out;
  out.format = is_integer ? RowsFormat::kI8 : RowsFormat::kF32;
  out.rows = rows;
  out.padded_cols = padded_cols;
  out.planes = is_integer && is_precise ? 2 : 1;
  return out;
}

void pack_row_f32(const PackedRows& out, int row, const float* x, int cols) {
  float* to = static_cast<float*>(out.data) + static_cast<size_t>(row) * out.padded_cols;
  std::memcpy(to, x, sizeof(float) * cols);
  std::fill(to + cols, to + out.padded_cols, 0.0f);
}

void pack_row_i8(const PackedRows& out, int row, const float* x, int cols) {
  const float own_largest = max_abs(x, cols);
  const float largest = own_largest < out.least_range ? out.least_range : own_largest;
  const float steps = out.planes == 2 ? kTwoPlaneSteps : 127.0f;
  const float inverse = largest > kTiniestRow ? steps / largest : 0.0f;
  out.scale[row] = largest / steps;
  const size_t first = static_cast<size_t>(row) * out.planes;
  auto* codes = static_cast<int8_t*>(out.data) + first * out.padded_cols;
  const int num_groups = out.padded_cols / kGroupSize;
  int32_t* sums = out.group_sum + first * num_groups;
  std::fill(sums, sums + out.planes * num_groups, 0);
  for (int k = 0; k < out.padded_cols; ++k) {
    const float code = k < cols && inverse > 0.0f ? std::nearbyint(x[k] * inverse) : 0.0f;
    const float high = out.planes == 2 ? std::nearbyint(code * (1.0f / kPlaneBase)) : code;
    codes[k] = static_cast<int8_t>(high);
    sums[k / kGroupSize] += static_cast<int>(high);
    if (out.planes == 1) continue;
    const int low = static_cast<int>(code - kPlaneBase * high);
    codes[out.padded_cols + k] = static_cast<int8_t>(low);
    sums[num_groups + k / kGroupSize] += low;
  }
}

void pack_row(const PackedRows& out, WeightType, int row, const float* x, int cols) {
  if (out.format == RowsFormat::kF32) {
    pack_row_f32(out, row, x, cols);
  } else {
    pack_row_i8(out, row, x, cols);
  }
}

// One block of 16 outputs for `num` rows of float activations.
template <typename LoadWeight>
void dot_block_f32(const LoadWeight& load, const PackedRows& x, int first, int num,
                   float (*sums)[kRowBlock]) {
  const float* rows =
      static_cast<const float*>(x.data) + static_cast<size_t>(first) * x.padded_cols;
  for (int m = 0; m < num; ++m) std::fill(sums[m], sums[m] + kRowBlock, 0.0f);
  for (int k = 0; k < x.padded_cols; ++k) {
    float w[kRowBlock];
    for (int r = 0; r < kRowBlock; ++r) w[r] = load(k, r);
    for (int m = 0; m < num; ++m) {
      const float a = rows[static_cast<size_t>(m) * x.padded_cols + k];
      for (int r = 0; r < kRowBlock; ++r) sums[m][r] += w[r] * a;
    }
  }
}

void dot_i8(const int8_t* w, const int8_t* a, int padded_cols, int32_t* sums) {
  for (int k = 0; k < padded_cols; k += 4, w += 4 * kRowBlock) {
    for (int r = 0; r < kRowBlock; ++r) {
      for (int j = 0; j < 4; ++j) sums[r] += w[4 * r + j] * a[k + j];
    }
  }
}

void dot_sparse(const PackedMatrix& w, int block, const int8_t* a, int32_t* sums) {
  sparse::Cursor cursor = sparse::first_unit(w, block);
  for (int k = 0; k < w.padded_cols; k += 4) {
    int8_t codes[sparse::kUnit];
    sparse::expand_units(&cursor, 1, codes);
    for (int i = 0; i < sparse::kUnit; ++i) sums[i / 4] += codes[i] * a[k + i % 4];
  }
}

void dot_tiles(const PackedMatrix& w, int block, const int8_t* a, int32_t* sums) {
  uint16_t columns[tiles::kMostTiles];
  tiles::find_stored(w, block, columns);
  const int8_t* codes = tiles::stored_codes(w, block);
  for (int i = 0; i < tile_capacity(w.padded_cols); ++i, codes += tiles::kBlockBytes) {
    dot_i8(codes, a + columns[i] * tiles::kCols, tiles::kCols, sums);
  }
}

// The codes of byte `at` of a line of 64 bytes of I4 or I3 in both groups of the pair at `w`, whose
// columns are 4*line to 4*line + 3 of each.
struct GroupCodes {
  int first, second;
};

GroupCodes codes_at(WeightType type, const uint8_t* w, int line, int at) {
  if (type == WeightType::kI4) return {(w[line * 64 + at] & 15) - 8, (w[line * 64 + at] >> 4) - 8};
  if (line < kInt3Lines) {
    return {(w[line * 64 + at] >> 2 & 7) - 4, (w[line * 64 + at] >> 5) - 4};
  }
  const uint8_t* spread = w + (line - kInt3Lines) * 3 * 64 + at;
  return {((spread[0] & 3) | (spread[128] & 1) << 2) - 4,
          ((spread[64] & 3) | (spread[128] & 2) << 1) - 4};
}

void dot_grouped(const PackedMatrix& w, int block, const int8_t* a, int32_t* sums) {
  const int num_groups = w.padded_cols / kGroupSize;
  const size_t block_bytes = row_block_bytes(w.type, w.padded_cols);
  const auto* pair = reinterpret_cast<const uint8_t*>(w.weight) + block * block_bytes;
  const uint8_t* scale = w.group_scale + static_cast<size_t>(block) * num_groups * kRowBlock;
  for (int g = 0; g < num_groups; g += 2, a += 2 * kGroupSize, scale += 2 * kRowBlock) {
    int32_t first[kRowBlock] = {}, second[kRowBlock] = {};
    for (int line = 0; line < kGroupSize / 4; ++line) {
      for (int i = 0; i < 4 * kRowBlock; ++i) {
        const GroupCodes codes = codes_at(w.type, pair, line, i);
        const int k = 4 * line + i % 4;
        first[i / 4] += codes.first * a[k];
        second[i / 4] += codes.second * a[kGroupSize + k];
      }
    }
    for (int r = 0; r < kRowBlock; ++r) {
      sums[r] += first[r] * scale[r] + second[r] * scale[kRowBlock + r];
    }
    pair += row_block_bytes(w.type, 2 * kGroupSize);
  }
}

void dot_block_integer(const PackedMatrix& w, const PackedRows& x, int block, int first, int num,
                       float (*sums)[kRowBlock]) {
  const std::byte* weight = w.weight + block * row_block_bytes(w.type, w.padded_cols);
  const float* scale = w.scale + block * kRowBlock;
  for (int m = 0; m < num; ++m) {
    int32_t planes[2][kRowBlock] = {};
    for (int p = 0; p < x.planes; ++p) {
      const size_t row = static_cast<size_t>(first + m) * x.planes + p;
      const int8_t* a = static_cast<const int8_t*>(x.data) + row * x.padded_cols;
      if (is_sparse(w.type)) {
        dot_sparse(w, block, a, planes[p]);
      } else if (w.type == WeightType::kB8) {
        dot_tiles(w, block, a, planes[p]);
      } else if (w.type == WeightType::kI8) {
        dot_i8(reinterpret_cast<const int8_t*>(weight), a, w.padded_cols, planes[p]);
      } else {
        dot_grouped(w, block, a, planes[p]);
      }
    }
    const float row_scale = x.scale[first + m];
    for (int r = 0; r < kRowBlock; ++r) {
      const float dot = x.planes == 2 ? kPlaneBase * static_cast<float>(planes[0][r]) +
                                            static_cast<float>(planes[1][r])
                                      : static_cast<float>(planes[0][r]);
      sums[m][r] = dot * (scale[r] * row_scale);
    }
  }
}

void dot_block(const PackedMatrix& w, const PackedRows& x, int block, int first, int num,
               float (*sums)[kRowBlock]) {
  const std::byte* weight = w.weight + block * row_block_bytes(w.type, w.padded_cols);
  if (w.type == WeightType::kF32) {
    const auto* values = reinterpret_cast<const float*>(weight);
    dot_block_f32([&](int k, int r) { return values[k * kRowBlock + r]; }, x, first, num, sums);
  } else if (w.type == WeightType::kBF16) {
    const auto* values = reinterpret_cast<const bf16_t*>(weight);
    dot_block_f32(
        [&](int k, int r) { return bf16_to_float(values[(k / 2 * kRowBlock + r) * 2 + k % 2]); }, x,
        first, num, sums);
  } else {
    dot_block_integer(w, x, block, first, num, sums);
  }
}

float silu(float x) { return x / (1.0f + std::exp(-x)); }

void gemm(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
          int block_end, std::byte*) {
  const bool is_swiglu = y.epilogue == Epilogue::kSwiGlu;
  const int step = is_swiglu ? 2 : 1;
  float sums[2][kRowsAtOnce][kRowBlock];
  for (int block = block_begin; block < block_end; block += step) {
    for (int first = 0; first < x.rows; first += kRowsAtOnce) {
      const int num = std::min(kRowsAtOnce, x.rows - first);
      for (int i = 0; i < step; ++i) dot_block(w, x, block + i, first, num, sums[i]);
      const int row = block * kRowBlock;
      const int num_outputs = std::min(kRowBlock, w.rows - row);
      for (int m = 0; m < num; ++m) {
        float* out = y.data + static_cast<size_t>(first + m) * y.stride + row / step;
        const float* bias = y.bias;
        if (bias != nullptr) bias += static_cast<size_t>(first + m) * y.bias_stride + row;
        for (int r = 0; r < num_outputs; ++r) {
          float value = sums[0][m][r] + (bias != nullptr ? bias[r] : 0.0f);
          if (is_swiglu) {
            const float up_bias = bias != nullptr ? bias[kRowBlock + r] : 0.0f;
            value = silu(value) * (sums[1][m][r] + up_bias);
          }
          out[r] = y.epilogue == Epilogue::kAdd ? out[r] + value : value;
        }
      }
    }
  }
}

void rms_norm(const float* x, const float* gain, float eps, int n, float* out) {
  float sum = 0.0f;
  for (int i = 0; i < n; ++i) sum += x[i] * x[i];
  const float inverse = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
  for (int i = 0; i < n; ++i) out[i] = x[i] * inverse * gain[i];
}

void add(const float* x, int n, float* y) {
  for (int i = 0; i < n; ++i) y[i] += x[i];
}

// Element index of K or V within a page.
size_t k_index(const KvLayer& kv, int kv_head, int token, int d) {
  if (kv.type == KvType::kI8) {
    const size_t head = static_cast<size_t>(kv_head) * kv_key_dim(kv.head_dim) * kPageTokens;
    return head + (static_cast<size_t>(d / 4) * kPageTokens + token) * 4 + d % 4;
  }
  const size_t head = static_cast<size_t>(kv_head) * kv.head_dim * kPageTokens;
  return head + static_cast<size_t>(d) * kPageTokens + token;
}

size_t v_index(const KvLayer& kv, int kv_head, int token, int d) {
  const size_t num_heads = kv.num_kv_heads;
  if (kv.type == KvType::kI8) {
    const int dim = kv_value_dim(kv.head_dim);
    const size_t head =
        (num_heads * kv_key_dim(kv.head_dim) + static_cast<size_t>(kv_head) * dim) * kPageTokens;
    return head + (static_cast<size_t>(token / 4) * dim + d) * 4 + token % 4;
  }
  const size_t head = (num_heads + kv_head) * kv.head_dim * kPageTokens;
  return head + static_cast<size_t>(token) * kv.head_dim + d;
}

// The scale of a token's key (or value) in a page of an I8 cache.
float* kv_scale(const KvLayer& kv, size_t page, int kv_head, int token, bool is_value) {
  const size_t codes = static_cast<size_t>(kv.num_kv_heads) * kPageTokens *
                       (kv_key_dim(kv.head_dim) + kv_value_dim(kv.head_dim));
  auto* scales = reinterpret_cast<float*>(static_cast<int8_t*>(kv.base) + page + codes);
  return scales + (is_value ? kv.num_kv_heads + kv_head : kv_head) * kPageTokens + token;
}

float load_k(const KvLayer& kv, size_t page, int kv_head, int token, int d) {
  const size_t at = page + k_index(kv, kv_head, token, d);
  if (kv.type == KvType::kF32) return static_cast<const float*>(kv.base)[at];
  if (kv.type == KvType::kF16) return half_to_float(static_cast<const half_t*>(kv.base)[at]);
  return *kv_scale(kv, page, kv_head, token, false) * static_cast<const int8_t*>(kv.base)[at];
}

float load_v(const KvLayer& kv, size_t page, int kv_head, int token, int d) {
  const size_t at = page + v_index(kv, kv_head, token, d);
  if (kv.type == KvType::kF32) return static_cast<const float*>(kv.base)[at];
  if (kv.type == KvType::kF16) return half_to_float(static_cast<const half_t*>(kv.base)[at]);
  return *kv_scale(kv, page, kv_head, token, true) * static_cast<const int8_t*>(kv.base)[at];
}

// Codes of one head's key or value; returns the scale.
float quantize_head(const float* x, int dim, int8_t* codes) {
  const float largest = max_abs(x, dim);
  const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
  for (int d = 0; d < dim; ++d) codes[d] = static_cast<int8_t>(std::nearbyint(x[d] * inverse));
  return largest / 127.0f;
}

void store_kv_i8(const KvLayer& kv, size_t page, int token, int kv_head, const float* k,
                 const float* v) {
  auto* base = static_cast<int8_t*>(kv.base) + page;
  int8_t codes[kMaxHeadDim];
  *kv_scale(kv, page, kv_head, token, false) = quantize_head(k, kv.head_dim, codes);
  for (int d = 0; d < kv.head_dim; ++d) base[k_index(kv, kv_head, token, d)] = codes[d];
  *kv_scale(kv, page, kv_head, token, true) = quantize_head(v, kv.head_dim, codes);
  for (int d = 0; d < kv.head_dim; ++d) base[v_index(kv, kv_head, token, d)] = codes[d];
}

// One query row over all keys it sees, page by page with a running softmax.
void attend_row(const AttentionArgs& args, int kv_head, int head, int token, float* sums) {
  const KvLayer& kv = args.kv;
  const size_t head_at = static_cast<size_t>(head) * kv.head_dim;
  const int num_keys = args.first_position + token + 1;
  float largest = -INFINITY, total = 0.0f;
  std::fill(sums, sums + kv.head_dim, 0.0f);
  for (int first = 0; first < num_keys; first += kPageTokens) {
    const int num = std::min(kPageTokens, num_keys - first);
    const size_t page = kv.page_table[first / kPageTokens] * kv.page_stride;
    const float* q =
        (first < args.num_sink_keys ? args.sink_q + static_cast<size_t>(token) * args.sink_q_stride
                                    : args.q + static_cast<size_t>(token) * args.q_stride) +
        head_at;
    float weights[kPageTokens];
    float page_largest = largest;
    for (int t = 0; t < num; ++t) {
      float dot = 0.0f;
      for (int d = 0; d < kv.head_dim; ++d) dot += q[d] * load_k(kv, page, kv_head, t, d);
      weights[t] = dot * args.scale;
      page_largest = std::max(page_largest, weights[t]);
    }
    const float shrink = std::exp(largest - page_largest);
    largest = page_largest;
    total *= shrink;
    for (int d = 0; d < kv.head_dim; ++d) sums[d] *= shrink;
    for (int t = 0; t < num; ++t) {
      const float weight = std::exp(weights[t] - largest);
      total += weight;
      for (int d = 0; d < kv.head_dim; ++d) {
        sums[d] += weight * load_v(kv, page, kv_head, t, d);
      }
    }
  }
  float* out = args.out + static_cast<size_t>(token) * args.out_stride + head_at;
  for (int d = 0; d < kv.head_dim; ++d) out[d] = sums[d] / total;
}

void attention(const AttentionArgs& args, int kv_head, int token_begin, int token_end,
               float* scratch) {
  const int group = args.num_heads / args.kv.num_kv_heads;
  for (int token = token_begin; token < token_end; ++token) {
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      attend_row(args, kv_head, head, token, scratch);
    }
  }
}

float unpack_element(const PackedMatrix& w, const std::byte* block, int row, int k) {
  const int lane = row % kRowBlock;
  switch (w.type) {
    case WeightType::kF32:
      return reinterpret_cast<const float*>(block)[k * kRowBlock + lane];
    case WeightType::kBF16:
      return bf16_to_float(
          reinterpret_cast<const bf16_t*>(block)[(k / 2 * kRowBlock + lane) * 2 + k % 2]);
    case WeightType::kI8:
      return w.scale[row] * static_cast<float>(reinterpret_cast<const int8_t*>(
                                block)[(k / 4 * kRowBlock + lane) * 4 + k % 4]);
    default: {
      const int pair = k / (2 * kGroupSize), within = k % kGroupSize;
      const auto* bytes =
          reinterpret_cast<const uint8_t*>(block) + pair * row_block_bytes(w.type, 2 * kGroupSize);
      const GroupCodes codes = codes_at(w.type, bytes, within / 4, 4 * lane + within % 4);
      const int code = k / kGroupSize % 2 == 0 ? codes.first : codes.second;
      const size_t group =
          static_cast<size_t>(row / kRowBlock) * (w.padded_cols / kGroupSize) + k / kGroupSize;
      return w.scale[row] * static_cast<float>(code * w.group_scale[group * kRowBlock + lane]);
    }
  }
}

void unpack_sparse_row(const PackedMatrix& w, int row, float* out) {
  sparse::Cursor cursor = sparse::first_unit(w, row / kRowBlock);
  for (int k = 0; k < w.cols; k += 4) {
    int8_t codes[sparse::kUnit];
    sparse::expand_units(&cursor, 1, codes);
    for (int j = 0; j < std::min(4, w.cols - k); ++j) {
      out[k + j] = w.scale[row] * static_cast<float>(codes[4 * (row % kRowBlock) + j]);
    }
  }
}

void unpack_tiled_row(const PackedMatrix& w, int row, float* out) {
  uint16_t columns[tiles::kMostTiles];
  tiles::find_stored(w, row / kRowBlock, columns);
  const int8_t* codes = tiles::stored_codes(w, row / kRowBlock) + row % kRowBlock * 4;
  std::fill(out, out + w.cols, 0.0f);
  // Room that is not used adds zeros to the first tile.
  for (int i = 0; i < tile_capacity(w.padded_cols); ++i, codes += tiles::kBlockBytes) {
    const int first = columns[i] * tiles::kCols;
    for (int k = 0; k < std::min(tiles::kCols, w.cols - first); ++k) {
      out[first + k] += w.scale[row] * static_cast<float>(codes[k / 4 * kRowBlock * 4 + k % 4]);
    }
  }
}

void store_kv(const KvLayer& kv, int position, const float* k, const float* v) {
  const size_t page = kv.page_table[position / kPageTokens] * kv.page_stride;
  const int token = position % kPageTokens;
  for (int h = 0; h < kv.num_kv_heads; ++h) {
    if (kv.type == KvType::kI8) {
      store_kv_i8(kv, page, token, h, k + h * kv.head_dim, v + h * kv.head_dim);
      continue;
    }
    for (int d = 0; d < kv.head_dim; ++d) {
      const size_t k_at = page + k_index(kv, h, token, d);
      const size_t v_at = page + v_index(kv, h, token, d);
      const float k_value = k[h * kv.head_dim + d];
      const float v_value = v[h * kv.head_dim + d];
      if (kv.type == KvType::kF32) {
        static_cast<float*>(kv.base)[k_at] = k_value;
        static_cast<float*>(kv.base)[v_at] = v_value;
      } else {
        static_cast<half_t*>(kv.base)[k_at] = float_to_half(k_value);
        static_cast<half_t*>(kv.base)[v_at] = float_to_half(v_value);
      }
    }
  }
}

}  // namespace

namespace ref {

void rope(float* head, const float* cos, const float* sin, int rotary_dim, bool is_interleaved) {
  const int half = rotary_dim / 2;
  for (int i = 0; i < half; ++i) {
    float& a = head[is_interleaved ? 2 * i : i];
    float& b = head[is_interleaved ? 2 * i + 1 : half + i];
    const float x = a, y = b;
    a = x * cos[i] - y * sin[i];
    b = y * cos[i] + x * sin[i];
  }
}

void unpack_row(const PackedMatrix& w, int row, float* out) {
  if (is_sparse(w.type)) {
    unpack_sparse_row(w, row, out);
    return;
  }
  if (w.type == WeightType::kB8) {
    unpack_tiled_row(w, row, out);
    return;
  }
  const std::byte* block = w.weight + row / kRowBlock * row_block_bytes(w.type, w.padded_cols);
  for (int k = 0; k < w.cols; ++k) out[k] = unpack_element(w, block, row, k);
}

}  // namespace ref

extern const Kernels kScalarKernels;
const Kernels kScalarKernels = {
    .isa = Isa::kScalar,
    .rows_format = rows_format,
    .pack_row = pack_row,
    .gemm = gemm,
    .rms_norm = rms_norm,
    .add = add,
    .rope = ref::rope,
    .store_kv = store_kv,
    .attention = attention,
    .unpack_row = ref::unpack_row,
};

}  // namespace autoglm
