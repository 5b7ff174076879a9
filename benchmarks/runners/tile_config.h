// Included before every source of llama.cpp: gcc 12 declares too little memory of the tile
// configuration as read, drops the stores to the rest, and the program ends at ldtilecfg.
#pragma once

#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

static inline void load_whole_tile_config(const void* config) {
  asm volatile("" ::"r"(config) : "memory");
  _tile_loadconfig(config);
}
#define _tile_loadconfig load_whole_tile_config
#endif
