// What this machine can do at best, measured: the limits that a profile compares steps with.
#pragma once

#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace autoglm {

struct Limits {
  double read_bytes_per_s = 0.0;  // from memory, all threads together
  double operations_per_s = 0.0;  // of gemm(), operands in the caches, all threads together
};

// Takes about a second and 256 MiB. The arithmetic limit is that of the path's kernel for `weights`
// with one plane of activations, which may lie below what the processor could do; int4 and int3
// count as int8, into which they are unpacked. Throws std::bad_alloc.
Limits measure_limits(const Kernels& kernels, WeightType weights, ThreadPool& pool);

}  // namespace autoglm
