// Bindings of single kernels, for tests, benchmarks and the calibration of compression.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/cpu_features.h"
#include "base/error.h"
#include "bindings/bind.h"
#include "kernels/pack.h"
#include "model/activations.h"
#include "model/rows.h"

namespace nb = nanobind;

namespace autoglm {
namespace {

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tensor3 = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void check(bool is_valid, const char* what) {
  if (!is_valid) throw Error(kArgumentError, what);
}

// Aligned copies of the parts of a packed matrix.
struct OwnedMatrix {
  std::vector<AlignedBuffer<std::byte>> buffers;
  PackedMatrix view;
};

OwnedMatrix own_matrix(const std::string& weights, const std::vector<nb::object>& parts, int rows,
                       int cols) {
  const WeightType type = parse_weight_type(weights);
  const std::vector<PartSpec> specs = packed_parts(type, rows, cols);
  check(parts.size() == specs.size(), "wrong number of parts for this weight type");
  OwnedMatrix matrix;
  std::vector<const std::byte*> pointers;
  for (size_t i = 0; i < parts.size(); ++i) {
    const BufferView part(parts[i]);
    check(part.bytes().size() == specs[i].bytes, "a part has the wrong size");
    matrix.buffers.emplace_back(specs[i].bytes);
    std::copy(part.bytes().begin(), part.bytes().end(), matrix.buffers.back().data());
    pointers.push_back(matrix.buffers.back().data());
  }
  matrix.view = packed_view(type, rows, cols, pointers);
  return matrix;
}

// Rows of activations that are packed and multiplied together.
constexpr int kGemmRows = 256;

// `output` for the first rows; of the others each piece follows the one before.
void multiply(const Kernels& kernels, const PackedMatrix& weight, const Matrix& x,
              const GemmOutput& output, ThreadPool& pool) {
  const int num_rows = static_cast<int>(x.shape(0));
  PackedActivations activations(kernels, true);
  activations.reserve(weight.type, std::min(num_rows, kGemmRows), weight.padded_cols);
  const int num_blocks = weight.padded_rows / kRowBlock;
  AlignedBuffer<std::byte> scratch(kGemmScratchBytes * pool.num_threads());
  for (int first = 0; first < num_rows; first += kGemmRows) {
    const int count = std::min(kGemmRows, num_rows - first);
    const PackedRows packed = activations.prepare(weight, count);
    for_rows(pool, count, [&](int row) {
      kernels.pack_row(packed, weight.type, row,
                       x.data() + static_cast<size_t>(first + row) * weight.cols, weight.cols);
    });
    GemmOutput piece = output;
    piece.data += static_cast<size_t>(first) * output.stride;
    const int64_t grain = block_grain(num_blocks, pool.num_threads(), packed.rows);
    pool.parallel_for(num_blocks, grain, [&](int64_t begin, int64_t end, int thread) {
      kernels.gemm(weight, packed, piece, static_cast<int>(begin), static_cast<int>(end),
                   scratch.data() + kGemmScratchBytes * thread);
    });
  }
}

FloatMatrix gemm(const std::string& weights, const std::vector<nb::object>& parts, int rows,
                 const Matrix& x, const std::optional<Vector>& bias, bool swiglu,
                 const std::string& isa, int threads) {
  const Kernels& kernels = kernels_for(select_isa(isa));
  const int num_rows = static_cast<int>(x.shape(0));
  const int cols = static_cast<int>(x.shape(1));
  const OwnedMatrix matrix = own_matrix(weights, parts, rows, cols);
  check(!bias || bias->shape(0) == static_cast<size_t>(rows), "bias needs one value a row");
  check(!swiglu || rows % (2 * kRowBlock) == 0, "swiglu needs a multiple of 32 rows");
  const int num_outputs = swiglu ? rows / 2 : rows;
  std::unique_ptr<float[]> out(new float[static_cast<size_t>(num_rows) * num_outputs]);
  const GemmOutput output{.data = out.get(),
                          .stride = num_outputs,
                          .bias = bias ? bias->data() : nullptr,
                          .epilogue = swiglu ? Epilogue::kSwiGlu : Epilogue::kStore};
  {
    nb::gil_scoped_release release;
    ThreadPool pool(threads > 0 ? threads : num_physical_cores());
    multiply(kernels, matrix.view, x, output, pool);
  }
  return to_numpy(std::move(out), num_rows, num_outputs);
}

// Queries are the last tokens of the keys' sequence; rows of the result are tokens.
FloatMatrix attention(const Tensor3& q, const Tensor3& k, const Tensor3& v,
                      const std::string& kv_dtype, const std::string& isa) {
  const Kernels& kernels = kernels_for(select_isa(isa));
  const int num_queries = static_cast<int>(q.shape(0));
  const int num_keys = static_cast<int>(k.shape(0));
  const int num_kv_heads = static_cast<int>(k.shape(1));
  const int head_dim = static_cast<int>(k.shape(2));
  const int num_heads = static_cast<int>(q.shape(1));
  check(v.shape(0) == k.shape(0) && v.shape(1) == k.shape(1) && v.shape(2) == k.shape(2),
        "k and v need the same shape");
  check(q.shape(2) == k.shape(2) && head_dim % 2 == 0 && head_dim >= 2 && head_dim <= kMaxHeadDim,
        "heads need one even size, at most 512");
  check(num_kv_heads > 0 && num_heads > 0 && num_heads % num_kv_heads == 0,
        "query heads must be a multiple of KV heads");
  check(num_queries > 0 && num_queries <= num_keys, "more queries than keys");

  const int num_pages = (num_keys + kPageTokens - 1) / kPageTokens;
  const KvType type = parse_kv_type(kv_dtype.c_str());
  const size_t page_elements = kv_page_elements(type, num_kv_heads, head_dim);
  AlignedBuffer<float> arena(page_elements * num_pages);
  std::vector<int32_t> page_table(num_pages);
  std::iota(page_table.begin(), page_table.end(), 0);
  const KvLayer kv{.type = type,
                   .base = arena.data(),
                   .page_table = page_table.data(),
                   .page_stride = page_elements,
                   .num_kv_heads = num_kv_heads,
                   .head_dim = head_dim};
  const size_t kv_row = static_cast<size_t>(num_kv_heads) * head_dim;
  for (int t = 0; t < num_keys; ++t) {
    kernels.store_kv(kv, t, k.data() + t * kv_row, v.data() + t * kv_row);
  }
  const int q_row = num_heads * head_dim;
  std::unique_ptr<float[]> out(new float[static_cast<size_t>(num_queries) * q_row]);
  AlignedBuffer<float> scratch(attention_scratch_floats(head_dim));
  const AttentionArgs args{.kv = kv,
                           .q = q.data(),
                           .out = out.get(),
                           .q_stride = q_row,
                           .out_stride = q_row,
                           .num_heads = num_heads,
                           .first_position = num_keys - num_queries,
                           .scale = 1.0f / std::sqrt(static_cast<float>(head_dim))};
  for (int h = 0; h < num_kv_heads; ++h) kernels.attention(args, h, 0, num_queries, scratch.data());
  return to_numpy(std::move(out), num_queries, q_row);
}

FloatMatrix rms_norm(const Matrix& x, const Vector& gain, float eps, const std::string& isa) {
  const Kernels& kernels = kernels_for(select_isa(isa));
  check(gain.shape(0) == x.shape(1), "gain needs one value a column");
  const size_t cols = x.shape(1);
  std::unique_ptr<float[]> out(new float[x.size()]);
  for (size_t row = 0; row < x.shape(0); ++row) {
    kernels.rms_norm(x.data() + row * cols, gain.data(), eps, static_cast<int>(cols),
                     out.get() + row * cols);
  }
  return to_numpy(std::move(out), x.shape(0), cols);
}

FloatMatrix rope(const Matrix& heads, const Vector& cos, const Vector& sin, bool interleaved,
                 const std::string& isa) {
  const Kernels& kernels = kernels_for(select_isa(isa));
  check(cos.shape(0) == sin.shape(0) && 2 * cos.shape(0) <= heads.shape(1),
        "cos and sin need one size, at most half a head");
  const size_t head_dim = heads.shape(1);
  std::unique_ptr<float[]> out(new float[heads.size()]);
  std::copy(heads.data(), heads.data() + heads.size(), out.get());
  for (size_t h = 0; h < heads.shape(0); ++h) {
    kernels.rope(out.get() + h * head_dim, cos.data(), sin.data(),
                 2 * static_cast<int>(cos.shape(0)), interleaved);
  }
  return to_numpy(std::move(out), heads.shape(0), head_dim);
}

}  // namespace

void bind_kernels(nb::module_& m) {
  m.def("gemm", gemm, nb::arg("weights"), nb::arg("parts"), nb::arg("rows"), nb::arg("x"),
        nb::arg("bias") = nb::none(), nb::arg("swiglu") = false, nb::arg("isa") = "",
        nb::arg("threads") = 1,
        nb::sig("def gemm(weights: str, parts: collections.abc.Sequence[typing_extensions.Buffer], "
                "rows: int, x: numpy.typing.NDArray[numpy.float32], "
                "bias: numpy.typing.NDArray[numpy.float32] | None = None, swiglu: bool = False, "
                "isa: str = '', threads: int = 1) -> numpy.typing.NDArray[numpy.float32]"),
        "x [m, cols] times a packed [rows, cols] matrix transposed; swiglu halves the columns. "
        "With 0 threads one a physical core works.");
  m.def("attention", attention, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("kv_dtype"),
        nb::arg("isa") = "",
        nb::sig("def attention(q: numpy.typing.NDArray[numpy.float32], "
                "k: numpy.typing.NDArray[numpy.float32], v: numpy.typing.NDArray[numpy.float32], "
                "kv_dtype: str, isa: str = '') -> numpy.typing.NDArray[numpy.float32]"),
        "Causal attention of the last tokens, q [t, heads, dim] over k, v [s, kv_heads, dim].");
  m.def("rms_norm", rms_norm, nb::arg("x"), nb::arg("gain"), nb::arg("eps"), nb::arg("isa") = "",
        nb::sig("def rms_norm(x: numpy.typing.NDArray[numpy.float32], "
                "gain: numpy.typing.NDArray[numpy.float32], eps: float, isa: str = '') "
                "-> numpy.typing.NDArray[numpy.float32]"),
        "RMSNorm of each row.");
  m.def("rope", rope, nb::arg("heads"), nb::arg("cos"), nb::arg("sin"), nb::arg("interleaved"),
        nb::arg("isa") = "",
        nb::sig("def rope(heads: numpy.typing.NDArray[numpy.float32], "
                "cos: numpy.typing.NDArray[numpy.float32], "
                "sin: numpy.typing.NDArray[numpy.float32], interleaved: bool, isa: str = '') "
                "-> numpy.typing.NDArray[numpy.float32]"),
        "Rotates the leading 2 * len(cos) values of each row.");
}

}  // namespace autoglm
