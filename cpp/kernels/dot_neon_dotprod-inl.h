// The inner loops of the path that has sdot and no smmla.
#pragma once

#include "kernels/dot_neon_sdot-inl.h"

namespace autoglm {
namespace {

constexpr int kMostRows = 4;

// Registers of four weight rows that so many rows of codes meet at a time.
constexpr int byte_quads(int) { return 4; }
constexpr int code_quads(int rows) { return rows > 2 ? 2 : 4; }

template <int kRows, int kQuads>
inline void add_dots(const int8_t* bytes, size_t stride, int num_lines,
                     const int8_t* const (&codes)[kRows], int32x4_t (&sums)[kRows][kQuads]) {
  sdot_columns(bytes, stride, num_lines, codes, sums);
}

template <WeightType kType, int kRows, int kQuads>
inline void dot_pair(const uint8_t* pair, const int8_t* const (&codes)[kRows],
                     int32x4_t (&low)[kRows][kQuads], int32x4_t (&high)[kRows][kQuads]) {
  sdot_pair<kType>(pair, codes, low, high);
}

}  // namespace
}  // namespace autoglm
