#include "base/mmap_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace autoglm {
namespace {

[[noreturn]] void throw_io(const std::string& path, const char* what) {
  throw Error(kIoError, path + ": cannot " + what + ": " + std::strerror(errno));
}

}  // namespace

MmapFile::MmapFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw_io(path, "open");
  struct stat info{};
  if (fstat(fd, &info) != 0 || info.st_size <= 0) {
    if (info.st_size <= 0) errno = ENODATA;
    const int saved = errno;
    close(fd);
    errno = saved;
    throw_io(path, "map");
  }
  size_ = static_cast<size_t>(info.st_size);
  void* mapped = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
  const int saved = errno;
  close(fd);
  errno = saved;
  if (mapped == MAP_FAILED) throw_io(path, "map");
  data_ = static_cast<const std::byte*>(mapped);
}

MmapFile::~MmapFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

MmapFile::MmapFile(MmapFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

}  // namespace autoglm
