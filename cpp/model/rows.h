// Rows of floats that a layer passes to the next, and how parallel loops over them are cut.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace autoglm {

// Rows of floats, an odd number of cache lines apart: with a power of two all rows of a column
// would share a few sets of the cache.
struct Rows {
  AlignedBuffer<float> buffer;
  int stride = 0;

  Rows() = default;
  Rows(int num_rows, int cols)
      : buffer(static_cast<size_t>(num_rows) * row_stride(cols)), stride(row_stride(cols)) {}
  static int row_stride(int cols) { return ((cols + 15) / 16 | 1) * 16; }
  float* operator[](int row) { return buffer.data() + static_cast<size_t>(row) * stride; }
};

inline constexpr int kPiecesPerThread = 16;    // of a loop, so that a slow core delays little
inline constexpr int kPreferredRowBlocks = 4;  // a GEMM kernel walks this many streams at once

// A product with many rows brings them into the cache anew for every piece of the loop.
inline constexpr int kPromptRows = 64;
inline constexpr int kPromptPiecesPerThread = 4;

// Whole groups of kPreferredRowBlocks when every thread gets one, always even for kSwiGlu.
inline int64_t block_grain(int64_t num_blocks, int num_threads, int num_rows = 1) {
  const int num_pieces = num_rows < kPromptRows ? kPiecesPerThread : kPromptPiecesPerThread;
  const int64_t share = num_blocks / (num_threads * num_pieces);
  if (num_blocks < kPreferredRowBlocks * num_threads) return 2;
  const int64_t least = std::max<int64_t>(share, 1);
  return (least + kPreferredRowBlocks - 1) / kPreferredRowBlocks * kPreferredRowBlocks;
}

// Calls body(row) for every row of [0, num_rows).
template <typename Body>
void for_rows(ThreadPool& pool, int num_rows, const Body& body) {
  const int64_t grain = std::max(1, num_rows / (pool.num_threads() * kPiecesPerThread));
  pool.parallel_for(num_rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int row = static_cast<int>(begin); row < end; ++row) body(row);
  });
}

}  // namespace autoglm
