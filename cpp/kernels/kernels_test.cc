// Every kernel of every path this processor has, against FP64 references written here. The argument
// "slice" runs every third of the large cases, for emulated processors.
#include "kernels/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/thread_pool.h"
#include "kernels/float16.h"
#include "kernels/pack.h"

namespace autoglm {
namespace {

struct Packed {
  PackedMatrix view;
  std::vector<AlignedBuffer<std::byte>> parts;
  std::vector<float> values;  // what the packed matrix stands for, [rows][cols]
};

std::vector<float> random_floats(size_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(rng);
  return values;
}

constexpr WeightType kIntegerTypes[] = {WeightType::kI8, WeightType::kI4, WeightType::kI3,
                                        WeightType::kS8, WeightType::kH8, WeightType::kB8};
constexpr WeightType kAllTypes[] = {WeightType::kF32, WeightType::kBF16, WeightType::kI8,
                                    WeightType::kI4,  WeightType::kI3,   WeightType::kS8,
                                    WeightType::kH8,  WeightType::kB8};

// Values become zero, as many as the type needs.
std::vector<float> thinned(WeightType type, int cols, std::vector<float> values) {
  const size_t one_of = type == WeightType::kS8 ? 5 : 2;
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t tile = i % cols / 64 + i / cols / 32;
    const bool is_kept =
        type == WeightType::kB8 ? tile % 2 == 0 : i % one_of == i / one_of % one_of;
    if (!is_kept) values[i] = 0.0f;
  }
  return values;
}

Packed pack(WeightType type, int rows, int cols, std::vector<float> source) {
  if (is_sparse(type) || type == WeightType::kB8) source = thinned(type, cols, std::move(source));
  Packed packed;
  std::vector<std::byte*> to;
  std::vector<const std::byte*> from;
  for (const PartSpec& spec : packed_parts(type, rows, cols)) {
    packed.parts.emplace_back(spec.bytes);
    to.push_back(packed.parts.back().data());
    from.push_back(to.back());
  }
  ThreadPool pool(2);
  pack_rows(type, SourceType::kF32, reinterpret_cast<const std::byte*>(source.data()), rows, cols,
            to, pool);
  packed.view = packed_view(type, rows, cols, from);
  packed.values.resize(source.size());
  for (int r = 0; r < rows; ++r) {
    kernels_for(Isa::kScalar)
        .unpack_row(packed.view, r, &packed.values[static_cast<size_t>(r) * cols]);
  }
  return packed;
}

// Activations packed for a path, with the memory they live in.
struct Activations {
  PackedRows rows;
  AlignedBuffer<std::byte> data;
  AlignedBuffer<float> scale;
  AlignedBuffer<int32_t> group_sum;
};

Activations pack_activations(const Kernels& kernels, const PackedMatrix& w,
                             const std::vector<float>& x, int num_rows, bool is_precise) {
  Activations out;
  out.rows = kernels.rows_format(w.type, num_rows, w.padded_cols, is_precise);
  const size_t plane_rows = round_up(num_rows * out.rows.planes, 16);
  out.data = AlignedBuffer<std::byte>(plane_rows * w.padded_cols * 4);
  out.scale = AlignedBuffer<float>(num_rows);
  out.group_sum = AlignedBuffer<int32_t>(plane_rows * (w.padded_cols / kGroupSize + 1));
  out.rows.data = out.data.data();
  out.rows.scale = out.scale.data();
  out.rows.group_sum = out.group_sum.data();
  for (int m = 0; m < num_rows; ++m) {
    kernels.pack_row(out.rows, w.type, m, &x[static_cast<size_t>(m) * w.cols], w.cols);
  }
  return out;
}

std::vector<float> run_gemm(const Kernels& kernels, const PackedMatrix& w, const Activations& x,
                            const float* bias, Epilogue epilogue, int split) {
  const int outputs = epilogue == Epilogue::kSwiGlu ? w.rows / 2 : w.rows;
  const int stride = outputs + 3;  // not a multiple of anything
  std::vector<float> y(static_cast<size_t>(x.rows.rows) * stride, 0.5f);
  AlignedBuffer<std::byte> scratch(kGemmScratchBytes);
  const int num_blocks = w.padded_rows / kRowBlock;
  const GemmOutput out = {.data = y.data(), .stride = stride, .bias = bias, .epilogue = epilogue};
  kernels.gemm(w, x.rows, out, 0, split, scratch.data());
  kernels.gemm(w, x.rows, out, split, num_blocks, scratch.data());
  return y;
}

std::vector<double> reference_gemm(const Packed& w, const std::vector<float>& x, int num_rows,
                                   const float* bias, Epilogue epilogue) {
  const int rows = w.view.rows, cols = w.view.cols;
  std::vector<double> dots(static_cast<size_t>(num_rows) * rows);
  for (int m = 0; m < num_rows; ++m) {
    for (int r = 0; r < rows; ++r) {
      double sum = bias != nullptr ? bias[r] : 0.0;
      for (int k = 0; k < cols; ++k) {
        sum += static_cast<double>(w.values[static_cast<size_t>(r) * cols + k]) *
               x[static_cast<size_t>(m) * cols + k];
      }
      dots[static_cast<size_t>(m) * rows + r] = sum;
    }
  }
  if (epilogue == Epilogue::kAdd) {
    for (double& dot : dots) dot += 0.5;
  }
  if (epilogue != Epilogue::kSwiGlu) return dots;
  std::vector<double> out;
  for (int m = 0; m < num_rows; ++m) {
    for (int r = 0; r < rows / 2; ++r) {
      const double* row = &dots[static_cast<size_t>(m) * rows];
      const double gate = row[r / 16 * 32 + r % 16], up = row[r / 16 * 32 + 16 + r % 16];
      out.push_back(gate / (1.0 + std::exp(-gate)) * up);
    }
  }
  return out;
}

double max_relative_error(const std::vector<float>& y, int stride, const std::vector<double>& want,
                          int num_rows) {
  const size_t outputs = want.size() / num_rows;
  double worst = 0.0, largest = 0.0;
  for (int m = 0; m < num_rows; ++m) {
    for (size_t r = 0; r < outputs; ++r) {
      const double expected = want[m * outputs + r];
      worst = std::max(worst, std::fabs(y[static_cast<size_t>(m) * stride + r] - expected));
      largest = std::max(largest, std::fabs(expected));
    }
  }
  return worst / largest;
}

bool is_integer(WeightType type) {
  return std::find(std::begin(kIntegerTypes), std::end(kIntegerTypes), type) !=
         std::end(kIntegerTypes);
}

// float32 sums of K products stay within K*2^-24 of FP64 and in practice near sqrt(K) of that;
// 16-bit activations add 2^-15 of the largest activation, 8-bit ones 2^-8; bf16 planes 2^-17.
double tolerance(WeightType type, bool is_precise, Isa isa) {
  if (is_integer(type)) return is_precise ? 1e-4 : 2e-2;
  if (type == WeightType::kBF16 && isa == Isa::kAmx) return is_precise ? 3e-5 : 1e-2;
  return 5e-6;
}

void test_gemm(size_t step) {
  struct Shape {
    int rows, cols, num_tokens;
  };
  const Shape shapes[] = {{16, 64, 1},   {37, 80, 1},    {64, 128, 2},  {100, 200, 3},
                          {96, 96, 5},   {33, 31, 7},    {128, 640, 9}, {48, 2048, 4},
                          {65, 520, 33}, {160, 384, 40}, {31, 1100, 16}};
  uint32_t seed = 1;
  for (size_t i = 0; i < std::size(shapes); i += step) {
    const Shape& shape = shapes[i];
    const auto source = random_floats(static_cast<size_t>(shape.rows) * shape.cols, ++seed, 0.05f);
    auto x = random_floats(static_cast<size_t>(shape.num_tokens) * shape.cols, ++seed);
    if (shape.num_tokens > 2) std::fill_n(x.begin() + shape.cols, shape.cols, 0.0f);
    const auto bias = random_floats(round_up(shape.rows, 32), ++seed);
    for (const WeightType type : kAllTypes) {
      const Packed w = pack(type, shape.rows, shape.cols, source);
      for (const Epilogue epilogue : {Epilogue::kStore, Epilogue::kAdd, Epilogue::kSwiGlu}) {
        if (epilogue == Epilogue::kSwiGlu && shape.rows % 32 != 0) continue;
        const float* used_bias = epilogue == Epilogue::kAdd ? nullptr : bias.data();
        const auto want = reference_gemm(w, x, shape.num_tokens, used_bias, epilogue);
        const int stride = static_cast<int>(want.size() / shape.num_tokens) + 3;
        for (const bool is_precise : {true, false}) {
          std::vector<float> scalar;
          for (const Isa isa : test::tested_isas()) {
            const Kernels& kernels = kernels_for(isa);
            const auto packed_x =
                pack_activations(kernels, w.view, x, shape.num_tokens, is_precise);
            const int half = w.view.padded_rows / kRowBlock / 4 * 2;
            const auto y = run_gemm(kernels, w.view, packed_x, used_bias, epilogue, half);
            const auto whole = run_gemm(kernels, w.view, packed_x, used_bias, epilogue, 0);
            const double error = max_relative_error(y, stride, want, shape.num_tokens);
            test::record(error <= tolerance(type, is_precise, isa), __FILE__, __LINE__,
                         std::string(isa_name(isa)) + " " + std::string(weight_type_name(type)) +
                             " rows " + std::to_string(shape.rows) + " cols " +
                             std::to_string(shape.cols) + " tokens " +
                             std::to_string(shape.num_tokens) + " epilogue " +
                             std::to_string(static_cast<int>(epilogue)) + " precise " +
                             std::to_string(is_precise) + ": error " + std::to_string(error));
            CHECK(y == whole);  // the range does not matter
            if (isa == Isa::kScalar) scalar = y;
            if (is_integer(type) && epilogue != Epilogue::kSwiGlu) CHECK(y == scalar);
          }
        }
      }
    }
  }
}

// One row at a time must give the bits of all rows together.
void test_rows_are_independent() {
  const int rows = 80, cols = 192, num_tokens = 21;
  const auto source = random_floats(static_cast<size_t>(rows) * cols, 77, 0.05f);
  const auto x = random_floats(static_cast<size_t>(num_tokens) * cols, 78);
  for (const WeightType type : kAllTypes) {
    const Packed w = pack(type, rows, cols, source);
    for (const Isa isa : test::tested_isas()) {
      const Kernels& kernels = kernels_for(isa);
      const auto all =
          run_gemm(kernels, w.view, pack_activations(kernels, w.view, x, num_tokens, true), nullptr,
                   Epilogue::kStore, 2);
      for (int m = 0; m < num_tokens; ++m) {
        const std::vector<float> one_row(x.begin() + m * cols, x.begin() + (m + 1) * cols);
        const auto one =
            run_gemm(kernels, w.view, pack_activations(kernels, w.view, one_row, 1, true), nullptr,
                     Epilogue::kStore, 0);
        CHECK(std::equal(one.begin(), one.begin() + rows, all.begin() + m * (rows + 3)));
      }
    }
  }
}

void test_extreme_codes() {
  // All weights and activations at their largest: the int32 sums and the byte products must not
  // wrap.
  const int rows = 32, cols = 4096;
  std::vector<float> source(static_cast<size_t>(rows) * cols, 1.0f);
  std::vector<float> x(2 * cols, -3.0f);
  for (size_t i = 0; i < source.size(); i += 2) source[i] = -1.0f;
  for (size_t i = 0; i < x.size(); i += 2) x[i] = 3.0f;
  for (const WeightType type : kIntegerTypes) {
    const Packed w = pack(type, rows, cols, source);
    const auto want = reference_gemm(w, x, 2, nullptr, Epilogue::kStore);
    for (const Isa isa : test::tested_isas()) {
      for (const bool is_precise : {true, false}) {
        const Kernels& kernels = kernels_for(isa);
        const auto y =
            run_gemm(kernels, w.view, pack_activations(kernels, w.view, x, 2, is_precise), nullptr,
                     Epilogue::kStore, 0);
        CHECK(max_relative_error(y, rows + 3, want, 2) < 1e-6);
      }
    }
  }
}

void test_rms_norm_and_add() {
  for (const int n : {1, 15, 16, 80, 100, 2048}) {
    const auto x = random_floats(n, n), gain = random_floats(n, n + 1);
    double sum = 0.0;
    for (const float value : x) sum += static_cast<double>(value) * value;
    const double inverse = 1.0 / std::sqrt(sum / n + 1e-5);
    for (const Isa isa : test::tested_isas()) {
      std::vector<float> out(n + 1, 7.0f), total = gain;
      kernels_for(isa).rms_norm(x.data(), gain.data(), 1e-5f, n, out.data());
      kernels_for(isa).add(x.data(), n, total.data());
      double worst = 0.0;
      for (int i = 0; i < n; ++i) {
        worst = std::max(worst, std::fabs(out[i] - x[i] * inverse * gain[i]));
        CHECK_EQ(total[i], x[i] + gain[i]);
      }
      CHECK(worst < 4e-6);
      CHECK_EQ(out[n], 7.0f);
    }
  }
}

void test_rope() {
  const int dim = 12, rotary = 8;
  const auto head = random_floats(dim, 5);
  float cos[4], sin[4];
  for (int i = 0; i < 4; ++i) {
    cos[i] = std::cos(0.3f * (i + 1));
    sin[i] = std::sin(0.3f * (i + 1));
  }
  for (const Isa isa : test::tested_isas()) {
    for (const bool is_interleaved : {true, false}) {
      auto out = head;
      kernels_for(isa).rope(out.data(), cos, sin, rotary, is_interleaved);
      for (int i = 0; i < 4; ++i) {
        const int a = is_interleaved ? 2 * i : i, b = is_interleaved ? 2 * i + 1 : i + 4;
        CHECK(std::fabs(out[a] - (head[a] * cos[i] - head[b] * sin[i])) < 1e-6f);
        CHECK(std::fabs(out[b] - (head[b] * cos[i] + head[a] * sin[i])) < 1e-6f);
      }
      for (int i = rotary; i < dim; ++i) CHECK_EQ(out[i], head[i]);
    }
  }
}

struct AttentionCase {
  int num_heads, num_kv_heads, head_dim, num_tokens, first_position;
  int num_sink_keys = 0;
  float query_size = 1.5f;  // 12: scores that would overflow without a shift
  int query_planes = 2;     // over an int8 cache
};

// How far attention may be from the reference, which has the rounded cache.
double attention_limit(const AttentionCase& c, KvType type) {
  const double size = c.query_size / 1.5;  // so do the scores grow, and their errors
  if (type != KvType::kI8) return 2e-5 * size;
  // 15-bit queries and weights: scores of size 10 are off by some 1e-4 of a weight at most.
  return (c.query_planes == 2 ? 3e-4 : 3e-2) * size;
}

std::vector<double> reference_attention(const AttentionCase& c, const std::vector<float>& q,
                                        const std::vector<float>& sink_q,
                                        const std::vector<float>& k, const std::vector<float>& v) {
  const int kv_dim = c.num_kv_heads * c.head_dim;
  std::vector<double> out(q.size());
  for (int t = 0; t < c.num_tokens; ++t) {
    for (int h = 0; h < c.num_heads; ++h) {
      const int kv_head = h / (c.num_heads / c.num_kv_heads);
      const int num_keys = c.first_position + t + 1;
      const size_t q_at = (static_cast<size_t>(t) * c.num_heads + h) * c.head_dim;
      std::vector<double> weight(num_keys);
      double largest = -INFINITY, total = 0.0;
      for (int j = 0; j < num_keys; ++j) {
        const std::vector<float>& query = j < c.num_sink_keys ? sink_q : q;
        double dot = 0.0;
        for (int d = 0; d < c.head_dim; ++d)
          dot += query[q_at + d] * k[static_cast<size_t>(j) * kv_dim + kv_head * c.head_dim + d];
        weight[j] = dot / std::sqrt(static_cast<double>(c.head_dim));
        largest = std::max(largest, weight[j]);
      }
      for (double& value : weight) total += value = std::exp(value - largest);
      for (int d = 0; d < c.head_dim; ++d) {
        double sum = 0.0;
        for (int j = 0; j < num_keys; ++j) {
          sum += weight[j] * v[static_cast<size_t>(j) * kv_dim + kv_head * c.head_dim + d];
        }
        out[q_at + d] = sum / total;
      }
    }
  }
  return out;
}

// Rounds [tokens][heads][head_dim] to what the cache can hold, so that the test sees only the
// arithmetic.
void round_to_cache(KvType type, int head_dim, std::vector<float>* values) {
  if (type == KvType::kF16) {
    for (float& value : *values) value = half_to_float(float_to_half(value));
  }
  if (type != KvType::kI8) return;
  for (size_t head = 0; head < values->size(); head += head_dim) {
    float largest = 0.0f;
    for (int d = 0; d < head_dim; ++d) largest = std::max(largest, std::fabs((*values)[head + d]));
    for (int d = 0; d < head_dim; ++d) {
      float& value = (*values)[head + d];
      value = std::nearbyint(value * (127.0f / largest)) * (largest / 127.0f);
    }
  }
}

void test_attention(size_t step) {
  const AttentionCase cases[] = {{4, 1, 64, 1, 0},
                                 {4, 2, 128, 3, 130},
                                 {6, 2, 80, 70, 5},
                                 {8, 8, 96, 2, 63},
                                 {3, 1, 20, 65, 0},
                                 {16, 4, 64, 1, 700},
                                 {2, 1, 8, 130, 61},
                                 {4, 2, 64, 1, 200, 64},
                                 {6, 2, 40, 9, 330, 192},
                                 {4, 1, 96, 9, 700, 320},
                                 {4, 2, 128, 3, 600, 0, 12.0f},
                                 {8, 2, 96, 40, 500, 64, 12.0f},
                                 {16, 4, 128, 33, 260, 0, 1.5f, 1},
                                 {4, 1, 80, 5, 300, 64, 12.0f, 1}};
  for (size_t i = 0; i < std::size(cases); i += step) {
    const AttentionCase& c = cases[i];
    const int num_keys = c.first_position + c.num_tokens, kv_dim = c.num_kv_heads * c.head_dim;
    const auto q = random_floats(static_cast<size_t>(c.num_tokens) * c.num_heads * c.head_dim, 11,
                                 c.query_size);
    const auto sink_q = random_floats(q.size(), 15, c.query_size);
    const auto all_k = random_floats(static_cast<size_t>(num_keys) * kv_dim, 12, 1.5f);
    const auto all_v = random_floats(all_k.size(), 13);
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
      auto k = all_k, v = all_v;
      for (auto* values : {&k, &v}) round_to_cache(type, c.head_dim, values);
      const auto want = reference_attention(c, q, sink_q, k, v);
      for (const Isa isa : test::tested_isas()) {
        const Kernels& kernels = kernels_for(isa);
        const int num_pages = num_keys / kPageTokens + 1;
        const size_t page_elements = kv_page_elements(type, c.num_kv_heads, c.head_dim);
        AlignedBuffer<float> memory(page_elements * num_pages + 64);
        // Stale values beyond the written keys must not matter.
        const auto stale = random_floats(memory.size(), 14, 100.0f);
        if (type == KvType::kF32) std::copy(stale.begin(), stale.end(), memory.data());
        if (type == KvType::kI8) std::memset(memory.data(), 0x3f, memory.size() * sizeof(float));
        std::vector<int32_t> table;
        for (int p = 0; p < num_pages; ++p) table.push_back(num_pages - 1 - p);
        AttentionArgs args;
        args.kv = {type, memory.data(), table.data(), page_elements, c.num_kv_heads, c.head_dim};
        for (int j = 0; j < num_keys; ++j) {
          kernels.store_kv(args.kv, j, &k[static_cast<size_t>(j) * kv_dim],
                           &v[static_cast<size_t>(j) * kv_dim]);
        }
        std::vector<float> out(q.size()), split(q.size());
        AlignedBuffer<float> scratch(attention_scratch_floats(c.head_dim));
        args.q = q.data();
        args.q_stride = args.out_stride = c.num_heads * c.head_dim;
        args.num_heads = c.num_heads;
        args.num_sink_keys = c.num_sink_keys;
        args.sink_q = sink_q.data();
        args.sink_q_stride = args.q_stride;
        args.first_position = c.first_position;
        args.query_planes = c.query_planes;
        args.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
        for (int h = 0; h < c.num_kv_heads; ++h) {
          args.out = out.data();
          kernels.attention(args, h, 0, c.num_tokens, scratch.data());
          args.out = split.data();
          for (int t = 0; t < c.num_tokens; ++t)
            kernels.attention(args, h, t, t + 1, scratch.data());
        }
        double worst = 0.0;
        for (size_t i = 0; i < out.size(); ++i)
          worst = std::max(worst, std::fabs(out[i] - want[i]));
        test::record(worst < attention_limit(c, type), __FILE__, __LINE__,
                     std::string(isa_name(isa)) + " attention head_dim " +
                         std::to_string(c.head_dim) + " kv type " +
                         std::to_string(static_cast<int>(type)) + ": error " +
                         std::to_string(worst));
        CHECK(out == split);
      }
    }
  }
}

void test_unpack_row_inverts_pack() {
  const int rows = 35, cols = 130;
  const auto source = random_floats(static_cast<size_t>(rows) * cols, 3, 0.05f);
  CHECK(pack(WeightType::kF32, rows, cols, source).values == source);
  const auto bf16 = pack(WeightType::kBF16, rows, cols, source).values;
  const auto int8 = pack(WeightType::kI8, rows, cols, source).values;
  const auto int4 = pack(WeightType::kI4, rows, cols, source).values;
  const auto int3 = pack(WeightType::kI3, rows, cols, source).values;
  double power = 0.0, error8 = 0.0, error4 = 0.0, error3 = 0.0;
  for (size_t i = 0; i < source.size(); ++i) {
    CHECK_EQ(bf16[i], bf16_to_float(float_to_bf16(source[i])));
    power += source[i] * source[i];
    error8 += (int8[i] - source[i]) * (int8[i] - source[i]);
    error4 += (int4[i] - source[i]) * (int4[i] - source[i]);
    error3 += (int3[i] - source[i]) * (int3[i] - source[i]);
  }
  CHECK(error8 / power < 1e-4);
  CHECK(error4 / power < 0.0115);  // Gaussian weights, groups of 64: about 0.0093
  CHECK(error3 / power < 0.045);   // about 0.037
}

void test_pack_refuses_what_is_not_finite() {
  std::vector<float> source(16 * 64, 1.0f);
  source[700] = NAN;
  CHECK_THROWS(kModelFileError, pack(WeightType::kI8, 16, 64, source));
  source[700] = INFINITY;
  CHECK_THROWS(kModelFileError, pack(WeightType::kBF16, 16, 64, source));
}

// Every half survives, halfway cases go to even, and what is too large is clamped.
void test_half_conversion() {
  int wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7c00) == 0x7c00) continue;
    if (float_to_half(half_to_float(static_cast<uint16_t>(bits))) != bits) ++wrong;
  }
  CHECK_EQ(wrong, 0);
  CHECK_EQ(float_to_half(1.0f + 0x1p-11f), 0x3c00);
  CHECK_EQ(float_to_half(1.0f + 3 * 0x1p-11f), 0x3c02);
  CHECK_EQ(float_to_half(0x1p-25f), 0x0000);
  CHECK_EQ(float_to_half(3 * 0x1p-25f), 0x0002);
  CHECK_EQ(float_to_half(1e9f), 0x7bff);
  CHECK_EQ(float_to_half(-INFINITY), 0xfbff);
}

}  // namespace
}  // namespace autoglm

int main(int argc, char** argv) {
  const size_t step = argc > 1 && std::string_view(argv[1]) == "slice" ? 3 : 1;
  autoglm::test_unpack_row_inverts_pack();
  autoglm::test_pack_refuses_what_is_not_finite();
  autoglm::test_half_conversion();
  autoglm::test_gemm(step);
  autoglm::test_rows_are_independent();
  autoglm::test_extreme_codes();
  autoglm::test_rms_norm_and_add();
  autoglm::test_rope();
  autoglm::test_attention(step);
  return autoglm::test::finish_tests();
}
