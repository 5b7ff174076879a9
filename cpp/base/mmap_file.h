// A read-only memory-mapped file that notices when the file changes or cannot be read any more.
#pragma once

#include <ctime>
#include <optional>
#include <string>

#include "base/bus_guard.h"

namespace autoglm {

class MmapFile {
 public:
  // Maps the whole file; throws Error(kIoError) with the path when it cannot.
  explicit MmapFile(const std::string& path);
  ~MmapFile();
  MmapFile(MmapFile&& other) noexcept;
  MmapFile(const MmapFile&) = delete;
  MmapFile& operator=(const MmapFile&) = delete;
  MmapFile& operator=(MmapFile&&) = delete;

  // Pages that are gone read as zeros: what was computed counts once check_intact() has passed.
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }
  // Of the mapped file, whatever has become of its path.
  int descriptor() const { return descriptor_; }

  // Asks for large pages where the file is not in memory yet: fewer address translations, for the
  // price of reading 2 MiB around the first byte that is touched.
  void prefer_large_pages() const;

  // Throws Error(kIoError) when the file was cut, written to or unreadable since it was mapped.
  void check_intact() const;

 private:
  std::string path_;
  int descriptor_ = -1;
  timespec modified_ = {};
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::optional<BusGuard> guard_;
};

}  // namespace autoglm
