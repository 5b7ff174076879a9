// What the binding files share: their entry points and the conversions between Python and the core.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <memory>
#include <span>

#include "kernels/kernels.h"

namespace autoglm {

void bind_engine(nanobind::module_& m);
void bind_quant(nanobind::module_& m);
void bind_kernels(nanobind::module_& m);

// "fp32", "fp16" or "int8"; throws Error(kArgumentError) otherwise.
KvType parse_kv_type(const char* name);

// A contiguous read-only buffer of any Python object that has one: bytes, memoryview, mmap, array.
class BufferView {
 public:
  explicit BufferView(nanobind::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw nanobind::python_error();
  }
  ~BufferView() { PyBuffer_Release(&view_); }
  BufferView(const BufferView&) = delete;
  BufferView& operator=(const BufferView&) = delete;

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(view_.buf), static_cast<size_t>(view_.len)};
  }

 private:
  Py_buffer view_;
};

using FloatMatrix = nanobind::ndarray<nanobind::numpy, float, nanobind::ndim<2>>;

// Hands an array over to Python without a copy.
inline FloatMatrix to_numpy(std::unique_ptr<float[]> data, size_t rows, size_t cols) {
  float* values = data.get();
  nanobind::capsule owner(values, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  data.release();
  return FloatMatrix(values, {rows, cols}, owner);
}

}  // namespace autoglm
