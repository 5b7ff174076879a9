// Rounds one row of weights to integer codes.
#pragma once

#include <cstdint>
#include <span>

namespace autoglm {

// Symmetric int8: w ~ scale * code, code in -127..127. Returns scale; n is a multiple of 16.
float quantize_row_int8(const float* row, int n, int8_t* codes);

// How quantize_row_int4 rounds: codes of 4 bits, or of 3 in the same nibbles, and how much the
// squared error of each column counts (empty: all the same).
struct Int4Options {
  int bits = 4;
  std::span<const float> importance = {};
};

// Two-level int4 (QServe, arXiv 2405.04532): w ~ scale * group_scale[g] * (nibble - 8) with integer
// group scales 1..16 over groups of 64; both levels are chosen by squared error. Returns scale; n
// is a multiple of 64.
float quantize_row_int4(const float* row, int n, uint8_t* nibbles, uint8_t* group_scale,
                        const Int4Options& options = {});

}  // namespace autoglm
