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

using std::chrono::microseconds;

// Long enough to bridge the serial parts of a decode step, short enough to cost no battery between
// requests and to leave the processor to whoever takes the first token.
constexpr microseconds kSpinTime{100};
// Between passes that follow at once, whatever is done in between.
constexpr microseconds kAlertSpinTime{400};

inline void relax_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until done() or the time is over; returns done().
template <typename Done>
bool spin_until(const Done& done, microseconds time = kSpinTime) {
  const auto deadline = std::chrono::steady_clock::now() + time;
  for (;;) {
    for (int i = 0; i < 256; ++i) {
      if (done()) return true;
      relax_cpu();
    }
    if (std::chrono::steady_clock::now() >= deadline) return done();
  }
}

}  // namespace

ThreadPool::ThreadPool(int num_threads)
    : crew_(std::make_unique<Crew>(num_threads)), process_id_(getpid()) {
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
  num_pieces_ = static_cast<uint64_t>((count + grain - 1) / grain);
  num_done_.store(0, std::memory_order_relaxed);
  const uint32_t loop = loop_.load(std::memory_order_relaxed) + 1;
  std::vector<Share>& shares = crew_->shares;
  for (size_t i = 0; i < shares.size(); ++i) {
    const uint64_t num_own = first_piece(i + 1) - first_piece(i);
    shares[i].ticket.store(uint64_t{loop} << 32 | num_own, std::memory_order_release);
  }
  loop_.store(loop);  // sequentially consistent with num_sleeping_
  if (num_sleeping_.load() > 0) {
    const std::lock_guard lock(crew_->mutex);
    crew_->wake.notify_all();
  }
  run_pieces(0);
  const auto is_done = [this] { return num_done_.load(std::memory_order_acquire) == num_pieces_; };
  while (!spin_until(is_done)) std::this_thread::yield();
}

void ThreadPool::run_pieces(int index) {
  const size_t num_shares = crew_->shares.size();
  for (size_t i = 0; i < num_shares; ++i) run_share((index + i) % num_shares, index);
}

void ThreadPool::run_share(size_t share, int index) {
  std::atomic<uint64_t>& left = crew_->shares[share].ticket;
  uint64_t ticket = left.load(std::memory_order_acquire);
  while ((ticket & 0xffffffffu) != 0) {
    if (!left.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
    const int64_t piece = first_piece(share + 1) - static_cast<int64_t>(ticket & 0xffffffffu);
    const int64_t begin = piece * grain_;
    body_(context_, begin, std::min(begin + grain_, count_), index);
    num_done_.fetch_add(1, std::memory_order_release);
    ticket = left.load(std::memory_order_acquire);
  }
}

void ThreadPool::worker_main(int index) {
  for (uint32_t seen = 0;;) {
    const auto is_wanted = [&] { return loop_.load() != seen || is_stopping_.load(); };
    if (!spin_until(is_wanted, is_alert_ ? kAlertSpinTime : kSpinTime)) {
      std::unique_lock lock(crew_->mutex);
      num_sleeping_.fetch_add(1);
      crew_->wake.wait(lock, is_wanted);
      num_sleeping_.fetch_sub(1);
    }
    if (is_stopping_) return;
    seen = loop_.load();
    run_pieces(index);
  }
}

}  // namespace autoglm
