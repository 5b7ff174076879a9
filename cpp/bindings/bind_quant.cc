// Bindings of the weight packer: shapes, packing and unpacking of one matrix.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/cpu_features.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "bindings/bind.h"
#include "kernels/pack.h"
#include "kernels/quantize.h"

namespace nb = nanobind;

namespace autoglm {
namespace {

using Buffer = std::optional<nb::object>;
using PartShape = std::tuple<std::string, std::string, std::vector<int64_t>>;

std::vector<PartShape> packed_shapes(const std::string& weights, int64_t rows, int64_t cols) {
  std::vector<PartShape> shapes;
  for (const PartSpec& part : packed_parts(parse_weight_type(weights), rows, cols)) {
    shapes.emplace_back(part.suffix, part.dtype, part.shape);
  }
  return shapes;
}

void check_size(size_t size, size_t wanted, const char* what) {
  if (size == wanted) return;
  throw Error(kArgumentError, std::string(what) + " has " + std::to_string(size) +
                                  " bytes, its shape needs " + std::to_string(wanted));
}

nb::bytes new_bytes(size_t size, std::byte** data) {
  nb::bytes result =
      nb::steal<nb::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size)));
  if (!result.is_valid()) throw nb::python_error();
  *data = reinterpret_cast<std::byte*>(PyBytes_AS_STRING(result.ptr()));
  return result;
}

// Optional float32 buffers of one value a column.
class ColumnBuffers {
 public:
  ColumnBuffers(const Buffer& column_scale, const Buffer& signs, int cols)
      : transform_{view(scale_, column_scale, cols, "column_scale"),
                   view(signs_, signs, cols, "signs")} {}

  const RowTransform& transform() const { return transform_; }

 private:
  static std::span<const float> view(std::optional<BufferView>& view, const Buffer& buffer,
                                     int cols, const char* name) {
    if (!buffer) return {};
    view.emplace(*buffer);
    check_size(view->bytes().size(), sizeof(float) * cols, name);
    return {reinterpret_cast<const float*>(view->bytes().data()), static_cast<size_t>(cols)};
  }

  std::optional<BufferView> scale_;
  std::optional<BufferView> signs_;
  RowTransform transform_;
};

nb::list pack(const std::string& weights, const std::string& dtype, nb::handle data, int rows,
              int cols, int threads, const Buffer& column_scale, const Buffer& signs) {
  const WeightType type = parse_weight_type(weights);
  const SourceType source = parse_source_type(dtype);
  const std::vector<PartSpec> specs = packed_parts(type, rows, cols);
  const BufferView view(data);
  check_size(view.bytes().size(), source_bytes(source) * rows * cols, "the source matrix");
  const ColumnBuffers columns(column_scale, signs, cols);
  nb::list results;
  std::vector<std::byte*> parts;
  for (const PartSpec& spec : specs) {
    std::byte* part;
    results.append(new_bytes(spec.bytes, &part));
    parts.push_back(part);
  }
  {
    const nb::gil_scoped_release release;
    ThreadPool pool(threads > 0 ? threads : num_physical_cores());
    pack_rows(type, source, view.bytes().data(), rows, cols, parts, pool, columns.transform());
  }
  return results;
}

nb::bytes dequantize(const std::string& weights, const std::vector<nb::object>& parts, int rows,
                     int cols) {
  const WeightType type = parse_weight_type(weights);
  const std::vector<PartSpec> specs = packed_parts(type, rows, cols);
  if (parts.size() != specs.size()) {
    throw Error(kArgumentError, weights + " matrices have " + std::to_string(specs.size()) +
                                    " parts, not " + std::to_string(parts.size()));
  }
  std::vector<std::unique_ptr<BufferView>> views;
  std::vector<const std::byte*> pointers;
  for (size_t i = 0; i < parts.size(); ++i) {
    views.push_back(std::make_unique<BufferView>(parts[i]));
    check_size(views[i]->bytes().size(), specs[i].bytes, specs[i].suffix.c_str());
    pointers.push_back(views[i]->bytes().data());
  }
  std::byte* data;
  nb::bytes result = new_bytes(sizeof(float) * rows * cols, &data);
  auto* out = reinterpret_cast<float*>(data);
  const nb::gil_scoped_release release;
  const PackedMatrix matrix = packed_view(type, rows, cols, pointers);
  const Kernels& kernels = kernels_for(Isa::kScalar);
  for (int row = 0; row < rows; ++row) {
    kernels.unpack_row(matrix, row, out + static_cast<size_t>(row) * cols);
  }
  return result;
}

// Group scales [rows, cols / 64] and scales [rows] of a float32 matrix.
nb::tuple choose_scales(const std::string& weights, nb::handle data, int rows, int cols,
                        const Buffer& importance) {
  if (rows <= 0 || cols <= 0 || cols % kGroupSize != 0) {
    throw Error(kArgumentError, "the columns must be a multiple of 64");
  }
  const WeightType type = parse_weight_type(weights);
  if (!is_grouped(type)) throw Error(kArgumentError, weights + " has no scales of groups");
  const BufferView view(data);
  check_size(view.bytes().size(), sizeof(float) * rows * cols, "the source matrix");
  std::span<const float> column_importance;
  std::optional<BufferView> counts;
  if (importance) {
    counts.emplace(*importance);
    check_size(counts->bytes().size(), sizeof(float) * cols, "importance");
    column_importance = {reinterpret_cast<const float*>(counts->bytes().data()),
                         static_cast<size_t>(cols)};
  }
  const int num_groups = cols / kGroupSize;
  std::byte *group_scale, *scale;
  const nb::bytes all_groups = new_bytes(static_cast<size_t>(rows) * num_groups, &group_scale);
  const nb::bytes all_scales = new_bytes(sizeof(float) * rows, &scale);
  {
    const nb::gil_scoped_release release;
    ThreadPool pool(num_physical_cores());
    const auto* source = reinterpret_cast<const float*>(view.bytes().data());
    pool.parallel_for(rows, 8, [&](int64_t begin, int64_t end, int) {
      std::vector<uint8_t> codes(cols);
      for (int64_t row = begin; row < end; ++row) {
        reinterpret_cast<float*>(scale)[row] = quantize_row_grouped(
            type, source + row * cols, cols, codes.data(),
            reinterpret_cast<uint8_t*>(group_scale) + row * num_groups, column_importance);
      }
    });
  }
  return nb::make_tuple(all_groups, all_scales);
}

// Rotates rows by `signs`, or the columns of the matrix when `is_column_wise`.
nb::bytes transform(const std::string& dtype, nb::handle data, int rows, int cols,
                    const Buffer& column_scale, const Buffer& signs, bool is_column_wise) {
  const SourceType source = parse_source_type(dtype);
  if (rows <= 0 || cols <= 0) throw Error(kArgumentError, "the matrix is empty");
  const BufferView view(data);
  check_size(view.bytes().size(), source_bytes(source) * rows * cols, "the source matrix");
  const ColumnBuffers columns(is_column_wise ? Buffer() : column_scale, signs,
                              is_column_wise ? rows : cols);
  std::byte* bytes;
  nb::bytes result = new_bytes(sizeof(float) * rows * cols, &bytes);
  auto* out = reinterpret_cast<float*>(bytes);
  const nb::gil_scoped_release release;
  for (int row = 0; row < rows; ++row) {
    float* to = out + static_cast<size_t>(row) * cols;
    load_row(source, view.bytes().data(), row, cols, to);
    if (!is_column_wise) transform_row(columns.transform(), to, cols);
  }
  if (is_column_wise) rotate_columns(out, rows, cols, columns.transform().signs);
  return result;
}

}  // namespace

void bind_quant(nb::module_& m) {
  m.def("packed_shapes", packed_shapes, nb::arg("weights"), nb::arg("rows"), nb::arg("cols"),
        "Name suffix, safetensors dtype and shape of the parts of a packed matrix.");
  m.def(
      "pack_rows", pack, nb::arg("weights"), nb::arg("dtype"), nb::arg("data"), nb::arg("rows"),
      nb::arg("cols"), nb::arg("threads") = 0, nb::kw_only(),
      nb::arg("column_scale").none() = nb::none(), nb::arg("signs").none() = nb::none(),
      nb::sig("def pack_rows(weights: str, dtype: str, data: typing_extensions.Buffer, rows: int, "
              "cols: int, threads: int = 0, *, column_scale: typing_extensions.Buffer | None = "
              "None, signs: typing_extensions.Buffer | None = None) -> list[bytes]"),
      "Packs a row-major matrix of dtype F32, F16 or BF16; parts in the order of packed_shapes. "
      "Columns are first multiplied by the float32 column_scale, then rows rotated by signs.");
  m.def("transform_rows", transform, nb::arg("dtype"), nb::arg("data"), nb::arg("rows"),
        nb::arg("cols"), nb::kw_only(), nb::arg("column_scale").none() = nb::none(),
        nb::arg("signs").none() = nb::none(), nb::arg("is_column_wise") = false,
        nb::sig("def transform_rows(dtype: str, data: typing_extensions.Buffer, rows: int, "
                "cols: int, *, column_scale: typing_extensions.Buffer | None = None, signs: "
                "typing_extensions.Buffer | None = None, is_column_wise: bool = False) -> bytes"),
        "The matrix as float32 after what pack_rows would do to it before packing. "
        "is_column_wise rotates columns instead of rows; signs then has a value a row.");
  m.def("choose_scales", choose_scales, nb::arg("weights"), nb::arg("data"), nb::arg("rows"),
        nb::arg("cols"), nb::kw_only(), nb::arg("importance").none() = nb::none(),
        nb::sig("def choose_scales(weights: str, data: typing_extensions.Buffer, rows: int, "
                "cols: int, *, importance: typing_extensions.Buffer | None = None) -> "
                "tuple[bytes, bytes]"),
        "Integer group scales and float scales of a float32 matrix for int4 or int3; importance "
        "weighs the squared error of each column.");
  m.def("dequantize", dequantize, nb::arg("weights"), nb::arg("parts"), nb::arg("rows"),
        nb::arg("cols"),
        nb::sig("def dequantize(weights: str, parts: collections.abc.Sequence["
                "typing_extensions.Buffer], rows: int, cols: int) -> bytes"),
        "The float32 matrix that packed parts stand for, row-major.");
}

}  // namespace autoglm
