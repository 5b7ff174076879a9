// A few rows (one row tile) of int4, int3 or int8 weights on AMX tiles: four row blocks are walked
// in parallel, so that enough streams are in flight to keep the memory busy, as for a single row.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "kernels/amx_tiles-inl.h"
#include "kernels/gemm_amx-inl.h"
#include "kernels/kernels.h"

namespace autoglm {
namespace {

constexpr int kFewRowsBlocks = 4;
constexpr int kTilePairBytes = 2 * kTileBytes;  // 128 columns of a block, unpacked

// Where four blocks of weights lie. Missing blocks repeat the last.
struct QuadBlocks {
  const uint8_t* weight[kFewRowsBlocks];
  const uint8_t* scales[kFewRowsBlocks] = {};  // int4 and int3
  size_t block_bytes;
  size_t scale_bytes;  // of a block

  QuadBlocks(const PackedMatrix& w, int block, int block_end)
      : block_bytes(row_block_bytes(w.type, w.padded_cols)),
        scale_bytes(static_cast<size_t>(w.padded_cols / kGroupSize) * kRowBlock) {
    for (int b = 0; b < kFewRowsBlocks; ++b) {
      const int at = std::min(block + b, block_end - 1);
      weight[b] = reinterpret_cast<const uint8_t*>(w.weight) + at * block_bytes;
      if (w.group_scale != nullptr) scales[b] = w.group_scale + at * scale_bytes;
    }
  }
};

// 128 columns of four blocks to the I8 layout, two tiles a block.
template <WeightType kType>
inline void unpack_quad(const QuadBlocks& w, int pair, int8_t* out) {
  constexpr bool kIsInt3 = kType == WeightType::kI3;
  constexpr size_t kPairBytes = row_block_bytes(kType, 2 * kGroupSize);
  constexpr int kStep = kIsInt3 ? 3 : 1;  // lines that are unpacked together
  const size_t at = pair * kPairBytes;
  const size_t ahead = fetch_distance<kFewRowsBlocks>(at, w.block_bytes);
  PairScales scales[kFewRowsBlocks];
  AUTOGLM_UNROLL
  for (int b = 0; b < kFewRowsBlocks; ++b) {
    const uint8_t* from = w.scales[b] + static_cast<size_t>(pair) * 2 * kRowBlock;
    if (pair % 2 == 0) {
      const uint8_t* next = from + kFewRowsBlocks * w.scale_bytes;
      _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T1);
    }
    scales[b] = load_pair_scales<kType>(from);
  }
  for (int line = 0; line < static_cast<int>(kPairBytes / 64); line += kStep) {
    AUTOGLM_UNROLL
    for (int b = 0; b < kFewRowsBlocks; ++b) {
      const uint8_t* p = w.weight[b] + at + line * 64;
      int8_t* to = out + b * kTilePairBytes;
      AUTOGLM_UNROLL
      for (int i = 0; i < kStep; ++i) {
        _mm_prefetch(reinterpret_cast<const char*>(p + i * 64 + ahead), _MM_HINT_T1);
      }
      if constexpr (kIsInt3) {
        unpack_int3_lines(p, line / 3, scales[b], to);
      } else {
        unpack_int4_line(p, scales[b], to + line * 64);
      }
    }
  }
}

// Sums 0 to 3 += one activation tile x a tile of each of the four blocks.
inline void dot_quad(const std::byte* a, const void* tile0, const void* tile1, const void* tile2,
                     const void* tile3) {
  _tile_loadd(4, a, 64);
  _tile_loadd(5, tile0, 64);
  _tile_dpbssd(0, 4, 5);
  _tile_loadd(6, tile1, 64);
  _tile_dpbssd(1, 4, 6);
  _tile_loadd(7, tile2, 64);
  _tile_dpbssd(2, 4, 7);
  _tile_loadd(5, tile3, 64);
  _tile_dpbssd(3, 4, 5);
}

// All columns of four int4 or int3 blocks, 128 at a time through one of two panels.
template <WeightType kType>
inline void dot_grouped_blocks(const QuadBlocks& quad, int padded_cols, const std::byte* a,
                               std::byte* panels) {
  for (int pair = 0; pair < padded_cols / (2 * kGroupSize); ++pair) {
    std::byte* panel = panels + pair % 2 * kFewRowsBlocks * kTilePairBytes;
    unpack_quad<kType>(quad, pair, reinterpret_cast<int8_t*>(panel));
    for (int half = 0; half < 2; ++half, a += kTileBytes) {
      const std::byte* tiles = panel + half * kTileBytes;
      dot_quad(a, tiles, tiles + kTilePairBytes, tiles + 2 * kTilePairBytes,
               tiles + 3 * kTilePairBytes);
    }
  }
}

// All columns of four int8 blocks, whose tiles are used as they lie.
inline void dot_int8_blocks(const QuadBlocks& quad, const std::byte* a) {
  for (size_t at = 0; at < quad.block_bytes; at += kTileBytes, a += kTileBytes) {
    const size_t ahead = at + fetch_distance<kFewRowsBlocks>(at, quad.block_bytes);
    for (int line = 0; line < kTileBytes; line += 64) {
      AUTOGLM_UNROLL
      for (int b = 0; b < kFewRowsBlocks; ++b) {
        _mm_prefetch(reinterpret_cast<const char*>(quad.weight[b] + ahead + line), _MM_HINT_T1);
      }
    }
    dot_quad(a, quad.weight[0] + at, quad.weight[1] + at, quad.weight[2] + at, quad.weight[3] + at);
  }
}

// x holds at most 16 plane rows.
void gemm_few_rows(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
                   int block_end, std::byte* scratch) {
  const TileScope scope;
  const auto* a = static_cast<const std::byte*>(x.data);
  std::byte* finished = scratch;
  std::byte* panels = scratch + kFewRowsBlocks * kTileBytes;
  for (int block = block_begin; block < block_end; block += kFewRowsBlocks) {
    const QuadBlocks quad(w, block, block_end);
    load_sums(nullptr, 2, true);
    if (w.type == WeightType::kI4) {
      dot_grouped_blocks<WeightType::kI4>(quad, w.padded_cols, a, panels);
    } else if (w.type == WeightType::kI3) {
      dot_grouped_blocks<WeightType::kI3>(quad, w.padded_cols, a, panels);
    } else {
      dot_int8_blocks(quad, a);
    }
    store_sums(finished, 2);
    for (int b = 0; b < kFewRowsBlocks && block + b < block_end; b += 2) {
      write_tiles<false>(w, x, y, block + b, std::min(2, block_end - block - b), 0, x.rows,
                         finished + b * kTileBytes);
    }
  }
}

}  // namespace
}  // namespace autoglm
