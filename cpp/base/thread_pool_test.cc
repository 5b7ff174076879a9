#include "base/thread_pool.h"

#include <atomic>
#include <vector>

#include "base/check.h"

namespace autoglm {
namespace {

void test_every_index_is_visited_once() {
  for (const int num_threads : {1, 2, 5}) {
    ThreadPool pool(num_threads);
    for (const int64_t count : {0, 1, 7, 64, 1000}) {
      for (const int64_t grain : {1, 3, 64}) {
        std::vector<std::atomic<int>> visits(count);
        std::atomic<bool> is_aligned{true};
        pool.parallel_for(count, grain, [&](int64_t begin, int64_t end, int thread) {
          if (begin % grain != 0 || thread < 0 || thread >= num_threads) is_aligned = false;
          for (int64_t i = begin; i < end; ++i) ++visits[i];
        });
        bool is_once = true;
        for (const auto& visit : visits) is_once = is_once && visit == 1;
        CHECK(is_once);
        CHECK(is_aligned);
      }
    }
  }
}

// Loops follow each other closely, with threads that may be late for the one before.
void test_many_short_loops() {
  ThreadPool pool(4);
  int64_t wrong = 0;
  for (int loop = 0; loop < 2000; ++loop) {
    std::atomic<int64_t> sum{0};
    const int64_t count = 2 + loop % 7;
    pool.parallel_for(count, 1, [&](int64_t begin, int64_t, int) { sum += begin + loop; });
    if (sum != count * (count - 1) / 2 + count * loop) ++wrong;
  }
  CHECK_EQ(wrong, 0);
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_every_index_is_visited_once();
  autoglm::test_many_short_loops();
  return autoglm::test::finish_tests();
}
