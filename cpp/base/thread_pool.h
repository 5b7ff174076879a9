// Spin-then-wait thread pool for short parallel loops.
//
// The calling thread takes part, so a pool of one thread starts no thread at all. Workers spin for a
// while after a loop (a decode step issues hundreds of loops a few microseconds apart), then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace autoglm {

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end, thread_index) for disjoint pieces covering [0, count); pieces begin at
  // multiples of `grain` and are handed out as threads become free. Not reentrant, one caller at a time.
  template <typename Body>
  void parallel_for(int64_t count, int64_t grain, const Body& body) {
    run(count, grain, &body, [](const void* context, int64_t begin, int64_t end, int thread) {
      (*static_cast<const Body*>(context))(begin, end, thread);
    });
  }

 private:
  using Trampoline = void (*)(const void* context, int64_t begin, int64_t end, int thread);

  void run(int64_t count, int64_t grain, const void* context, Trampoline body);
  void worker_main(int index);
  void run_pieces(int index);

  std::vector<std::thread> workers_;
  Trampoline body_ = nullptr;
  const void* context_ = nullptr;
  int64_t count_ = 0;
  int64_t grain_ = 1;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint64_t> epoch_{0};
  alignas(64) std::atomic<int> num_pending_{0};
  std::atomic<int> num_sleeping_{0};
  std::atomic<bool> is_stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace autoglm
