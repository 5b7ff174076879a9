// Reads parts of a file past the page cache, so that memory holds what its owner decides.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/mmap_file.h"

namespace autoglm {

class DirectFile {
 public:
  // Of offsets, lengths and addresses: what the storage of today asks for at most.
  static constexpr size_t kAlignment = 4096;

  // The same file, even if its path leads to another one by now. `mapped` must outlive it.
  explicit DirectFile(const MmapFile& mapped);
  ~DirectFile();
  DirectFile(DirectFile&& other) noexcept;
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;
  DirectFile& operator=(DirectFile&&) = delete;

  // Fills `out` from `offset`, all aligned; the file may end inside it once `needed` bytes are
  // there. Callable from several threads. Throws Error(kIoError).
  void read(uint64_t offset, std::span<std::byte> out, size_t needed) const;

 private:
  const MmapFile& mapped_;
  int direct_ = -1;  // or -1 where the file system has no direct reads
};

}  // namespace autoglm
