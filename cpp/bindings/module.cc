// The Python module autoglm._core: errors, facts about the processor, and the parts bound
// elsewhere.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <string>
#include <tuple>

#include "base/cpu_features.h"
#include "base/error.h"
#include "base/json_shape.h"
#include "bindings/bind.h"

namespace nb = nanobind;

namespace autoglm {

KvType parse_kv_type(const char* name) {
  const std::string text = name;
  if (text == "fp32") return KvType::kF32;
  if (text == "fp16") return KvType::kF16;
  if (text == "int8") return KvType::kI8;
  throw Error(kArgumentError, "unknown KV type '" + text + "'; use fp32, fp16 or int8");
}

namespace {

void bind_error(nb::module_& m) {
  nb::object type = nb::steal(PyErr_NewExceptionWithDoc(
      "autoglm._core.CoreError", "An error of the native core; args are (code, message).", nullptr,
      nullptr));
  m.attr("CoreError") = type;
  nb::register_exception_translator(
      [](const std::exception_ptr& error, void* type) {
        try {
          std::rethrow_exception(error);
        } catch (const Error& e) {
          const nb::tuple args = nb::make_tuple(static_cast<int>(e.code()), e.what());
          PyErr_SetObject(static_cast<PyObject*>(type), args.ptr());
        }
      },
      type.ptr());
}

nb::dict cpu_info() {
  const CpuFeatures& features = cpu_features();
  nb::list supported, names;
  for (const Isa isa : supported_isas()) supported.append(std::string(isa_name(isa)));
  if (features.avx2_fma) names.append("avx2_fma");
  if (features.avx512_vnni) names.append("avx512_vnni");
  if (features.amx_int8_bf16) names.append("amx_int8_bf16");
  if (features.neon) names.append("neon");
  if (features.dotprod) names.append("dotprod");
  if (features.i8mm) names.append("i8mm");
  nb::dict info;
  info["isa"] = std::string(isa_name(select_isa("")));
  info["supported"] = supported;
  info["physical_cores"] = num_physical_cores();
  info["vendor"] = features.vendor;
  info["features"] = names;
  return info;
}

std::tuple<size_t, size_t, size_t> shape_of_json(const nb::bytes& text) {
  const std::span<const char> chars(text.c_str(), text.size());
  const nb::gil_scoped_release release;
  const JsonShape shape = json_shape(std::as_bytes(chars));
  return {shape.num_values, shape.num_containers, shape.depth};
}

}  // namespace
}  // namespace autoglm

NB_MODULE(_core, m) {
  m.doc() = "Native core of autoglm: models, sessions and kernels.";
  nb::set_leak_warnings(false);  // models may live until the interpreter is gone
  autoglm::bind_error(m);
  m.def("cpu_info", autoglm::cpu_info, nb::sig("def cpu_info() -> dict[str, object]"),
        "The kernel path in use (isa), those supported, physical_cores, vendor and features.");
  m.def("json_shape", autoglm::shape_of_json, nb::arg("text"),
        "How many values and containers a JSON text has at most, and how deep it goes.");
  autoglm::bind_engine(m);
  autoglm::bind_quant(m);
  autoglm::bind_kernels(m);
}
