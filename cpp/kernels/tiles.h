// Int8 weights of which whole tiles are zero, 32 rows by 64 columns: only those that are not are
// stored, and products leave out the columns of the others.
//
// Masks may come from a file that changes: no tile outside the matrix is named, whatever they say.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace autoglm::tiles {

inline constexpr int kCols = 64;
inline constexpr int kBlockBytes = kRowBlock * kCols;  // of a tile in one row block
inline constexpr int kMostCols = 16384;
inline constexpr int kMostTiles = tile_capacity(kMostCols);

// Writes what is not zero of a pair of row blocks in the I8 layout, the second `block_bytes` after
// the first, or of one at the end of a matrix. Returns how many tiles there are; when they are more
// than the pair has room for, what is written is not all.
int compress_pair(const int8_t* dense, int num_blocks, int padded_cols, uint64_t* mask,
                  int8_t* codes);

// The column tiles of the stored tiles of a row block, tile_capacity() of them. Room that is not
// used holds zeros and stands for the first column tile.
void find_stored(const PackedMatrix& w, int block, uint16_t (&columns)[kMostTiles]);

// The stored codes of a row block: tiles in the I8 layout, one after the other.
const int8_t* stored_codes(const PackedMatrix& w, int block);

}  // namespace autoglm::tiles
