// Plain signatures of all kernels and the packed formats they read.
//
// One table of function pointers per instruction set; every entry has a scalar twin in ref.cc.
// Kernels allocate nothing, throw nothing and know nothing about models. Matrices of weights are
// "packed": 16 output rows interleaved with groups of 4 bytes along K, which is at once an AMX B
// tile, a VNNI register and four NEON dot-product registers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cpu_features.h"

// Before a loop of constant length over registers: unless it is unrolled early, gcc keeps the array
// it fills in memory.
#define AUTOGLM_UNROLL _Pragma("GCC unroll 32")

namespace autoglm {

inline constexpr int kRowBlock = 16;    // output rows interleaved in a packed matrix
inline constexpr int kGroupSize = 64;   // K elements that share a group scale of int4 and int3
inline constexpr int kPageTokens = 64;  // tokens in one page of the KV cache
inline constexpr int kMaxHeadDim = 512;

using bf16_t = uint16_t;  // upper half of an IEEE float
using half_t = uint16_t;  // IEEE half

enum class WeightType : uint8_t { kF32, kBF16, kI8, kI4, kI3, kS8, kH8, kB8 };
enum class KvType : uint8_t { kF32, kF16, kI8 };

constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// K is padded with zeros to this many elements.
constexpr int k_align(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return 16;
    case WeightType::kBF16:
      return 32;
    case WeightType::kI8:
    case WeightType::kS8:
    case WeightType::kH8:
    case WeightType::kB8:
      return 64;
    default:
      return 2 * kGroupSize;
  }
}

// Whether groups of columns have scales of their own.
constexpr bool is_grouped(WeightType type) {
  return type == WeightType::kI4 || type == WeightType::kI3;
}

// The unsigned code of a grouped type that stands for zero.
constexpr int code_of_zero(WeightType type) { return type == WeightType::kI3 ? 4 : 8; }

// Bytes of a pair of groups of I3 in a row block: lines of 64 bytes.
inline constexpr int kInt3Lines = 12;
inline constexpr int kInt3PairBytes = kInt3Lines * 64;

constexpr bool is_sparse(WeightType type) {
  return type == WeightType::kS8 || type == WeightType::kH8;
}

// The most codes that are not zero in one block of a sparse type, a fifth or half of all, and the
// bytes for them, with room to read a register past them.
constexpr int sparse_most_codes(WeightType type, int padded_cols) {
  const int in_row = type == WeightType::kH8 ? padded_cols / 2 : padded_cols / 5 + 1;
  return round_up(kRowBlock * in_row, 64);
}
constexpr int sparse_capacity(WeightType type, int padded_cols) {
  return sparse_most_codes(type, padded_cols) + 64;
}

// Tiles of 64 columns that B8 stores of a pair of blocks, half of all, and the words of its mask.
constexpr int tile_capacity(int padded_cols) { return (padded_cols / 64 + 1) / 2; }
constexpr int tile_mask_words(int padded_cols) { return (padded_cols / 64 + 63) / 64; }

// Bytes of one block of 16 rows, without masks. Always inline: files of an instruction set share no
// function with others.
[[gnu::always_inline]] constexpr size_t row_block_bytes(WeightType type, int padded_cols) {
  const size_t elements = static_cast<size_t>(kRowBlock) * padded_cols;
  switch (type) {
    case WeightType::kF32:
      return elements * 4;
    case WeightType::kBF16:
      return elements * 2;
    case WeightType::kI8:
      return elements;
    case WeightType::kS8:
    case WeightType::kH8:
      return static_cast<size_t>(sparse_capacity(type, padded_cols));
    case WeightType::kB8:
      return static_cast<size_t>(kRowBlock) * 64 * tile_capacity(padded_cols);
    case WeightType::kI3:
      return elements / 8 * 3;
    default:
      return elements / 2;
  }
}

// View of a packed matrix W [rows, cols] (a linear layer computes x W^T), all pointers 64-byte
// aligned.
//   F32   [padded_rows/16][padded_cols][16]
//   BF16  [padded_rows/16][padded_cols/2][16][2]
//   I8    [padded_rows/16][padded_cols/4][16][4], w = scale[row] * code, code in -127..127
//   I4    [padded_rows/16][padded_cols/128][16][64]: byte (i, 4*r + j) holds row r at column 4*i +
//   j of
//         the 128 in its low nibble, and 64 columns further in its high nibble;
//         w = scale[row] * group_scale[row, column/64] * (nibble - 8), group scales 1..16
//   I3    [padded_rows/16][padded_cols/128][12][64]: byte 4*r + j of line i holds row r at column
//         4*i + j of the first 64 of the 128 in bits 2 to 4, and of the others in bits 5 to 7.
//         Bits 0 and 1 of lines 3*t to 3*t + 2 hold columns 48 + 4*t + j: the lower bits of the
//         first 64, those of the others, and the highest bit of either;
//         w = scale[row] * group_scale[row, column/64] * (code - 4)
//   S8    I8 without its zeros, four fifths of all: masks [padded_rows/16][padded_cols/4], bit
//         4*r + j for row r at column j of 4, and the codes of set bits,
//         [padded_rows/16][sparse_capacity]
//   H8    the same with room for half of the codes
//   B8    I8 without tiles of 32 rows and 64 columns that are zero: masks of the column tiles of a
//         pair of blocks, [ceil(padded_rows/32)][tile_mask_words], and the tiles of set bits,
//         [padded_rows/16][tile_capacity][16][16][4]
struct PackedMatrix {
  WeightType type = WeightType::kF32;
  int rows = 0;
  int cols = 0;
  int padded_rows = 0;
  int padded_cols = 0;
  const std::byte* weight = nullptr;
  const float* scale = nullptr;          // [padded_rows], integers
  const uint8_t* group_scale = nullptr;  // [padded_rows/16][padded_cols/64][16], I4 and I3
  const uint64_t* mask = nullptr;        // S8, H8 and B8
};

// How a kernel wants its activations.
enum class RowsFormat : uint8_t {
  kF32,   // float [M][padded_cols]
  kI8,    // int8 planes, row r of plane p at row r*planes + p: [M*planes][padded_cols]
  kTile,  // AMX A tiles of 16 rows by 64 bytes: [ceil(M*planes/16)][bytes(padded_cols)/64][16][64]
};

// Activations X [M, K] ready for one kind of weight. Integer activations are symmetric per row:
// x = scale * (254 * high + low) with two int8 planes (nearly 16-bit precision), x = scale * code
// with one. Codes are in -127..127, so that no path needs a special case for -128. BF16 tiles use
// two planes too: x = high + low.
struct PackedRows {
  RowsFormat format = RowsFormat::kF32;
  int rows = 0;         // M
  int padded_cols = 0;  // as the weight's
  int planes = 1;
  // Integer rows whose values are all smaller are packed as if one were so large.
  float least_range = 0.0f;
  void* data = nullptr;
  float* scale = nullptr;        // [M], integer planes
  int32_t* group_sum = nullptr;  // [M*planes][padded_cols/64], sums of codes, kI8
};

inline constexpr float kPlaneBase = 254.0f;
inline constexpr float kOnePlaneSteps = 127.0f;    // largest code of one plane
inline constexpr float kTwoPlaneSteps = 32384.0f;  // and of two
// Integer rows whose values are all smaller count as zeros; steps over it would be infinite.
inline constexpr float kTiniestRow = 1e-30f;

enum class Epilogue : uint8_t {
  kStore,   // y = x W^T + bias
  kAdd,     // y += x W^T + bias
  kSwiGlu,  // rows come as 16 gate, 16 up, ...: y = silu(gate) * up, half as many columns
};

struct GemmOutput {
  float* data = nullptr;        // [M][stride]; only the logical rows (half for kSwiGlu) are written
  int stride = 0;               // floats
  const float* bias = nullptr;  // [rows] or null, in the row order of the packed matrix
  int bias_stride = 0;          // floats to the bias of the next row of x; 0 when they share one
  Epilogue epilogue = Epilogue::kStore;
};

// The KV cache of one layer, cut into pages of 64 tokens. Page p lies at base + page_table[p] *
// page_stride elements and holds K then V:
//   F32, F16  K [num_kv_heads][head_dim][64]       V [num_kv_heads][64][head_dim]
//   I8        K [num_kv_heads][k_dim/4][64][4]     V [num_kv_heads][16][v_dim][4], then the float
//             scales of K and of V [num_kv_heads][64] each, one per token and head; codes are
//             -127..127; k_dim and v_dim are head_dim rounded up to 64 and 16
// Halves are clamped to +-65504. head_dim is even.
struct KvLayer {
  KvType type = KvType::kF32;
  void* base = nullptr;
  const int32_t* page_table = nullptr;
  size_t page_stride = 0;  // elements between pages of this layer
  int num_kv_heads = 0;
  int head_dim = 0;
};

constexpr int kv_key_dim(int head_dim) { return round_up(head_dim, 64); }
constexpr int kv_value_dim(int head_dim) { return round_up(head_dim, 16); }

// Elements (bytes for I8) of one page of one layer.
constexpr size_t kv_page_elements(KvType type, int num_kv_heads, int head_dim) {
  const size_t tokens = static_cast<size_t>(num_kv_heads) * kPageTokens;
  if (type != KvType::kI8) return 2 * tokens * head_dim;
  return tokens * (kv_key_dim(head_dim) + kv_value_dim(head_dim) + 2 * sizeof(float));
}

constexpr size_t kv_element_bytes(KvType type) {
  switch (type) {
    case KvType::kF32:
      return 4;
    case KvType::kF16:
      return 2;
    default:
      return 1;
  }
}

struct AttentionArgs {
  KvLayer kv;
  const float* q = nullptr;  // [num_tokens][q_stride], head h at h*head_dim, rope applied
  float* out = nullptr;      // [num_tokens][out_stride]
  int q_stride = 0;
  int out_stride = 0;
  int num_heads = 0;
  int first_position = 0;  // position of token 0; token t sees keys 0..first_position+t
  float scale = 1.0f;      // usually 1/sqrt(head_dim)
  int query_planes = 2;    // over an int8 cache: 16 bits of queries, or 8 with one
  // The first keys may be sinks, which meet the queries rotated to another position: whole pages
  // that every token sees.
  int num_sink_keys = 0;
  const float* sink_q = nullptr;  // [num_tokens][sink_q_stride], as q
  int sink_q_stride = 0;
};

// Scratch of one thread, 64-byte aligned.
inline constexpr size_t kGemmScratchBytes = 512 * 1024;
// Query rows (token-head pairs) attended together; scratch is attention_scratch_floats(head_dim).
inline constexpr int kAttentionRows = 16;
inline constexpr int kKeyBlock = 256;  // keys that int8 attention weighs together
constexpr size_t attention_scratch_floats(int head_dim) {
  return static_cast<size_t>(kAttentionRows) * (3 * kKeyBlock + 5 * kv_key_dim(head_dim));
}

struct Kernels {
  Isa isa;

  // The format gemm() wants for `rows` rows of activations and this weight type, `is_precise`
  // asking for two planes. Fills format, rows, padded_cols and planes; the pointers are the
  // caller's.
  PackedRows (*rows_format)(WeightType type, int rows, int padded_cols, bool is_precise);

  // Writes row `row` of `out` from x [cols]; columns up to padded_cols become zero. The rows that
  // fill up the last tile of a kTile format may hold anything. A value that is not finite makes
  // every product with the row NaN.
  void (*pack_row)(const PackedRows& out, WeightType type, int row, const float* x, int cols);

  // Row blocks [block_begin, block_end) of x W^T for all rows of x. For kSwiGlu both ends are even,
  // for B8 the first.
  // Each output element is computed in an order that depends neither on the range nor on M.
  void (*gemm)(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
               int block_end, std::byte* scratch);

  // out[i] = x[i] * gain[i] / sqrt(mean(x^2) + eps)
  void (*rms_norm)(const float* x, const float* gain, float eps, int n, float* out);

  // y += x
  void (*add)(const float* x, int n, float* y);

  // Rotates the first rotary_dim elements of a head in place; cos and sin are [rotary_dim/2].
  // Interleaved rotates pairs (2i, 2i+1), otherwise (i, i + rotary_dim/2).
  void (*rope)(float* head, const float* cos, const float* sin, int rotary_dim,
               bool is_interleaved);

  // Writes K and V [num_kv_heads * head_dim] of one token at `position`.
  void (*store_kv)(const KvLayer& kv, int position, const float* k, const float* v);

  // Causal attention of query tokens [token_begin, token_end) for one KV head and the query heads
  // of its group. A token's result depends neither on the range nor on num_tokens.
  void (*attention)(const AttentionArgs& args, int kv_head, int token_begin, int token_end,
                    float* scratch);

  // Row `row` of W as floats [cols] (embedding look-up).
  void (*unpack_row)(const PackedMatrix& w, int row, float* out);
};

// Kernels of a path that select_isa() returned.
const Kernels& kernels_for(Isa isa);

}  // namespace autoglm
