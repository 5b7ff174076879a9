// Sparse codes eight at a time: for every byte of a mask, where its codes come from.
#pragma once

#include <cstdint>

#include "kernels/sparse.h"

namespace autoglm::sparse {
namespace {

struct alignas(64) MaskBytes {
  uint8_t source[256][8];  // which of the next codes, or 255 where none is stored
  uint8_t count[256];
};

constexpr MaskBytes mask_bytes() {
  MaskBytes result{};
  for (int byte = 0; byte < 256; ++byte) {
    for (int i = 0; i < 8; ++i) {
      const bool is_stored = (byte >> i & 1) != 0;
      result.source[byte][i] = is_stored ? result.count[byte]++ : 255;
    }
  }
  return result;
}

constexpr MaskBytes kMaskBytes = mask_bytes();
constexpr int kPrefetchBytes = 2048;

// `place` writes the eight codes of a source to their places.
template <typename Place>
inline void expand_bytes(Cursor* cursor, int num_units, int8_t* out, const Place& place) {
  for (int unit = 0; unit < num_units; ++unit) {
    const uint64_t* masks = cursor->masks + cursor->unit++;
    uint64_t mask = *masks;
    const int8_t* begin = cursor->codes + (cursor->at < cursor->last ? cursor->at : cursor->last);
    __builtin_prefetch(reinterpret_cast<const char*>(masks) + kPrefetchBytes);
    __builtin_prefetch(begin + kPrefetchBytes);
    const int8_t* from = begin;
    for (int i = 0; i < kUnit; i += 8, mask >>= 8, out += 8) {
      const int byte = mask & 255;
      place(from, kMaskBytes.source[byte], out);
      from += kMaskBytes.count[byte];
    }
    cursor->at += static_cast<int>(from - begin);
  }
}

}  // namespace
}  // namespace autoglm::sparse
