// GEMM on AMX tiles, int8 and bf16, over the layouts of kernels.h.
//
// A macro tile is 32 activation rows by 32 outputs (2 x 2 tiles). K is cut into pieces whose
// weights stay in the first-level cache; partial sums wait in scratch between them. The int32 sums
// are exact, the bf16 ones are added in the order of K whatever the range or the number of rows.
// A few rows of int4, int3 and int8 have a kernel of their own: see gemm_few-inl.h.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#include "kernels/amx_tiles-inl.h"
#include "kernels/kernels.h"
#include "kernels/sparse_feed_amx-inl.h"
#include "kernels/tiles.h"

namespace autoglm {
namespace {

constexpr int kMaxTileRows = 1024;       // plane rows whose partial sums fit the scratch
constexpr size_t kRowsBytes = 1u << 20;  // of activations that stay in the second-level cache

// Walks the weights of all block pairs piece by piece. Int4 and int3 are unpacked into a panel in
// the first-level cache, at once: stores between tile loads would hold the loads up. The lines of
// the piece after it are fetched while the products run. Sparse weights have a feed of their own.
template <WeightType kType>
class WeightFeed {
 public:
  // `next_block` is the first that will be walked after these.
  WeightFeed(const PackedMatrix& w, int block_begin, int block_end, int next_block,
             std::byte* panels)
      : w_(w),
        block_(block_begin),
        block_end_(block_end),
        next_block_(next_block),
        num_k_tiles_(kType == WeightType::kB8 ? tile_capacity(w.padded_cols)
                                              : w.padded_cols / kTileColumns),
        panels_(panels) {}

  // Makes the next piece ready. `num_products` tile products will hide the fetching.
  WeightPiece next(int num_products) {
    if constexpr (kType == WeightType::kB8) {
      if (tile_ == 0) tiles::find_stored(w_, block_, columns_);
    }
    WeightPiece piece;
    piece.columns = columns_ + tile_;
    piece.num_tiles = std::min(num_k_tiles_ - tile_, kPieceTiles);
    for (int b = 0; b < 2; ++b) {
      if constexpr (is_grouped(kType)) {
        piece.tiles[b] = unpack(b, piece.num_tiles);
      } else {
        piece.tiles[b] = source(b);
      }
    }
    tile_ += piece.num_tiles;
    if (tile_ == num_k_tiles_) {
      tile_ = 0;
      block_ += 2;
      if (block_ >= block_end_) {
        block_ = next_block_;
        block_end_ = w_.padded_rows / kRowBlock;
      }
    }
    num_lines_ = 0;
    if (block_ < block_end_) {
      num_lines_ = std::min(num_k_tiles_ - tile_, kPieceTiles) * kStoredTileBytes / 64;
      ahead_[0] = source(0);
      ahead_[1] = source(1);
    }
    line_ = 0;
    credit_ = 0;
    num_products_ = num_products;
    return piece;
  }

  int num_k_tiles() const { return num_k_tiles_; }

  // To be called once a product.
  void fetch() {
    for (credit_ += num_lines_; credit_ >= num_products_; credit_ -= num_products_) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead_[0] + line_ * 64), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(ahead_[1] + line_ * 64), _MM_HINT_T1);
      ++line_;
    }
  }

 private:
  static constexpr int kStoredTileBytes =
      is_grouped(kType) ? row_block_bytes(kType, 2 * kGroupSize) / 2 : kTileBytes;
  static constexpr int kTileColumns = kType == WeightType::kBF16 ? 32 : 64;

  // The second block of the last pair of an odd number repeats the first; its sums are not used.
  int block_at(int b) const { return block_ + b < block_end_ ? block_ + b : block_; }
  const std::byte* source(int b) const {
    const std::byte* base = w_.weight + block_at(b) * row_block_bytes(w_.type, w_.padded_cols);
    return base + static_cast<size_t>(tile_) * kStoredTileBytes;
  }

  const std::byte* unpack(int b, int num_tiles) {
    const auto* weight = reinterpret_cast<const uint8_t*>(source(b));
    const size_t group = static_cast<size_t>(block_at(b)) * (w_.padded_cols / kGroupSize) + tile_;
    const uint8_t* scales = w_.group_scale + group * kRowBlock;
    std::byte* panel = panels_ + b * kPanelBytes;
    for (int t = 0; t < num_tiles; t += 2) {
      unpack_pair<kType>(weight + t * kStoredTileBytes, scales + t * kRowBlock,
                         reinterpret_cast<int8_t*>(panel) + t * kTileBytes);
    }
    return panel;
  }

  const PackedMatrix& w_;
  int block_;
  int block_end_;
  int next_block_;
  int num_k_tiles_;
  std::byte* panels_;
  uint16_t columns_[tiles::kMostTiles];
  int tile_ = 0;
  const std::byte* ahead_[2] = {};
  int line_ = 0;
  int num_lines_ = 0;
  int credit_ = 0;
  int num_products_ = 1;
};

// Sums 0 and 1 += activations 4 x weights 6 and 7. Tile numbers must be literals.
template <bool kIsBf16>
inline void dot_first_row_tile() {
  if constexpr (kIsBf16) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
  } else {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
  }
}

// Sums 2 and 3 += activations 5 x weights 6 and 7.
template <bool kIsBf16>
inline void dot_second_row_tile() {
  if constexpr (kIsBf16) {
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  } else {
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
}

inline void load_sums(const std::byte* sums, int num_row_tiles, bool is_first) {
  if (is_first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    return;
  }
  _tile_loadd(0, sums, 64);
  _tile_loadd(1, sums + kTileBytes, 64);
  if (num_row_tiles == 1) return;
  _tile_loadd(2, sums + 2 * kTileBytes, 64);
  _tile_loadd(3, sums + 3 * kTileBytes, 64);
}

inline void store_sums(std::byte* sums, int num_row_tiles) {
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kTileBytes, 64);
  if (num_row_tiles == 1) return;
  _tile_stored(2, sums + 2 * kTileBytes, 64);
  _tile_stored(3, sums + 3 * kTileBytes, 64);
}

// What a piece of K adds to the sums of a macro tile. `a` is the first tile of the first row tile,
// for B8 of all K, row tiles are `a_stride` bytes apart.
template <WeightType kType, int kRowTiles, typename Feed>
inline void add_products(const WeightPiece& piece, const std::byte* a, size_t a_stride,
                         Feed& feed) {
  for (int t = 0; t < piece.num_tiles; ++t) {
    const int at = t * kTileBytes;
    const int a_at = kType == WeightType::kB8 ? piece.columns[t] * kTileBytes : at;
    _tile_loadd(6, piece.tiles[0] + at, 64);
    _tile_loadd(4, a + a_at, 64);
    _tile_loadd(7, piece.tiles[1] + at, 64);
    dot_first_row_tile<kType == WeightType::kBF16>();
    if constexpr (kRowTiles == 2) {
      _tile_loadd(5, a + a_stride + a_at, 64);
      dot_second_row_tile<kType == WeightType::kBF16>();
    }
    feed.fetch();
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

// Outputs of one pair of blocks from its finished sums.
template <bool kIsBf16, Epilogue kEpilogue>
inline void write_tiles(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
                        int num_blocks, int first_row, int num_rows, const std::byte* partial) {
  F32x16 scale[2];
  for (int b = 0; b < num_blocks && !kIsBf16; ++b) {
    scale[b] = load(w.scale + (block + b) * kRowBlock);
  }
  for (int m = 0; m < num_rows; ++m) {
    const int row = first_row + m;
    F32x16 values[2];
    for (int b = 0; b < num_blocks; ++b) {
      values[b] = finished_row<kIsBf16>(partial, x, m * x.planes, b);
      if constexpr (!kIsBf16) values[b] = values[b] * (scale[b] * splat(x.scale[row]));
    }
    if constexpr (kEpilogue == Epilogue::kSwiGlu) {
      write_outputs<kEpilogue>(w, y, row, block, values[0], values[1]);
    } else {
      for (int b = 0; b < num_blocks; ++b) {
        write_outputs<kEpilogue>(w, y, row, block + b, values[b], values[b]);
      }
    }
  }
}

template <bool kIsBf16>
inline void write_tiles(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
                        int num_blocks, int first_row, int num_rows, const std::byte* partial) {
  switch (y.epilogue) {
    case Epilogue::kStore:
      return write_tiles<kIsBf16, Epilogue::kStore>(w, x, y, block, num_blocks, first_row, num_rows,
                                                    partial);
    case Epilogue::kAdd:
      return write_tiles<kIsBf16, Epilogue::kAdd>(w, x, y, block, num_blocks, first_row, num_rows,
                                                  partial);
    case Epilogue::kSwiGlu:
      return write_tiles<kIsBf16, Epilogue::kSwiGlu>(w, x, y, block, num_blocks, first_row,
                                                     num_rows, partial);
  }
}

// Activation rows that are taken through all weights together.
inline int rows_at_once(const PackedRows& x, size_t row_bytes) {
  const size_t bytes = static_cast<size_t>(x.rows) * x.planes * row_bytes;
  const int most = kMaxTileRows / x.planes;
  const int num_parts =
      std::max(static_cast<int>((bytes + kRowsBytes - 1) / kRowsBytes), (x.rows + most - 1) / most);
  return std::min(round_up((x.rows + num_parts - 1) / num_parts, 32), most);
}

// Rows [first_row, first_row + num_rows) of the outputs, a whole number of row tiles except at the
// end. `next_block` is the first that will be asked for after these.
template <WeightType kType>
void gemm_row_tiles(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y,
                    int block_begin, int block_end, int next_block, int first_row, int num_rows,
                    std::byte* scratch) {
  constexpr bool kIsBf16 = kType == WeightType::kBF16;
  std::byte* finished = scratch + 2 * kPanelBytes;
  std::byte* partial = finished + 4 * kTileBytes;
  const size_t row_bytes = static_cast<size_t>(x.padded_cols) * (kIsBf16 ? 2 : 1);
  const int num_row_tiles = (num_rows * x.planes + 15) / 16;
  const int rows_per_macro = 32 / x.planes;
  const std::byte* a =
      static_cast<const std::byte*>(x.data) + static_cast<size_t>(first_row) * x.planes * row_bytes;
  using Feed = std::conditional_t<is_sparse(kType), SparseFeed, WeightFeed<kType>>;
  Feed feed(w, block_begin, block_end, next_block, scratch);
  const int num_k_tiles = feed.num_k_tiles();
  for (int block = block_begin; block < block_end; block += 2) {
    const int num_blocks = std::min(2, block_end - block);
    for (int tile = 0; tile < num_k_tiles;) {
      const WeightPiece piece =
          feed.next((num_row_tiles + 1) / 2 * std::min(num_k_tiles - tile, kPieceTiles));
      const bool is_first = tile == 0, is_last = tile + piece.num_tiles == num_k_tiles;
      for (int i = 0; i < num_row_tiles; i += 2) {
        const int num_tiles = std::min(2, num_row_tiles - i);
        const int row = i / 2 * rows_per_macro;
        const int rows = std::min(rows_per_macro, num_rows - row);
        const int first_tile = kType == WeightType::kB8 ? 0 : tile;
        const std::byte* from =
            a + (16 * i * row_bytes + static_cast<size_t>(first_tile) * kTileBytes);
        std::byte* sums = partial + static_cast<size_t>(i) * 2 * kTileBytes;
        load_sums(sums, num_tiles, is_first);
        if (num_tiles == 2) {
          add_products<kType, 2>(piece, from, 16 * row_bytes, feed);
        } else {
          add_products<kType, 1>(piece, from, 16 * row_bytes, feed);
        }
        store_sums(is_last ? finished : sums, num_tiles);
        if (is_last)
          write_tiles<kIsBf16>(w, x, y, block, num_blocks, first_row + row, rows, finished);
      }
      tile += piece.num_tiles;
    }
  }
}

template <WeightType kType>
void gemm_tiles(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
                int block_end, std::byte* scratch) {
  const TileScope tiles;
  const size_t row_bytes =
      static_cast<size_t>(x.padded_cols) * (kType == WeightType::kBF16 ? 2 : 1);
  const int step = rows_at_once(x, row_bytes);
  for (int row = 0; row < x.rows; row += step) {
    const int next_block = row + step < x.rows ? block_begin : block_end;
    gemm_row_tiles<kType>(w, x, y, block_begin, block_end, next_block, row,
                          std::min(step, x.rows - row), scratch);
  }
}

}  // namespace
}  // namespace autoglm
