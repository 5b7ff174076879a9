// Bindings of the weight packer: shapes, packing and unpacking of one matrix.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <tuple>
#include <vector>

#include "base/cpu_features.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "bindings/bind.h"
#include "kernels/pack.h"

namespace nb = nanobind;

namespace autoglm {
namespace {

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

nb::list pack(const std::string& weights, const std::string& dtype, nb::handle data, int rows,
              int cols, int threads) {
  const WeightType type = parse_weight_type(weights);
  const SourceType source = parse_source_type(dtype);
  const std::vector<PartSpec> specs = packed_parts(type, rows, cols);
  const BufferView view(data);
  check_size(view.bytes().size(), source_bytes(source) * rows * cols, "the source matrix");
  nb::list results;
  std::vector<std::byte*> parts;
  for (const PartSpec& spec : specs) {
    nb::bytes part = nb::steal<nb::bytes>(
        PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(spec.bytes)));
    if (!part.is_valid()) throw nb::python_error();
    parts.push_back(reinterpret_cast<std::byte*>(PyBytes_AS_STRING(part.ptr())));
    results.append(part);
  }
  {
    const nb::gil_scoped_release release;
    ThreadPool pool(threads > 0 ? threads : num_physical_cores());
    pack_rows(type, source, view.bytes().data(), rows, cols, parts, pool);
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
  const size_t num_bytes = sizeof(float) * rows * cols;
  nb::bytes result =
      nb::steal<nb::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(num_bytes)));
  if (!result.is_valid()) throw nb::python_error();
  auto* out = reinterpret_cast<float*>(PyBytes_AS_STRING(result.ptr()));
  const nb::gil_scoped_release release;
  const PackedMatrix matrix = packed_view(type, rows, cols, pointers);
  const Kernels& kernels = kernels_for(Isa::kScalar);
  for (int row = 0; row < rows; ++row) {
    kernels.unpack_row(matrix, row, out + static_cast<size_t>(row) * cols);
  }
  return result;
}

}  // namespace

void bind_quant(nb::module_& m) {
  m.def("packed_shapes", packed_shapes, nb::arg("weights"), nb::arg("rows"), nb::arg("cols"),
        "Name suffix, safetensors dtype and shape of the parts of a packed matrix.");
  m.def(
      "pack_rows", pack, nb::arg("weights"), nb::arg("dtype"), nb::arg("data"), nb::arg("rows"),
      nb::arg("cols"), nb::arg("threads") = 0,
      nb::sig("def pack_rows(weights: str, dtype: str, data: typing_extensions.Buffer, rows: int, "
              "cols: int, threads: int = 0) -> list[bytes]"),
      "Packs a row-major matrix of dtype F32, F16 or BF16; parts in the order of packed_shapes.");
  m.def("dequantize", dequantize, nb::arg("weights"), nb::arg("parts"), nb::arg("rows"),
        nb::arg("cols"),
        nb::sig("def dequantize(weights: str, parts: collections.abc.Sequence["
                "typing_extensions.Buffer], rows: int, cols: int) -> bytes"),
        "The float32 matrix that packed parts stand for, row-major.");
}

}  // namespace autoglm
