// Integer dots of attention on AMX tiles: one tile holds a plane of all 16 rows. Rows that are not
// in use hold stale codes; their dots are not read.
#pragma once

#include <immintrin.h>

#include "kernels/amx_tiles-inl.h"
#include "kernels/attention_i8_state.h"

namespace autoglm {
namespace {

// Sums of two 16-column tiles, planes beside each other.
struct PlaneSums {
  alignas(64) int32_t high[2][16][16];
  alignas(64) int32_t low[2][16][16];
};

inline void zero_plane_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

inline void store_plane_sums(PlaneSums* sums) {
  _tile_stored(0, sums->high[0], 64);
  _tile_stored(1, sums->low[0], 64);
  _tile_stored(2, sums->high[1], 64);
  _tile_stored(3, sums->low[1], 64);
}

void dot_keys(const Int8AttentionState& state, const KeyBlock& block) {
  const TileScope tiles;
  const size_t plane = static_cast<size_t>(kAttentionRows) * state.key_dim;
  PlaneSums sums;
  for (int page = 0; page < block.num_pages; ++page) {
    for (int t = 0; t < kPageTokens; t += 32) {
      zero_plane_sums();
      for (int d = 0; d < state.key_dim; d += 64) {
        const int8_t* keys = block.keys[page] + d * kPageTokens + t * 4;
        _tile_loadd(4, state.query_codes + d, state.key_dim);
        _tile_loadd(6, keys, 4 * kPageTokens);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(5, state.query_codes + plane + d, state.key_dim);
        _tile_dpbssd(1, 5, 6);
        _tile_loadd(7, keys + 64, 4 * kPageTokens);
        _tile_dpbssd(2, 4, 7);
        _tile_dpbssd(3, 5, 7);
      }
      store_plane_sums(&sums);
      for (int r = 0; r < state.num_rows; ++r) {
        float* out = state.scores + r * kKeyBlock + page * kPageTokens + t;
        for (int half = 0; half < 2; ++half) {
          _mm512_storeu_si512(out + 16 * half,
                              combine_query_dots(_mm512_load_si512(sums.high[half][r]),
                                                 _mm512_load_si512(sums.low[half][r])));
        }
      }
    }
  }
}

void dot_values(const Int8AttentionState& state, const KeyBlock& block) {
  const TileScope tiles;
  constexpr size_t kPlane = static_cast<size_t>(kAttentionRows) * kKeyBlock;
  PlaneSums sums;
  for (int d = 0; d < state.value_dim; d += 32) {
    const int num_tiles = state.value_dim - d >= 32 ? 2 : 1;
    zero_plane_sums();
    for (int page = 0; page < block.num_pages; ++page) {
      const int8_t* values = block.values[page] + d * 4;
      const int8_t* codes = state.weight_codes + page * kPageTokens;
      _tile_loadd(4, codes, kKeyBlock);
      _tile_loadd(6, values, 4 * state.value_dim);
      _tile_dpbusd(0, 4, 6);
      _tile_loadd(5, codes + kPlane, kKeyBlock);
      _tile_dpbusd(1, 5, 6);
      if (num_tiles == 1) continue;
      _tile_loadd(7, values + 64, 4 * state.value_dim);
      _tile_dpbusd(2, 4, 7);
      _tile_dpbusd(3, 5, 7);
    }
    store_plane_sums(&sums);
    for (int r = 0; r < state.num_rows; ++r) {
      for (int i = 0; i < num_tiles; ++i) {
        _mm512_storeu_si512(state.value_dots + r * state.value_dim + d + 16 * i,
                            combine_weight_dots(_mm512_load_si512(sums.high[i][r]),
                                                _mm512_load_si512(sums.low[i][r])));
      }
    }
  }
}

}  // namespace
}  // namespace autoglm
