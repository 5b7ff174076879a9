#include "kernels/tiles.h"

#include <algorithm>
#include <bit>

namespace autoglm::tiles {
namespace {

bool is_zero(const int8_t* tile) {
  return std::all_of(tile, tile + kBlockBytes, [](int8_t code) { return code == 0; });
}

}  // namespace

int compress_pair(const int8_t* dense, int num_blocks, int padded_cols, uint64_t* mask,
                  int8_t* codes) {
  const size_t block_bytes = static_cast<size_t>(kRowBlock) * padded_cols;
  const int num_tiles = padded_cols / kCols, capacity = tile_capacity(padded_cols);
  int num_stored = 0;
  std::fill_n(mask, tile_mask_words(padded_cols), uint64_t{0});
  for (int t = 0; t < num_tiles; ++t) {
    const int8_t* tile = dense + static_cast<size_t>(t) * kBlockBytes;
    if (is_zero(tile) && (num_blocks == 1 || is_zero(tile + block_bytes))) continue;
    mask[t / 64] |= uint64_t{1} << (t % 64);
    for (int b = 0; b < num_blocks && num_stored < capacity; ++b) {
      std::copy_n(tile + b * block_bytes, kBlockBytes,
                  codes + (static_cast<size_t>(b) * capacity + num_stored) * kBlockBytes);
    }
    ++num_stored;
  }
  for (int b = 0; b < num_blocks && num_stored < capacity; ++b) {
    std::fill_n(codes + (static_cast<size_t>(b) * capacity + num_stored) * kBlockBytes,
                (capacity - num_stored) * kBlockBytes, int8_t{0});
  }
  return num_stored;
}

void find_stored(const PackedMatrix& w, int block, uint16_t (&columns)[kMostTiles]) {
  const int num_words = tile_mask_words(w.padded_cols), capacity = tile_capacity(w.padded_cols);
  const int num_tiles = w.padded_cols / kCols;
  const uint64_t* mask = w.mask + static_cast<size_t>(block / 2) * num_words;
  int found = 0;
  for (int word = 0; word < num_words; ++word) {
    for (uint64_t bits = mask[word]; bits != 0 && found < capacity; bits &= bits - 1) {
      const int tile = word * 64 + std::countr_zero(bits);
      columns[found++] = static_cast<uint16_t>(std::min(tile, num_tiles - 1));
    }
  }
  std::fill(columns + found, columns + capacity, uint16_t{0});
}

const int8_t* stored_codes(const PackedMatrix& w, int block) {
  return reinterpret_cast<const int8_t*>(w.weight) + block * row_block_bytes(w.type, w.padded_cols);
}

}  // namespace autoglm::tiles
