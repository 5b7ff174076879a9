// A read-only memory-mapped file.
#pragma once

#include <cstddef>
#include <string>

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

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace autoglm
