// GEMM on AMX tiles, int8 and bf16, over the layouts of kernels.h.
//
// A macro tile is 32 activation rows by 32 outputs (2 x 2 tiles). K is cut into pieces whose unpacked
// weights stay in the first-level cache; partial sums of the other pieces wait in scratch. The int32 sums
// are exact, the bf16 ones are added in the order of K whatever the range or the number of rows.
#pragma once

#include <immintrin.h>

#include "kernels/kernels.h"

namespace autoglm {
namespace {

constexpr int kTileBytes = 1024;      // 16 rows of 64 bytes
constexpr int kPieceTiles = 8;        // K tiles of one piece
constexpr int kMaxTileRows = 1024;    // plane rows whose partial sums fit the scratch

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tile registers 0-3 sums, 4-5 activations, 6-7 weights, all 16 x 64 bytes. The configuration belongs to
// the thread; loading it again costs a few nanoseconds and keeps the kernel free of state.
class TileScope {
 public:
  TileScope() {
    TileConfig config;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = 64;
      config.rows[i] = 16;
    }
    asm volatile("" ::"r"(&config) : "memory");  // gcc 12 drops stores it thinks nobody reads
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

struct AmxScratch {
  std::byte* panel;     // [2 blocks][kPieceTiles] tiles of unpacked int4
  std::byte* partial;   // [row tiles][2 blocks] tiles of sums
};

inline AmxScratch cut_scratch(std::byte* scratch) {
  return {scratch, scratch + 2 * kPieceTiles * kTileBytes};
}

struct Piece {
  const std::byte* a;          // first tile of the first row tile
  size_t a_stride;             // bytes between row tiles
  const std::byte* b[2];       // first tile of each weight block
  int num_tiles;
  bool is_first;
};

template <bool kIsBf16>
inline void dot_2x2(const Piece& piece, const std::byte* a0, const std::byte* a1) {
  for (int t = 0; t < piece.num_tiles; ++t) {
    const int at = t * kTileBytes;
    _tile_loadd(4, a0 + at, 64);
    _tile_loadd(6, piece.b[0] + at, 64);
    _tile_loadd(5, a1 + at, 64);
    _tile_loadd(7, piece.b[1] + at, 64);
    if constexpr (kIsBf16) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    } else {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(1, 4, 7);
      _tile_dpbssd(3, 5, 7);
    }
  }
}

// Adds one piece of K to the partial sums of all row tiles for two weight blocks.
template <bool kIsBf16>
inline void add_piece(const Piece& piece, std::byte* partial, int num_row_tiles) {
  for (int i = 0; i < num_row_tiles; i += 2) {
    const std::byte* a0 = piece.a + i * piece.a_stride;
    const std::byte* a1 = i + 1 < num_row_tiles ? a0 + piece.a_stride : a0;
    std::byte* sums = partial + static_cast<size_t>(i) * 2 * kTileBytes;
    if (piece.is_first) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    } else {
      _tile_loadd(0, sums, 64);
      _tile_loadd(1, sums + kTileBytes, 64);
      _tile_loadd(2, sums + 2 * kTileBytes, 64);
      _tile_loadd(3, sums + 3 * kTileBytes, 64);
    }
    dot_2x2<kIsBf16>(piece, a0, a1);
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + kTileBytes, 64);
    _tile_stored(2, sums + 2 * kTileBytes, 64);
    _tile_stored(3, sums + 3 * kTileBytes, 64);
  }
}

// The float values of one activation row in one block of finished sums.
template <bool kIsBf16>
inline F32x16 finished_row(const std::byte* partial, const PackedRows& x, int plane_row, int b) {
  const std::byte* tile =
      partial + static_cast<size_t>(plane_row / 16 * 2 + b) * kTileBytes + plane_row % 16 * 64;
  if constexpr (kIsBf16) {
    const auto* values = reinterpret_cast<const float*>(tile);
    return x.planes == 2 ? load(values) + load(values + 16) : load(values);
  } else {
    return combine_planes(reinterpret_cast<const int32_t*>(tile), x.planes, 16);
  }
}

template <bool kIsBf16>
inline void write_tiles(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
                        int num_blocks, int first_row, int num_rows, const std::byte* partial) {
  const bool is_swiglu = y.epilogue == Epilogue::kSwiGlu;
  for (int m = 0; m < num_rows; ++m) {
    const int row = first_row + m;
    F32x16 values[2];
    for (int b = 0; b < num_blocks; ++b) {
      values[b] = finished_row<kIsBf16>(partial, x, m * x.planes, b);
      if constexpr (!kIsBf16) {
        const F32x16 scale = load(w.scale + (block + b) * kRowBlock) * splat(x.scale[row]);
        values[b] = values[b] * scale;
      }
    }
    if (is_swiglu) {
      write_outputs(w, y, row, block, values[0], values[1]);
    } else {
      for (int b = 0; b < num_blocks; ++b) write_outputs(w, y, row, block + b, values[b], values[b]);
    }
  }
}

// Points at the piece of both blocks that starts at K tile `tile`, unpacking int4 into the panel.
inline void load_weights(const PackedMatrix& w, int block, int num_blocks, int tile,
                         const AmxScratch& scratch, Piece* piece) {
  const int num_groups = w.padded_cols / kGroupSize;
  for (int b = 0; b < 2; ++b) {
    const int at = b < num_blocks ? block + b : block;
    const std::byte* base = w.weight + at * row_block_bytes(w.type, w.padded_cols);
    if (w.type != WeightType::kI4) {
      piece->b[b] = base + static_cast<size_t>(tile) * kTileBytes;
      continue;
    }
    std::byte* panel = scratch.panel + b * kPieceTiles * kTileBytes;
    const uint8_t* scales =
        w.group_scale + (static_cast<size_t>(at) * num_groups + tile) * kRowBlock;
    for (int t = 0; t < piece->num_tiles; t += 2) {
      unpack_group_pair(reinterpret_cast<const uint8_t*>(base) + static_cast<size_t>(tile + t) * 512,
                        scales + t * kRowBlock, reinterpret_cast<int8_t*>(panel) + t * kTileBytes);
    }
    piece->b[b] = panel;
  }
}

template <bool kIsBf16>
void gemm_tiles(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
                int block_end, std::byte* scratch_bytes) {
  const TileScope tiles;
  const AmxScratch scratch = cut_scratch(scratch_bytes);
  const size_t row_bytes = static_cast<size_t>(x.padded_cols) * (kIsBf16 ? 2 : 1);
  const int num_k_tiles = static_cast<int>(row_bytes / 64);
  const int rows_at_once = kMaxTileRows / x.planes;
  for (int first_row = 0; first_row < x.rows; first_row += rows_at_once) {
    const int num_rows = x.rows - first_row < rows_at_once ? x.rows - first_row : rows_at_once;
    const int num_row_tiles = (num_rows * x.planes + 15) / 16;
    const std::byte* a = static_cast<const std::byte*>(x.data) +
                         static_cast<size_t>(first_row) * x.planes * row_bytes;
    for (int block = block_begin; block < block_end; block += 2) {
      const int num_blocks = block + 1 < block_end ? 2 : 1;
      for (int tile = 0; tile < num_k_tiles; tile += kPieceTiles) {
        Piece piece;
        piece.a = a + static_cast<size_t>(tile) * kTileBytes;
        piece.a_stride = 16 * row_bytes;
        piece.num_tiles = num_k_tiles - tile < kPieceTiles ? num_k_tiles - tile : kPieceTiles;
        piece.is_first = tile == 0;
        load_weights(w, block, num_blocks, tile, scratch, &piece);
        add_piece<kIsBf16>(piece, scratch.partial, num_row_tiles);
      }
      write_tiles<kIsBf16>(w, x, y, block, num_blocks, first_row, num_rows, scratch.partial);
    }
  }
}

}  // namespace
}  // namespace autoglm
