// Sparse weights for products on AMX tiles: codes are expanded piece by piece into a panel in the
// first-level cache.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "kernels/amx_tiles-inl.h"
#include "kernels/kernels.h"
#include "kernels/sparse.h"

namespace autoglm {
namespace {

// Walks the weights of all block pairs piece by piece, as WeightFeed does. Codes are expanded at
// once, and the lines of the piece after it are fetched while the products run: fetched while they
// are expanded, they would come too late and hold up the activations.
class SparseFeed {
 public:
  // `next_block` is the first that will be walked after these.
  SparseFeed(const PackedMatrix& w, int block_begin, int block_end, int next_block,
             std::byte* panels)
      : w_(w),
        expand_(sparse::methods(kSparseIsa).expand_near),
        block_(block_begin),
        block_end_(block_end),
        next_block_(next_block),
        num_k_tiles_(w.padded_cols * kRowBlock / kTileBytes),
        panels_(panels) {
    begin_blocks();
  }

  // Makes the next piece ready. `num_products` tile products will hide the fetching.
  WeightPiece next(int num_products) {
    WeightPiece piece;
    piece.num_tiles = std::min(num_k_tiles_ - tile_, kPieceTiles);
    piece.columns = nullptr;
    for (int b = 0; b < 2; ++b) {
      std::byte* panel = panels_ + b * kPanelBytes;
      sparse::Cursor cursor = cursors_[b];  // a copy, so that the feed may stay in registers
      expand_(&cursor, piece.num_tiles * kTileUnits, reinterpret_cast<int8_t*>(panel));
      cursors_[b] = cursor;
      piece.tiles[b] = panel;
    }
    tile_ += piece.num_tiles;
    if (tile_ == num_k_tiles_) {
      tile_ = 0;
      block_ += 2;
      if (block_ >= block_end_) {
        block_ = next_block_;
        block_end_ = w_.padded_rows / kRowBlock;
      }
      begin_blocks();
    }
    plan_fetch();
    credit_ = 0;
    num_products_ = num_products;
    return piece;
  }

  int num_k_tiles() const { return num_k_tiles_; }

  // To be called once a product.
  void fetch() {
    for (credit_ += num_lines_; credit_ >= num_products_; credit_ -= num_products_) {
      const auto& from = line_ < num_mask_lines_ ? masks_ : codes_;
      _mm_prefetch(from[0] + line_ * 64, _MM_HINT_T1);
      _mm_prefetch(from[1] + line_ * 64, _MM_HINT_T1);
      ++line_;
    }
  }

 private:
  static constexpr int kTileUnits = kTileBytes / sparse::kUnit;

  // The second block of the last pair of an odd number repeats the first; its sums are not used.
  void begin_blocks() {
    if (block_ >= block_end_) return;
    cursors_[0] = sparse::first_unit(w_, block_);
    cursors_[1] = sparse::first_unit(w_, std::min(block_ + 1, block_end_ - 1));
  }

  // As many codes as the piece holds when blocks are full and even, and the line behind them.
  void plan_fetch() {
    line_ = 0;
    num_lines_ = 0;
    if (block_ >= block_end_) return;
    const int num_tiles = std::min(num_k_tiles_ - tile_, kPieceTiles);
    const int num_codes = cursors_[0].last * num_tiles / num_k_tiles_;
    num_mask_lines_ = num_tiles * kTileUnits * static_cast<int>(sizeof(uint64_t)) / 64;
    num_lines_ = num_mask_lines_ + num_codes / 64 + 2;
    for (int b = 0; b < 2; ++b) {
      const sparse::Cursor& cursor = cursors_[b];
      masks_[b] = reinterpret_cast<const char*>(cursor.masks + cursor.unit);
      codes_[b] = reinterpret_cast<const char*>(cursor.codes + cursor.at) - 64 * num_mask_lines_;
    }
  }

  const PackedMatrix& w_;
  void (*const expand_)(sparse::Cursor* cursor, int num_units, int8_t* out);
  int block_;
  int block_end_;
  const int next_block_;
  const int num_k_tiles_;
  std::byte* const panels_;
  sparse::Cursor cursors_[2];
  int tile_ = 0;
  // Lines of the masks, then those of the codes, which are counted on.
  const char* masks_[2] = {};
  const char* codes_[2] = {};
  int line_ = 0;
  int num_mask_lines_ = 0;
  int num_lines_ = 0;
  int credit_ = 0;
  int num_products_ = 1;
};

}  // namespace
}  // namespace autoglm
