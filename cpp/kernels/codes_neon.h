// Codes of int4 and int3 in NEON registers: where the bits of a pair of groups lie in its lines.
#pragma once

#include <arm_neon.h>

#include <type_traits>

#include "kernels/kernels.h"
#include "kernels/vec_neon.h"

namespace autoglm {
namespace {

// Four columns of four rows of both groups as they are stored, in one line, or in the bits that
// three lines of int3 have to spare.
template <WeightType kType, bool kIsSpare>
struct CodeLine {
  int8x16_t parts[kIsSpare ? 3 : 1];
};

// Of line 0 to 15 of a pair, from 4 * row bytes behind its first byte.
template <WeightType kType, bool kIsSpare>
inline CodeLine<kType, kIsSpare> load_line(const uint8_t* pair, int line) {
  CodeLine<kType, kIsSpare> out;
  const uint8_t* from = pair + (kIsSpare ? (line - kInt3Lines) * 192 : line * 64);
  AUTOGLM_UNROLL
  for (int i = 0; i < (kIsSpare ? 3 : 1); ++i) out.parts[i] = load_bytes(from + 64 * i);
  return out;
}

template <int kShift>
inline int8x16_t shift_right(int8x16_t bytes) {
  return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(bytes), kShift));
}

// Two bits below, a third from the lowest of `high`.
inline int8x16_t join_spare(int8x16_t below, int8x16_t high) {
  return vandq_s8(vsliq_n_s8(below, high, 2), vdupq_n_s8(7));
}

template <WeightType kType, bool kIsSpare>
inline int8x16_t low_codes(const CodeLine<kType, kIsSpare>& line) {
  if constexpr (kType == WeightType::kI4) return low_nibbles(line.parts[0]);
  if constexpr (kIsSpare) return join_spare(line.parts[0], line.parts[2]);
  return vandq_s8(shift_right<2>(line.parts[0]), vdupq_n_s8(7));
}

template <WeightType kType, bool kIsSpare>
inline int8x16_t high_codes(const CodeLine<kType, kIsSpare>& line) {
  if constexpr (kType == WeightType::kI4) return high_nibbles(line.parts[0]);
  if constexpr (kIsSpare) return join_spare(line.parts[1], shift_right<1>(line.parts[2]));
  return shift_right<5>(line.parts[0]);
}

// body(line, is_spare) for every `kStep`-th of the 16 lines, `is_spare` as a type.
template <WeightType kType, int kStep, typename Body>
inline void for_lines(const Body& body) {
  constexpr int kPlain = kType == WeightType::kI3 ? kInt3Lines : 16;
  for (int line = 0; line < kPlain; line += kStep) body(line, std::false_type());
  for (int line = kPlain; line < 16; line += kStep) body(line, std::true_type());
}

}  // namespace
}  // namespace autoglm
