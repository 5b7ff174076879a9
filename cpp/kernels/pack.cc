#include "kernels/pack.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/finite.h"
#include "kernels/float16.h"
#include "kernels/quantize.h"
#include "kernels/sparse.h"
#include "kernels/tiles.h"

namespace autoglm {
namespace {

constexpr std::string_view kWeightTypeNames[] = {"fp32", "bf16",    "int8",  "int4",
                                                 "int3", "sparse8", "half8", "block8"};

PartSpec part(std::string suffix, std::string dtype, std::vector<int64_t> shape,
              size_t item_bytes) {
  size_t bytes = item_bytes;
  for (const int64_t extent : shape) bytes *= static_cast<size_t>(extent);
  return {std::move(suffix), std::move(dtype), std::move(shape), bytes};
}

void place_f32(const float* row, int lane, int padded_cols, std::byte* block) {
  auto* out = reinterpret_cast<float*>(block);
  for (int k = 0; k < padded_cols; ++k) out[k * kRowBlock + lane] = row[k];
}

void place_bf16(const float* row, int lane, int padded_cols, std::byte* block) {
  auto* out = reinterpret_cast<bf16_t*>(block);
  for (int k = 0; k < padded_cols; ++k) {
    out[(k / 2 * kRowBlock + lane) * 2 + k % 2] = float_to_bf16(row[k]);
  }
}

void place_i8(const int8_t* codes, int lane, int padded_cols, std::byte* block) {
  auto* out = reinterpret_cast<int8_t*>(block);
  for (int k = 0; k < padded_cols; ++k) out[(k / 4 * kRowBlock + lane) * 4 + k % 4] = codes[k];
}

void place_i4(const uint8_t* nibbles, int lane, int padded_cols, std::byte* block) {
  auto* out = reinterpret_cast<uint8_t*>(block);
  for (int base = 0; base < padded_cols; base += 2 * kGroupSize) {
    for (int k = 0; k < kGroupSize; ++k) {
      const uint8_t low = nibbles[base + k];
      const uint8_t high = nibbles[base + kGroupSize + k];
      out[(k / 4 * kRowBlock + lane) * 4 + k % 4] = static_cast<uint8_t>(low | (high << 4));
    }
    out += kGroupSize * kRowBlock;
  }
}

// The bits of one weight go to three lines at most; see kernels.h.
void place_i3(const uint8_t* codes, int lane, int padded_cols, std::byte* block) {
  auto* out = reinterpret_cast<uint8_t*>(block) + 4 * lane;
  for (int base = 0; base < padded_cols; base += 2 * kGroupSize, out += kInt3PairBytes) {
    const uint8_t* first = codes + base;
    const uint8_t* second = first + kGroupSize;
    for (int i = 0; i < kInt3Lines; ++i) {
      const int t = i / 3;
      for (int j = 0; j < 4; ++j) {
        const int k = 4 * i + j, late = 4 * kInt3Lines + 4 * t + j;
        const int spread[3] = {first[late] & 3, second[late] & 3,
                               (first[late] >> 2) | (second[late] >> 2 << 1)};
        out[i * 64 + j] = static_cast<uint8_t>(spread[i % 3] | (first[k] << 2) | (second[k] << 5));
      }
    }
  }
}

constexpr int kNotFinite = -1;

// Types that leave out zeros, of which a group of blocks is packed when its dense codes are known.
constexpr bool leaves_out_zeros(WeightType type) {
  return is_sparse(type) || type == WeightType::kB8;
}
constexpr int blocks_in_group(WeightType type) { return type == WeightType::kB8 ? 2 : 1; }

// Packs blocks of 16 rows; rows past the end of the matrix are zero.
class BlockPacker {
 public:
  BlockPacker(WeightType type, const RowTransform& transform, int padded_cols)
      : type_(type),
        transform_(transform),
        padded_cols_(padded_cols),
        row_(padded_cols),
        codes_(padded_cols),
        dense_(leaves_out_zeros(type) ? blocks_in_group(type) * kRowBlock * padded_cols : 0),
        group_scale_(padded_cols / kGroupSize + 1) {}

  // Returns 0, or kNotFinite for a source value that is not, or how many codes or tiles are not
  // zero when those are too many for a type that leaves out zeros.
  int pack(SourceType source, const std::byte* data, int rows, int cols, int64_t group,
           const std::vector<std::byte*>& parts) {
    const int64_t first = group * blocks_in_group(type_);
    const int64_t end = std::min<int64_t>(first + blocks_in_group(type_), num_blocks(rows));
    for (int64_t block = first; block < end; ++block) {
      std::byte* out = block_memory(block, block - first, parts);
      for (int lane = 0; lane < kRowBlock; ++lane) {
        const int64_t row = block * kRowBlock + lane;
        std::fill(row_.begin(), row_.end(), 0.0f);
        if (row < rows) {
          load_row(source, data, row, cols, row_.data());
          transform_row(transform_, row_.data(), cols);
          if (!is_all_finite(row_.data(), cols)) return kNotFinite;
        }
        place(lane, out, row, block, parts);
      }
    }
    if (is_sparse(type_)) return pack_sparse(first, parts);
    return type_ == WeightType::kB8 ? pack_tiles(first, static_cast<int>(end - first), parts) : 0;
  }

 private:
  static int64_t num_blocks(int rows) { return round_up(rows, kRowBlock) / kRowBlock; }

  std::byte* block_memory(int64_t block, int64_t in_group, const std::vector<std::byte*>& parts) {
    if (!leaves_out_zeros(type_)) return parts[0] + block * row_block_bytes(type_, padded_cols_);
    return reinterpret_cast<std::byte*>(dense_.data()) + in_group * kRowBlock * padded_cols_;
  }

  int pack_sparse(int64_t block, const std::vector<std::byte*>& parts) {
    auto* masks = reinterpret_cast<uint64_t*>(parts[0]) + block * (padded_cols_ / 4);
    auto* codes =
        reinterpret_cast<int8_t*>(parts[1]) + block * sparse_capacity(type_, padded_cols_);
    const int num_kept = sparse::compress_block(type_, dense_.data(), padded_cols_, masks, codes);
    return num_kept > sparse_most_codes(type_, padded_cols_) ? num_kept : 0;
  }

  int pack_tiles(int64_t first, int count, const std::vector<std::byte*>& parts) {
    auto* mask = reinterpret_cast<uint64_t*>(parts[0]) + first / 2 * tile_mask_words(padded_cols_);
    auto* codes =
        reinterpret_cast<int8_t*>(parts[1]) + first * row_block_bytes(type_, padded_cols_);
    const int num_stored = tiles::compress_pair(dense_.data(), count, padded_cols_, mask, codes);
    return num_stored > tile_capacity(padded_cols_) ? num_stored : 0;
  }

  void place(int lane, std::byte* out, int64_t row, int64_t block,
             const std::vector<std::byte*>& parts) {
    auto* codes = reinterpret_cast<int8_t*>(codes_.data());
    switch (type_) {
      case WeightType::kF32:
        place_f32(row_.data(), lane, padded_cols_, out);
        return;
      case WeightType::kBF16:
        place_bf16(row_.data(), lane, padded_cols_, out);
        return;
      case WeightType::kI8:
      case WeightType::kS8:
      case WeightType::kH8:
      case WeightType::kB8: {
        const float scale = quantize_row_int8(row_.data(), padded_cols_, codes);
        reinterpret_cast<float*>(parts.back())[row] = scale;
        place_i8(codes, lane, padded_cols_, out);
        return;
      }
      case WeightType::kI4:
      case WeightType::kI3: {
        const float scale = quantize_row_grouped(type_, row_.data(), padded_cols_, codes_.data(),
                                                 group_scale_.data());
        const int num_groups = padded_cols_ / kGroupSize;
        auto* group_scale = reinterpret_cast<uint8_t*>(parts[1]) +
                            static_cast<size_t>(block) * num_groups * kRowBlock;
        for (int g = 0; g < num_groups; ++g) group_scale[g * kRowBlock + lane] = group_scale_[g];
        reinterpret_cast<float*>(parts[2])[row] = scale;
        (type_ == WeightType::kI4 ? place_i4 : place_i3)(codes_.data(), lane, padded_cols_, out);
        return;
      }
    }
  }

  WeightType type_;
  const RowTransform& transform_;
  int padded_cols_;
  std::vector<float> row_;
  std::vector<uint8_t> codes_;
  std::vector<int8_t> dense_;  // of a sparse block
  std::vector<uint8_t> group_scale_;
};

std::string too_many_text(WeightType type, int count, int padded_cols) {
  const std::string name(weight_type_name(type));
  if (type == WeightType::kB8) {
    return "32 rows hold " + std::to_string(count) + " tiles of 64 columns that are not zero, " +
           name + " takes " + std::to_string(tile_capacity(padded_cols)) +
           "; prune half of them first, with the pattern block";
  }
  return "16 rows hold " + std::to_string(count) + " weights that are not zero, " + name +
         " takes " + std::to_string(sparse_most_codes(type, padded_cols)) + "; prune " +
         (type == WeightType::kS8 ? "80" : "50") + " % of each row first";
}

[[noreturn]] void refuse_width(WeightType type, int most, int64_t cols) {
  throw Error(kConfigError, std::string(weight_type_name(type)) + " takes at most " +
                                std::to_string(most) + " columns, not " + std::to_string(cols));
}

}  // namespace

WeightType parse_weight_type(std::string_view name) {
  for (size_t i = 0; i < std::size(kWeightTypeNames); ++i) {
    if (kWeightTypeNames[i] == name) return static_cast<WeightType>(i);
  }
  throw Error(kArgumentError, "unknown weight type '" + std::string(name) +
                                  "'; use fp32, bf16, int8, int4, int3, sparse8, half8 or block8");
}

std::string_view weight_type_name(WeightType type) {
  return kWeightTypeNames[static_cast<int>(type)];
}

SourceType parse_source_type(std::string_view name) {
  if (name == "F32") return SourceType::kF32;
  if (name == "F16") return SourceType::kF16;
  if (name == "BF16") return SourceType::kBF16;
  throw Error(kArgumentError,
              "cannot pack tensors of type " + std::string(name) + "; use F32, F16 or BF16");
}

size_t source_bytes(SourceType type) { return type == SourceType::kF32 ? 4 : 2; }

void load_row(SourceType source, const std::byte* data, int64_t row, int cols, float* out) {
  const std::byte* begin = data + static_cast<size_t>(row) * cols * source_bytes(source);
  if (source == SourceType::kF32) {
    std::memcpy(out, begin, sizeof(float) * cols);
    return;
  }
  for (int k = 0; k < cols; ++k) {
    uint16_t bits;
    std::memcpy(&bits, begin + 2 * static_cast<size_t>(k), 2);
    out[k] = source == SourceType::kBF16 ? bf16_to_float(bits) : half_to_float(bits);
  }
}

std::vector<PartSpec> packed_parts(WeightType type, int64_t rows, int64_t cols) {
  constexpr int64_t kMaxExtent = int64_t{1} << 30;
  if (rows <= 0 || cols <= 0 || rows > kMaxExtent || cols > kMaxExtent) {
    throw Error(kConfigError, "a matrix of " + std::to_string(rows) + " x " + std::to_string(cols) +
                                  " cannot be packed");
  }
  const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  const int64_t padded_rows = blocks * kRowBlock;
  const int64_t align = k_align(type);
  const int64_t padded_cols = (cols + align - 1) / align * align;
  switch (type) {
    case WeightType::kF32:
      return {part("weight", "F32", {blocks, padded_cols, kRowBlock}, 4)};
    case WeightType::kBF16:
      return {part("weight", "BF16", {blocks, padded_cols / 2, kRowBlock, 2}, 2)};
    case WeightType::kI8:
      return {part("weight", "I8", {blocks, padded_cols / 4, kRowBlock, 4}, 1),
              part("scale", "F32", {padded_rows}, 4)};
    case WeightType::kS8:
    case WeightType::kH8: {
      if (cols > sparse::kMostCols) refuse_width(type, sparse::kMostCols, cols);
      const int64_t capacity = sparse_capacity(type, static_cast<int>(padded_cols));
      // The types differ in the dtype of their masks, by which a reader knows them.
      const PartSpec masks = type == WeightType::kS8
                                 ? part("weight", "U64", {blocks, padded_cols / 4}, 8)
                                 : part("weight", "U32", {blocks, padded_cols / 4, 2}, 4);
      return {masks, part("codes", "I8", {blocks, capacity}, 1),
              part("scale", "F32", {padded_rows}, 4)};
    }
    case WeightType::kB8: {
      if (cols > tiles::kMostCols) refuse_width(type, tiles::kMostCols, cols);
      const int width = static_cast<int>(padded_cols);
      return {part("weight", "U16", {(blocks + 1) / 2, 4 * tile_mask_words(width)}, 2),
              part("codes", "I8", {blocks, tile_capacity(width), kRowBlock, kRowBlock, 4}, 1),
              part("scale", "F32", {padded_rows}, 4)};
    }
    default: {
      const PartSpec codes =
          type == WeightType::kI4
              ? part("weight", "U8", {blocks, padded_cols / 128, kRowBlock, 64}, 1)
              : part("weight", "I32", {blocks, padded_cols / 128, kInt3Lines, kRowBlock}, 4);
      return {codes, part("group_scale", "U8", {blocks, padded_cols / kGroupSize, kRowBlock}, 1),
              part("scale", "F32", {padded_rows}, 4)};
    }
  }
}

PackedMatrix packed_view(WeightType type, int rows, int cols,
                         const std::vector<const std::byte*>& parts) {
  PackedMatrix view;
  view.type = type;
  view.rows = rows;
  view.cols = cols;
  view.padded_rows = round_up(rows, kRowBlock);
  view.padded_cols = round_up(cols, k_align(type));
  view.weight = parts[0];
  if (type == WeightType::kI8) view.scale = reinterpret_cast<const float*>(parts[1]);
  if (leaves_out_zeros(type)) {
    view.mask = reinterpret_cast<const uint64_t*>(parts[0]);
    view.weight = parts[1];
    view.scale = reinterpret_cast<const float*>(parts[2]);
  }
  if (is_grouped(type)) {
    view.group_scale = reinterpret_cast<const uint8_t*>(parts[1]);
    view.scale = reinterpret_cast<const float*>(parts[2]);
  }
  return view;
}

void pack_rows(WeightType type, SourceType source, const std::byte* data, int rows, int cols,
               const std::vector<std::byte*>& parts, ThreadPool& pool,
               const RowTransform& transform) {
  const int padded_cols = round_up(cols, k_align(type));
  const int group_rows = blocks_in_group(type) * kRowBlock;
  std::atomic<int> fault{0};
  pool.parallel_for(round_up(rows, group_rows) / group_rows, 4,
                    [&](int64_t begin, int64_t end, int) {
                      BlockPacker packer(type, transform, padded_cols);
                      for (int64_t group = begin; group < end && fault == 0; ++group) {
                        if (const int found = packer.pack(source, data, rows, cols, group, parts))
                          fault = found;
                      }
                    });
  if (fault == kNotFinite) throw Error(kModelFileError, "a weight is NaN or infinite");
  if (fault != 0) throw Error(kModelFileError, too_many_text(type, fault, padded_cols));
}

}  // namespace autoglm
