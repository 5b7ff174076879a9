#include "kernels/sparse.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/cpu_features.h"

namespace autoglm::sparse {

Cursor first_unit(const PackedMatrix& w, int block) {
  return {.masks = w.mask + static_cast<size_t>(block) * (w.padded_cols / 4),
          .codes = reinterpret_cast<const int8_t*>(w.weight) +
                   block * row_block_bytes(w.type, w.padded_cols),
          .num_units = w.padded_cols / 4,
          .last = sparse_most_codes(w.type, w.padded_cols)};
}

void expand_units(Cursor* cursor, int num_units, int8_t* out) {
  std::memset(out, 0, static_cast<size_t>(num_units) * kUnit);
  for (int unit = 0; unit < num_units; ++unit, out += kUnit) {
    uint64_t mask = cursor->masks[cursor->unit++];
    const int8_t* from = cursor->codes + std::min(cursor->at, cursor->last);
    cursor->at += std::popcount(mask);
    for (; mask != 0; mask &= mask - 1) out[std::countr_zero(mask)] = *from++;
  }
}

int compress_block(WeightType type, const int8_t* dense, int padded_cols, uint64_t* masks,
                   int8_t* codes) {
  const int num_codes = kRowBlock * padded_cols;
  const int num_kept = static_cast<int>(
      std::count_if(dense, dense + num_codes, [](int8_t code) { return code != 0; }));
  if (num_kept > sparse_most_codes(type, padded_cols)) return num_kept;
  int8_t* to = codes;
  for (int unit = 0; unit < padded_cols / 4; ++unit) {
    uint64_t mask = 0;
    for (int i = 0; i < kUnit; ++i) {
      const int8_t code = dense[unit * kUnit + i];
      if (code == 0) continue;
      mask |= uint64_t{1} << i;
      *to++ = code;
    }
    masks[unit] = mask;
  }
  std::fill(to, codes + sparse_capacity(type, padded_cols), int8_t{0});
  return num_kept;
}

const Methods& methods(Isa isa) {
  static constexpr Methods kPortable = {expand_units, expand_units, nullptr};
#if defined(__x86_64__)
  static constexpr Methods kAvx2 = {expand_units_avx2, expand_units_avx2, nullptr};
  static constexpr Methods kVbmi2 = {expand_units_vbmi2, expand_near_vbmi2, dot_vbmi2};
  const bool is_wide = isa == Isa::kAvx512 || isa == Isa::kAmx;
  if (is_wide && cpu_features().avx512_vbmi2) return kVbmi2;
  if (isa != Isa::kScalar) return kAvx2;
#elif defined(__aarch64__)
  static constexpr Methods kNeon = {expand_units_neon, expand_units_neon, nullptr};
  if (isa != Isa::kScalar) return kNeon;
#else
  static_cast<void>(isa);
#endif
  return kPortable;
}

}  // namespace autoglm::sparse
