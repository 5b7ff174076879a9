#include "base/direct_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace autoglm {

DirectFile::DirectFile(const MmapFile& mapped) : mapped_(mapped) {
#ifdef O_DIRECT
  const std::string same_file = "/proc/self/fd/" + std::to_string(mapped.descriptor());
  direct_ = open(same_file.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
#endif
}

DirectFile::~DirectFile() {
  if (direct_ >= 0) close(direct_);
}

DirectFile::DirectFile(DirectFile&& other) noexcept
    : mapped_(other.mapped_), direct_(std::exchange(other.direct_, -1)) {}

void DirectFile::read(uint64_t offset, std::span<std::byte> out, size_t needed) const {
  int file = direct_ >= 0 ? direct_ : mapped_.descriptor();
  size_t done = 0;
  while (done < needed) {
    const ssize_t count =
        pread(file, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (count > 0) {
      done += static_cast<size_t>(count);
      // A short direct read leaves an odd rest.
      if (done % kAlignment != 0) file = mapped_.descriptor();
    } else if (count < 0 && errno == EINVAL && file == direct_) {
      file = mapped_.descriptor();  // stricter than kAlignment
    } else if (count == 0) {
      throw Error(kIoError, mapped_.path() + ": ends at byte " + std::to_string(offset + done) +
                                ", was longer when it was opened; close what shortens it, "
                                "or fetch the file again");
    } else if (errno != EINTR) {
      throw Error(kIoError, mapped_.path() + ": cannot read: " + std::strerror(errno));
    }
  }
  if (file == mapped_.descriptor()) {
    posix_fadvise(file, static_cast<off_t>(offset), static_cast<off_t>(done), POSIX_FADV_DONTNEED);
  }
}

}  // namespace autoglm
