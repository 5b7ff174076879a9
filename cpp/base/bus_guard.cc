#include "base/bus_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <utility>

namespace autoglm {

// An entry of the list that the signal handler walks: never freed, as a handler may be at it.
struct GuardedRange {
  std::atomic<uintptr_t> begin;  // kNowhere once the mapping is gone
  const uintptr_t end;
  GuardedRange* const next;
  std::atomic<bool> has_faulted = false;
};

namespace {

constexpr uintptr_t kNowhere = UINTPTR_MAX;

std::atomic<GuardedRange*> ranges = nullptr;
std::mutex ranges_mutex;         // of writers; the handler takes no lock
struct sigaction previous = {};  // written before the handler is installed
const auto page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));

static_assert(std::atomic<uintptr_t>::is_always_lock_free);

// Whether `address` is guarded and can be read from now on.
bool put_zeros_at(uintptr_t address) {
  for (GuardedRange* range = ranges.load(); range != nullptr; range = range->next) {
    if (address < range->begin.load() || address >= range->end) continue;
    // Marked first: a thread that meets the zeros without a fault of its own must find the mark.
    range->has_faulted.store(true);
    const uintptr_t page = address / page_bytes * page_bytes;
    // The system call itself: a sanitizer's mmap() is not for signal handlers, and takes what other
    // threads read meanwhile for a race. For the processor the pages change at once.
    return syscall(SYS_mmap, page, range->end - page, PROT_READ,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != -1;
  }
  return false;
}

void call_previous(int number, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(number, info, context);
    return;
  }
  const bool is_fault = info->si_code > 0;
  if (previous.sa_handler == SIG_IGN && !is_fault) return;
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(number);
    return;
  }
  // The default action: a fault happens again on return, a sent signal is sent again.
  struct sigaction by_default = {};
  by_default.sa_handler = SIG_DFL;
  sigaction(number, &by_default, nullptr);
  if (!is_fault) raise(number);
}

void on_bus_error(int number, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const bool is_fault = info->si_code > 0;  // others are sent by processes and carry no address
  if (!is_fault || !put_zeros_at(reinterpret_cast<uintptr_t>(info->si_addr))) {
    call_previous(number, info, context);
  }
  errno = saved_errno;
}

void install_handler() {
  static bool is_installed = false;
  if (is_installed) return;
  is_installed = true;
  struct sigaction ours = {};
  ours.sa_sigaction = on_bus_error;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigaction(SIGBUS, nullptr, &previous);
  sigaction(SIGBUS, &ours, nullptr);
}

}  // namespace

BusGuard::BusGuard(const void* begin, size_t size) {
  const std::lock_guard lock(ranges_mutex);
  install_handler();
  const auto address = reinterpret_cast<uintptr_t>(begin);
  range_ = new GuardedRange{address, address + size, ranges.load()};
  ranges.store(range_);
}

BusGuard::~BusGuard() {
  if (range_ != nullptr) range_->begin.store(kNowhere);
}

BusGuard::BusGuard(BusGuard&& other) noexcept : range_(std::exchange(other.range_, nullptr)) {}

bool BusGuard::has_faulted() const { return range_->has_faulted.load(); }

}  // namespace autoglm
