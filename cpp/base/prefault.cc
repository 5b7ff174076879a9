#include "base/prefault.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>
#include <utility>

namespace autoglm {
namespace {

// MADV_POPULATE_READ of Linux 5.14, which older headers lack and older kernels refuse.
constexpr int kPopulateRead = 22;
constexpr size_t kStepBytes = size_t{4} << 20;

}  // namespace

Prefault::Prefault(std::vector<std::span<const std::byte>> ranges)
    : ranges_(std::move(ranges)), process_id_(getpid()) {
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error&) {
    return;
  }
}

Prefault::~Prefault() {
  if (!thread_.joinable()) return;
  is_stopped_ = true;
  // A fork copied this object, but not its thread.
  if (getpid() == process_id_) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

void Prefault::run() const {
  for (const std::span<const std::byte> range : ranges_) {
    for (size_t begin = 0; begin < range.size() && !is_stopped_; begin += kStepBytes) {
      auto* from = const_cast<std::byte*>(range.data()) + begin;
      const size_t size = std::min(kStepBytes, range.size() - begin);
      if (madvise(from, size, kPopulateRead) != 0) return;
    }
  }
}

}  // namespace autoglm
