#include "kernels/sparse.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/cpu_features.h"

namespace autoglm::sparse {
namespace {

constexpr int kUnit = 64;  // codes that share a mask: 16 rows of 4 columns

void expand_block(const PackedMatrix& w, int block, int8_t* out) {
  Units units(w, block);
  for (int k = 0; k < w.padded_cols; k += 4) units.next(out + static_cast<size_t>(k) * kRowBlock);
}

}  // namespace

Units::Units(const PackedMatrix& w, int block)
    : masks_(w.mask + static_cast<size_t>(block) * (w.padded_cols / 4)),
      codes_(reinterpret_cast<const int8_t*>(w.weight) +
             static_cast<size_t>(block) * sparse_capacity(w.padded_cols)),
      last_(sparse_most_codes(w.padded_cols)) {}

void Units::next(int8_t* out) {
  std::memset(out, 0, kUnit);
  uint64_t mask = *masks_++;
  const int8_t* from = codes_ + std::min(at_, last_);
  at_ += std::popcount(mask);
  for (; mask != 0; mask &= mask - 1) out[std::countr_zero(mask)] = *from++;
}

int compress_block(const int8_t* dense, int padded_cols, uint64_t* masks, int8_t* codes) {
  const int num_codes = kRowBlock * padded_cols;
  const int num_kept = static_cast<int>(
      std::count_if(dense, dense + num_codes, [](int8_t code) { return code != 0; }));
  if (num_kept > sparse_most_codes(padded_cols)) return num_kept;
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
  std::fill(to, codes + sparse_capacity(padded_cols), int8_t{0});
  return num_kept;
}

const Methods& methods(bool may_use_avx512) {
  static constexpr Methods kPortable = {expand_block, nullptr};
#if defined(__x86_64__)
  static constexpr Methods kVbmi2 = {expand_block_vbmi2, dot_block_vbmi2};
  if (may_use_avx512 && cpu_features().avx512_vbmi2) return kVbmi2;
#else
  static_cast<void>(may_use_avx512);
#endif
  return kPortable;
}

}  // namespace autoglm::sparse
