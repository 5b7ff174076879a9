#include "base/thread_pool.h"

#include <algorithm>
#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace autoglm {
namespace {

// Long enough to bridge the serial parts of a decode step, short enough to cost no battery between requests.
constexpr std::chrono::microseconds kSpinTime{100};

inline void relax_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until done() or kSpinTime is over; returns done().
template <typename Done>
bool spin_until(const Done& done) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  for (;;) {
    for (int i = 0; i < 256; ++i) {
      if (done()) return true;
      relax_cpu();
    }
    if (std::chrono::steady_clock::now() >= deadline) return done();
  }
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { worker_main(i); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
    epoch_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t count, int64_t grain, const void* context, Trampoline body) {
  if (count <= 0) return;
  if (workers_.empty() || count <= grain) {
    body(context, 0, count, 0);
    return;
  }
  body_ = body;
  context_ = context;
  count_ = count;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  num_pending_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1);  // sequentially consistent with num_sleeping_: no lost wake-up
  if (num_sleeping_.load() > 0) {
    const std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  run_pieces(0);
  while (!spin_until([this] { return num_pending_.load(std::memory_order_acquire) == 0; })) {
    std::this_thread::yield();
  }
}

void ThreadPool::run_pieces(int index) {
  for (;;) {
    const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (begin >= count_) return;
    body_(context_, begin, std::min(begin + grain_, count_), index);
  }
}

void ThreadPool::worker_main(int index) {
  uint64_t seen = 0;
  for (;;) {
    const auto has_work = [&] { return epoch_.load() != seen; };
    if (!spin_until(has_work)) {
      std::unique_lock lock(mutex_);
      num_sleeping_.fetch_add(1);
      wake_.wait(lock, has_work);
      num_sleeping_.fetch_sub(1);
    }
    seen = epoch_.load();
    if (is_stopping_) return;
    run_pieces(index);
    num_pending_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace autoglm
