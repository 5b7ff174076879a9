// Keeps the process alive when pages of a mapped file are gone: the file was cut, or its disk
// fails.
//
// A SIGBUS inside a guarded range puts zeros in place of the range from that page on and marks it;
// the reader goes on and finds the mark later. Any other SIGBUS goes to the handler that was
// installed before, which is also what happens to ours when somebody installs one after us.
#pragma once

#include <cstddef>

namespace autoglm {

struct GuardedRange;

class BusGuard {
 public:
  // Guards [begin, begin + size), a mapping that begins at a page.
  BusGuard(const void* begin, size_t size);
  ~BusGuard();
  BusGuard(BusGuard&& other) noexcept;
  BusGuard(const BusGuard&) = delete;
  BusGuard& operator=(const BusGuard&) = delete;
  BusGuard& operator=(BusGuard&&) = delete;

  // Whether a page was found missing. Its reader must not use what it read.
  bool has_faulted() const;

 private:
  GuardedRange* range_;
};

}  // namespace autoglm
