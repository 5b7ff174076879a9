// Spin-then-wait thread pool for short parallel loops.
//
// The calling thread takes part, so a pool of one thread starts no thread at all. Workers spin for
// a while after a loop (a decode step issues hundreds of loops a few microseconds apart), then
// sleep. A loop ends when its pieces are done, not when every worker has looked at it: a worker
// that the system has put aside delays nobody.
//
// Each thread has neighbouring pieces of its own, so that what it fetches ahead is for itself, and
// helps the others when it has none left.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace autoglm {

class ThreadPool {
 public:
  // Throws Error(kOutOfMemoryError) when the system gives too few threads.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(crew_->workers.size()) + 1; }

  // Calls body(begin, end, thread_index) for disjoint pieces covering [0, count); pieces begin at
  // multiples of `grain`. Not reentrant, one caller at a time.
  template <typename Body>
  void parallel_for(int64_t count, int64_t grain, const Body& body) {
    run(count, grain, &body, [](const void* context, int64_t begin, int64_t end, int thread) {
      (*static_cast<const Body*>(context))(begin, end, thread);
    });
  }

  // Whether workers shall wait longer for the next loop before they sleep.
  void set_alert(bool is_alert) { is_alert_ = is_alert; }

 private:
  // Loop number in the upper half, pieces not yet taken of one thread's share in the lower: taking
  // one by compare-and-swap proves that the loop is still the same.
  struct alignas(64) Share {
    std::atomic<uint64_t> ticket{0};
  };
  struct Crew {
    explicit Crew(int num_threads) : shares(num_threads) {}
    std::vector<Share> shares;
    std::vector<std::thread> workers;
    std::mutex mutex;
    std::condition_variable wake;
  };
  using Trampoline = void (*)(const void* context, int64_t begin, int64_t end, int thread);

  void run(int64_t count, int64_t grain, const void* context, Trampoline body);
  void worker_main(int index);
  void stop();
  // The first piece of a thread's share, and so the end of the share before it.
  uint32_t first_piece(size_t share) const {
    return static_cast<uint32_t>(num_pieces_ * share / crew_->shares.size());
  }
  // Takes pieces of the current loop until none is left.
  void run_pieces(int index);
  void run_share(size_t share, int index);

  std::unique_ptr<Crew> crew_;
  const int process_id_;
  // The current loop; does not change while one of its pieces is unfinished.
  Trampoline body_ = nullptr;
  const void* context_ = nullptr;
  int64_t count_ = 0;
  int64_t grain_ = 1;
  uint64_t num_pieces_ = 0;
  alignas(64) std::atomic<uint32_t> loop_{0};
  alignas(64) std::atomic<uint32_t> num_done_{0};
  std::atomic<int> num_sleeping_{0};
  std::atomic<bool> is_alert_{false};
  std::atomic<bool> is_stopping_{false};
};

}  // namespace autoglm
