#include "base/thread_pool.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <system_error>

#include "base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace autoglm {
namespace {

// Long enough to bridge the serial parts of a decode step, short enough to cost no battery between
// requests.
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

ThreadPool::ThreadPool(int num_threads) : process_id_(getpid()) {
  std::vector<std::thread>& workers = crew_->workers;
  try {
    for (int i = 1; i < num_threads; ++i) workers.emplace_back([this, i] { worker_main(i); });
  } catch (const std::system_error&) {
    stop();
    throw Error(kOutOfMemoryError, "the system refused thread " +
                                       std::to_string(workers.size() + 2) + " of " +
                                       std::to_string(num_threads) + "; use fewer threads");
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  if (getpid() != process_id_) {
    // A fork copied the pool but not its threads, and destroying what they sleep on would wait for
    // them.
    crew_.release();
    return;
  }
  {
    const std::lock_guard lock(crew_->mutex);
    is_stopping_ = true;
  }
  crew_->wake.notify_all();
  for (std::thread& worker : crew_->workers) worker.join();
}

void ThreadPool::run(int64_t count, int64_t grain, const void* context, Trampoline body) {
  if (count <= 0) return;
  if (crew_->workers.empty() || count <= grain) {
    body(context, 0, count, 0);
    return;
  }
  body_ = body;
  context_ = context;
  count_ = count;
  grain_ = grain;
  num_pieces_ = static_cast<uint32_t>((count + grain - 1) / grain);
  num_done_.store(0, std::memory_order_relaxed);
  const uint64_t loop = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store((loop << 32) | num_pieces_);  // sequentially consistent with num_sleeping_
  if (num_sleeping_.load() > 0) {
    const std::lock_guard lock(crew_->mutex);
    crew_->wake.notify_all();
  }
  run_pieces(0);
  const auto is_done = [this] { return num_done_.load(std::memory_order_acquire) == num_pieces_; };
  while (!spin_until(is_done)) std::this_thread::yield();
}

void ThreadPool::run_pieces(int index) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while ((ticket & 0xffffffffu) != 0) {
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
    const int64_t piece = num_pieces_ - static_cast<int64_t>(ticket & 0xffffffffu);
    const int64_t begin = piece * grain_;
    body_(context_, begin, std::min(begin + grain_, count_), index);
    num_done_.fetch_add(1, std::memory_order_release);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadPool::worker_main(int index) {
  for (;;) {
    const auto is_wanted = [this] { return has_pieces() || is_stopping_.load(); };
    if (!spin_until(is_wanted)) {
      std::unique_lock lock(crew_->mutex);
      num_sleeping_.fetch_add(1);
      crew_->wake.wait(lock, is_wanted);
      num_sleeping_.fetch_sub(1);
    }
    if (is_stopping_) return;
    run_pieces(index);
  }
}

}  // namespace autoglm
