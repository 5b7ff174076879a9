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

[[noreturn]] void throw_io(const std::string& path, const char* what, int error) {
  throw Error(kIoError, path + ": cannot " + what + ": " + std::strerror(error));
}

[[noreturn]] void close_and_throw(int descriptor, const std::string& path, int error) {
  close(descriptor);
  throw_io(path, "map", error);
}

}  // namespace

MmapFile::MmapFile(const std::string& path) : path_(path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw_io(path, "open", errno);
  struct stat info = {};
  if (fstat(descriptor, &info) != 0) close_and_throw(descriptor, path, errno);
  if (info.st_size <= 0) close_and_throw(descriptor, path, ENODATA);
  size_ = static_cast<size_t>(info.st_size);
  void* mapped = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor, 0);
  if (mapped == MAP_FAILED) close_and_throw(descriptor, path, errno);
  descriptor_ = descriptor;
  modified_ = info.st_mtim;
  data_ = static_cast<const std::byte*>(mapped);
  guard_.emplace(mapped, size_);
}

MmapFile::~MmapFile() {
  if (data_ == nullptr) return;
  guard_.reset();
  munmap(const_cast<std::byte*>(data_), size_);
  close(descriptor_);
}

MmapFile::MmapFile(MmapFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      modified_(other.modified_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      guard_(std::move(other.guard_)) {}

void MmapFile::prefer_large_pages() const {
  // Only a wish: kernels and file systems without large pages refuse it.
  static_cast<void>(madvise(const_cast<std::byte*>(data_), size_, MADV_HUGEPAGE));
}

void MmapFile::check_intact() const {
  struct stat now = {};
  if (fstat(descriptor_, &now) != 0) throw_io(path_, "look at it", errno);
  const bool is_same = static_cast<size_t>(now.st_size) == size_ &&
                       now.st_mtim.tv_sec == modified_.tv_sec &&
                       now.st_mtim.tv_nsec == modified_.tv_nsec;
  if (!is_same) throw Error(kIoError, path_ + ": was changed while in use; open the model again");
  if (guard_->has_faulted()) {
    throw Error(kIoError,
                path_ + ": cannot be read any more; check the disk, open the model again");
  }
}

}  // namespace autoglm
