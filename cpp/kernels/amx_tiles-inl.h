// What AMX kernels share: the tile configuration, and the pieces that weights come in.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace autoglm {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileBytes = 1024;  // 16 rows of 64 bytes
constexpr int kPieceTiles = 8;    // K tiles of one piece
constexpr int kPanelBytes = kPieceTiles * kTileBytes;

// Both blocks of a pair, one piece of K: tiles ready for the products.
struct WeightPiece {
  const std::byte* tiles[2];
  int num_tiles;
  const uint16_t* columns;  // of the tiles of B8, in tiles
};

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tile registers 0-3 sums, 4-5 activations, 6-7 weights, all 16 x 64 bytes. The configuration
// belongs to the thread; loading it again costs a few nanoseconds and keeps the kernel free of
// state.
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

}  // namespace
}  // namespace autoglm
