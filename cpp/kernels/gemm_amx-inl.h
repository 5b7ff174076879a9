// GEMM on AMX tiles, int8 and bf16, over the layouts of kernels.h.
//
// A macro tile is 32 activation rows by 32 outputs (2 x 2 tiles). K is cut into pieces whose
// weights stay in the first-level cache; partial sums wait in scratch between them. The int32 sums
// are exact, the bf16 ones are added in the order of K whatever the range or the number of rows.
#pragma once

#include <immintrin.h>

#include "kernels/amx_tiles-inl.h"
#include "kernels/kernels.h"

namespace autoglm {
namespace {

constexpr int kPieceTiles = 8;      // K tiles of one piece
constexpr int kMaxTileRows = 1024;  // plane rows whose partial sums fit the scratch

// Both blocks of a pair, one piece of K: tiles ready for the products.
struct WeightPiece {
  const std::byte* tiles[2];
  int num_tiles;
};

// Walks the weights of all block pairs piece by piece and makes each piece ready while the products
// of the one before it run: int4 is unpacked into a panel in the first-level cache, the others are
// prefetched. Work comes in steps small enough to hide between tile products.
template <WeightType kType>
class WeightFeed {
 public:
  WeightFeed(const PackedMatrix& w, int block_begin, int block_end, std::byte* panels)
      : w_(w),
        block_(block_begin),
        block_end_(block_end),
        num_k_tiles_(static_cast<int>(row_block_bytes(w.type, w.padded_cols) *
                                      (kType == WeightType::kI4 ? 2 : 1) / kTileBytes)),
        panels_(panels) {
    begin_piece();
  }

  // Steps of the piece that is being made ready.
  int num_steps() const { return num_steps_; }

  void step() {
    if (step_ >= num_steps_) return;
    const int block = step_ / steps_per_block_, at = step_ % steps_per_block_;
    if constexpr (kType == WeightType::kI4) {
      unpack_step(block, at);
    } else {
      const std::byte* line = source(block) + at * kStepBytes;
      for (int i = 0; i < kStepBytes; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(line + i), _MM_HINT_T0);
      }
    }
    ++step_;
  }

  // Ends the piece that is being made ready, returns it and begins the next.
  WeightPiece next() {
    while (step_ < num_steps_) step();
    WeightPiece piece;
    piece.num_tiles = num_tiles_;
    for (int b = 0; b < 2; ++b) {
      piece.tiles[b] = kType == WeightType::kI4 ? panel(b) : source(b);
    }
    tile_ += num_tiles_;
    if (tile_ == num_k_tiles_) {
      tile_ = 0;
      block_ += 2;
    }
    is_second_ = !is_second_;
    begin_piece();
    return piece;
  }

 private:
  static constexpr int kStepBytes = 512;  // of tiles made ready by one step

  void begin_piece() {
    step_ = 0;
    num_steps_ = 0;
    if (block_ >= block_end_) return;
    const int rest = num_k_tiles_ - tile_;
    num_tiles_ = rest < kPieceTiles ? rest : kPieceTiles;
    steps_per_block_ = num_tiles_ * kTileBytes / kStepBytes;
    num_steps_ = 2 * steps_per_block_;
  }

  // The second block of the last pair of an odd number repeats the first; its sums are not used.
  int block_at(int b) const { return block_ + b < block_end_ ? block_ + b : block_; }
  const std::byte* source(int b) const {
    const std::byte* base = w_.weight + block_at(b) * row_block_bytes(w_.type, w_.padded_cols);
    return base + static_cast<size_t>(tile_) * (kType == WeightType::kI4 ? 512 : kTileBytes);
  }
  std::byte* panel(int b) const {
    return panels_ + ((is_second_ ? 2 : 0) + b) * kPieceTiles * kTileBytes;
  }

  // A quarter of a pair of tiles: 4 of its 16 rows, low and high nibbles.
  void unpack_step(int b, int at) {
    const int pair = at / 4, row = at % 4 * 4;
    const auto* weight = reinterpret_cast<const uint8_t*>(source(b)) + pair * 1024 + row * 64;
    const size_t group = static_cast<size_t>(block_at(b)) * (w_.padded_cols / kGroupSize) + tile_ +
                         static_cast<size_t>(2 * pair);
    unpack_rows<4>(weight, w_.group_scale + group * kRowBlock,
                   reinterpret_cast<int8_t*>(panel(b)) + pair * 2 * kTileBytes + row * 64);
    _mm_prefetch(reinterpret_cast<const char*>(weight + kPrefetchBytes), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(weight + kPrefetchBytes + 64), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(weight + kPrefetchBytes + 128), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(weight + kPrefetchBytes + 192), _MM_HINT_T0);
  }

  const PackedMatrix& w_;
  int block_;
  int block_end_;
  int num_k_tiles_;
  std::byte* panels_;
  int tile_ = 0;
  int num_tiles_ = 0;
  int step_ = 0;
  int num_steps_ = 0;
  int steps_per_block_ = 1;
  bool is_second_ = false;
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

// Adds the products of one piece of K to the partial sums of all row tiles. `a` is the first tile
// of the first row tile, row tiles are `a_stride` bytes apart.
template <bool kIsBf16, typename Feed>
inline void add_piece(const WeightPiece& piece, const std::byte* a, size_t a_stride, bool is_first,
                      int num_row_tiles, std::byte* partial, Feed& feed) {
  const int num_products = (num_row_tiles + 1) / 2 * piece.num_tiles;
  const int num_steps = feed.num_steps();
  int credit = 0;
  for (int i = 0; i < num_row_tiles; i += 2) {
    const std::byte* a0 = a + i * a_stride;
    const std::byte* a1 = a0 + a_stride;
    std::byte* sums = partial + static_cast<size_t>(i) * 2 * kTileBytes;
    const int num_tiles = num_row_tiles - i < 2 ? 1 : 2;
    load_sums(sums, num_tiles, is_first);
    for (int t = 0; t < piece.num_tiles; ++t) {
      const int at = t * kTileBytes;
      _tile_loadd(6, piece.tiles[0] + at, 64);
      _tile_loadd(4, a0 + at, 64);
      _tile_loadd(7, piece.tiles[1] + at, 64);
      dot_first_row_tile<kIsBf16>();
      if (num_tiles == 2) {
        _tile_loadd(5, a1 + at, 64);
        dot_second_row_tile<kIsBf16>();
      }
      for (credit += num_steps; credit >= num_products; credit -= num_products) feed.step();
    }
    store_sums(sums, num_tiles);
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

template <WeightType kType>
void gemm_tiles(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
                int block_end, std::byte* scratch) {
  constexpr bool kIsBf16 = kType == WeightType::kBF16;
  const TileScope tiles;
  std::byte* partial = scratch + 4 * kPieceTiles * kTileBytes;
  const size_t row_bytes = static_cast<size_t>(x.padded_cols) * (kIsBf16 ? 2 : 1);
  const int num_k_tiles = static_cast<int>(row_bytes / 64);
  const int rows_at_once = kMaxTileRows / x.planes;
  for (int first_row = 0; first_row < x.rows; first_row += rows_at_once) {
    const int num_rows = x.rows - first_row < rows_at_once ? x.rows - first_row : rows_at_once;
    const int num_row_tiles = (num_rows * x.planes + 15) / 16;
    const std::byte* a = static_cast<const std::byte*>(x.data) +
                         static_cast<size_t>(first_row) * x.planes * row_bytes;
    WeightFeed<kType> feed(w, block_begin, block_end, scratch);
    for (int block = block_begin; block < block_end; block += 2) {
      for (int tile = 0; tile < num_k_tiles;) {
        const WeightPiece piece = feed.next();
        add_piece<kIsBf16>(piece, a + static_cast<size_t>(tile) * kTileBytes, 16 * row_bytes,
                           tile == 0, num_row_tiles, partial, feed);
        tile += piece.num_tiles;
      }
      const int num_blocks = block + 1 < block_end ? 2 : 1;
      write_tiles<kIsBf16>(w, x, y, block, num_blocks, first_row, num_rows, partial);
    }
  }
}

}  // namespace
}  // namespace autoglm
