// Integer dots of attention on AMX tiles: one tile holds a plane of all 16 rows. Rows that are not
// in use hold stale codes; their dots are not read.
#pragma once

#include <immintrin.h>

#include "kernels/amx_tiles-inl.h"
#include "kernels/attention_i8_state.h"

namespace autoglm {
namespace {

using DotScope = TileScope;

constexpr int kPlaneFloats = kAttentionRows * 16;  // of a tile; the low plane follows the high

// Planes are combined when they are read: right after the tile was stored that would wait for the
// store.
template <typename Combine>
inline F32x16 load_plane_dots(const float* dots, const Combine& combine) {
  return {
      _mm512_cvtepi32_ps(combine(_mm512_load_si512(dots), _mm512_load_si512(dots + kPlaneFloats)))};
}
template <int kPlanes>
inline F32x16 load_key_dots(const float* dots) {
  if constexpr (kPlanes == 1) return {_mm512_cvtepi32_ps(_mm512_load_si512(dots))};
  return load_plane_dots(dots, combine_query_dots);
}
inline F32x16 load_value_dots(const float* dots) {
  return load_plane_dots(dots, combine_weight_dots);
}

inline void zero_plane_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Both planes of one or two tiles.
inline void store_plane_sums(float* tiles, int num_tiles) {
  _tile_stored(0, tiles, 64);
  _tile_stored(1, tiles + kPlaneFloats, 64);
  if (num_tiles == 1) return;
  _tile_stored(2, tiles + kDotTileFloats, 64);
  _tile_stored(3, tiles + kDotTileFloats + kPlaneFloats, 64);
}

// 32 keys at a time with both planes of the queries.
void dot_keys_two_planes(const Int8AttentionState& state, const int8_t* page) {
  const size_t plane = static_cast<size_t>(kAttentionRows) * state.key_dim;
  for (int t = 0; t < kPageTokens; t += 32) {
    zero_plane_sums();
    for (int d = 0; d < state.key_dim; d += 64) {
      const int8_t* keys = page + d * kPageTokens + t * 4;
      _tile_loadd(4, state.query_codes + d, state.key_dim);
      _tile_loadd(6, keys, 4 * kPageTokens);
      _tile_dpbssd(0, 4, 6);
      _tile_loadd(5, state.query_codes + plane + d, state.key_dim);
      _tile_dpbssd(1, 5, 6);
      _tile_loadd(7, keys + 64, 4 * kPageTokens);
      _tile_dpbssd(2, 4, 7);
      _tile_dpbssd(3, 5, 7);
    }
    store_plane_sums(dot_tile_row(state.dots, 0, t), 2);
  }
}

// A page at once with the low plane, which holds the codes where the high one is not needed.
void dot_keys_one_plane(const Int8AttentionState& state, const int8_t* page) {
  const int8_t* codes = state.query_codes + static_cast<size_t>(kAttentionRows) * state.key_dim;
  zero_plane_sums();
  for (int d = 0; d < state.key_dim; d += 64) {
    const int8_t* keys = page + d * kPageTokens;
    _tile_loadd(4, codes + d, state.key_dim);
    _tile_loadd(5, keys, 4 * kPageTokens);
    _tile_dpbssd(0, 4, 5);
    _tile_loadd(6, keys + 64, 4 * kPageTokens);
    _tile_dpbssd(1, 4, 6);
    _tile_loadd(7, keys + 128, 4 * kPageTokens);
    _tile_dpbssd(2, 4, 7);
    _tile_loadd(5, keys + 192, 4 * kPageTokens);
    _tile_dpbssd(3, 4, 5);
  }
  float* tiles = dot_tile_row(state.dots, 0, 0);
  _tile_stored(0, tiles, 64);
  _tile_stored(1, tiles + kDotTileFloats, 64);
  _tile_stored(2, tiles + 2 * kDotTileFloats, 64);
  _tile_stored(3, tiles + 3 * kDotTileFloats, 64);
}

void dot_keys(const Int8AttentionState& state, const int8_t* page) {
  if (state.query_planes == 1) {
    dot_keys_one_plane(state, page);
  } else {
    dot_keys_two_planes(state, page);
  }
}

void dot_values(const Int8AttentionState& state, const KeyBlock& block) {
  constexpr size_t kPlane = static_cast<size_t>(kAttentionRows) * kKeyBlock;
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
    store_plane_sums(dot_tile_row(state.dots, 0, d), num_tiles);
  }
}

}  // namespace
}  // namespace autoglm
