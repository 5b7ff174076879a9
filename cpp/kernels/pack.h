// Writes packed matrices: source rows to the formats of kernels.h, quantised where asked, and back.
//
// Results are the same bytes on every machine and for any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "kernels/transform.h"

namespace autoglm {

enum class SourceType : uint8_t { kF32, kF16, kBF16 };

// One tensor of a packed matrix as stored in a file.
struct PartSpec {
  std::string suffix;  // "weight", "scale", "group_scale"
  std::string dtype;   // safetensors name
  std::vector<int64_t> shape;
  size_t bytes = 0;
};

// "fp32", "bf16", "int8", "int4", "int3", "sparse8", "half8" or "block8"; throws
// Error(kArgumentError) otherwise.
WeightType parse_weight_type(std::string_view name);
std::string_view weight_type_name(WeightType type);

// "F32", "F16" or "BF16"; throws Error(kArgumentError) otherwise.
SourceType parse_source_type(std::string_view name);
size_t source_bytes(SourceType type);

// The parts of a packed [rows, cols] matrix in file order.
std::vector<PartSpec> packed_parts(WeightType type, int64_t rows, int64_t cols);

// View over parts in the order of packed_parts().
PackedMatrix packed_view(WeightType type, int rows, int cols,
                         const std::vector<const std::byte*>& parts);

// Packs row-major source rows, transformed, into `parts` (sizes of packed_parts()). Throws
// Error(kModelFileError) when a value is not finite.
void pack_rows(WeightType type, SourceType source, const std::byte* data, int rows, int cols,
               const std::vector<std::byte*>& parts, ThreadPool& pool,
               const RowTransform& transform = {});

// Row `row` of a row-major source matrix as floats.
void load_row(SourceType source, const std::byte* data, int64_t row, int cols, float* out);

}  // namespace autoglm
