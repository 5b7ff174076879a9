// The expert cache against the mapped weights: contents, limits, errors, cancellation, predictions.
#include "model/expert_cache.h"

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "kernels/pack.h"
#include "model/testing.h"

namespace autoglm {
namespace {

using test::tiny_moe_config;
using test::TinyModel;

constexpr uint64_t kPlenty = uint64_t{64} << 20;
const Checkpoint kGoOn = [] {};

ModelConfig config_of(WeightType type) {
  ModelConfig config = tiny_moe_config(type);
  config.num_layers = 4;
  config.num_experts = 12;
  return config;
}

uint64_t slot_bytes(const Model& model) {
  return ExpertCache(model, kPlenty, make_expert_reader(model)).stats().slot_bytes;
}

std::vector<ExpertUse> uses(std::initializer_list<int> experts) {
  std::vector<ExpertUse> used;
  for (const int expert : experts) used.push_back({expert, 1});
  return used;
}

bool has_same_bytes(const PackedMatrix& a, const PackedMatrix& b) {
  const size_t num_blocks = a.padded_rows / kRowBlock;
  bool is_same =
      std::memcmp(a.weight, b.weight, num_blocks * row_block_bytes(a.type, a.padded_cols)) == 0;
  if (a.scale != nullptr) {
    is_same = is_same && std::memcmp(a.scale, b.scale, a.padded_rows * sizeof(float)) == 0;
  }
  if (a.group_scale != nullptr) {
    const size_t num_scales = static_cast<size_t>(a.padded_rows) * (a.padded_cols / kGroupSize);
    is_same = is_same && std::memcmp(a.group_scale, b.group_scale, num_scales) == 0;
  }
  return is_same && a.rows == b.rows && a.cols == b.cols;
}

bool has_same_bytes(const Mlp& a, const Mlp& b) {
  return has_same_bytes(a.gate_up.matrix, b.gate_up.matrix) &&
         has_same_bytes(a.down.matrix, b.down.matrix);
}

// Takes all experts of a layer, as many at once as there are.
void run_layer(ExpertCache& cache, int layer, const std::vector<ExpertUse>& used) {
  cache.start(layer, used, 1);
  for (size_t i = 0; i < used.size();) {
    cache.take_next(kGoOn);
    ++i;
    while (i < used.size() && cache.try_take_next() != nullptr) ++i;
    cache.release();
  }
}

// A reader that waits at a gate.
class Gate {
 public:
  explicit Gate(const Model& model) : read_(make_expert_reader(model)) {}

  ExpertReader reader() {
    return [this](size_t file, uint64_t offset, std::span<std::byte> out, size_t needed) {
      {
        std::unique_lock lock(mutex_);
        opened_.wait(lock, [this] { return is_open_; });
      }
      ++num_reads_;
      read_(file, offset, out, needed);
    };
  }
  void open() {
    {
      const std::lock_guard lock(mutex_);
      is_open_ = true;
    }
    opened_.notify_all();
  }
  int num_reads() const { return num_reads_; }

 private:
  ExpertReader read_;
  std::mutex mutex_;
  std::condition_variable opened_;
  bool is_open_ = false;
  std::atomic<int> num_reads_{0};
};

void test_experts_are_those_of_the_file_with_any_number_of_slots() {
  for (const WeightType type :
       {WeightType::kF32, WeightType::kBF16, WeightType::kI8, WeightType::kI4, WeightType::kI3}) {
    const TinyModel tiny(config_of(type));
    const auto model = tiny.load();
    const std::vector<ExpertUse> all = uses({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
    for (const uint64_t num_slots : {3, 5, 12, 1000}) {
      ExpertCache cache(*model, num_slots * slot_bytes(*model), make_expert_reader(*model));
      for (int pass = 0; pass < 3; ++pass) {
        for (int layer = 1; layer < 4; ++layer) {
          cache.start(layer, all, 1);
          bool is_same = true;
          for (const ExpertUse& use : all) {
            const Mlp& mlp = cache.take_next(kGoOn);
            is_same =
                is_same && has_same_bytes(mlp, model->layers()[layer].moe.experts[use.expert]);
            cache.release();
          }
          CHECK(is_same);
        }
      }
    }
  }
}

void test_what_is_taken_stays_until_it_is_released() {
  const TinyModel tiny(config_of(WeightType::kI4));
  const auto model = tiny.load();
  ExpertCache cache(*model, 3 * slot_bytes(*model), make_expert_reader(*model));
  cache.start(1, uses({1, 4, 5, 7, 9}), 1);
  std::vector<const Mlp*> taken;
  for (int i = 0; i < 3; ++i) taken.push_back(&cache.take_next(kGoOn));
  CHECK(cache.try_take_next() == nullptr);
  const std::vector<Mlp>& experts = model->layers()[1].moe.experts;
  CHECK(has_same_bytes(*taken[0], experts[1]));
  CHECK(has_same_bytes(*taken[1], experts[4]));
  CHECK(has_same_bytes(*taken[2], experts[5]));
  cache.release();
  CHECK(has_same_bytes(cache.take_next(kGoOn), experts[7]));
}

void test_experts_in_memory_are_not_read_again() {
  const TinyModel tiny(config_of(WeightType::kI4));
  const auto model = tiny.load();
  ExpertCache cache(*model, kPlenty, make_expert_reader(*model));
  run_layer(cache, 1, uses({0, 3}));
  const uint64_t bytes = cache.stats().bytes_read;
  CHECK(bytes >= 2 * cache.stats().expert_bytes);
  run_layer(cache, 1, uses({0, 3}));
  CHECK_EQ(cache.stats().bytes_read, bytes);
  CHECK_EQ(cache.stats().num_used, 4u);
  CHECK_EQ(cache.stats().num_resident, 2u);
  CHECK_EQ(cache.stats().num_slots, 36);
}

void test_what_is_used_often_stays_among_much_that_is_used_once() {
  const TinyModel tiny(config_of(WeightType::kI4));
  const auto model = tiny.load();
  ExpertCache cache(*model, 4 * slot_bytes(*model), make_expert_reader(*model));
  for (int i = 0; i < 4; ++i) run_layer(cache, 1, uses({0, 1}));
  for (int expert = 2; expert < 12; ++expert) run_layer(cache, 1, uses({expert}));
  const uint64_t num_resident = cache.stats().num_resident;
  run_layer(cache, 1, uses({0, 1}));
  CHECK_EQ(cache.stats().num_resident, num_resident + 2);
}

// Passing over more experts than there are slots keeps what fits but the slots that pass.
void test_a_layer_larger_than_the_pool_keeps_what_it_can() {
  const TinyModel tiny(config_of(WeightType::kI4));
  const auto model = tiny.load();
  const std::vector<ExpertUse> all = uses({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  ExpertCache cache(*model, 8 * slot_bytes(*model), make_expert_reader(*model));
  run_layer(cache, 1, all);
  CHECK_EQ(cache.stats().num_resident, 0u);
  run_layer(cache, 1, all);
  CHECK_EQ(cache.stats().num_resident, 8u);
}

void test_a_right_prediction_is_read_ahead() {
  const TinyModel tiny(config_of(WeightType::kI4));
  const auto model = tiny.load();
  ExpertCache cache(*model, kPlenty, make_expert_reader(*model));
  run_layer(cache, 1, uses({0}));
  cache.expect(2, uses({3, 5}));
  cache.start(2, uses({3, 5, 7}), 1);
  const ExpertStats stats = cache.stats();
  CHECK_EQ(stats.num_resident + stats.num_expected, 2u);
  CHECK_EQ(stats.num_predicted, 2u);
  CHECK_EQ(stats.num_foreseen, 2u);
  const std::vector<Mlp>& experts = model->layers()[2].moe.experts;
  for (const int expert : {3, 5, 7}) CHECK(has_same_bytes(cache.take_next(kGoOn), experts[expert]));
}

void test_predictions_that_fail_are_not_followed() {
  const TinyModel tiny(config_of(WeightType::kI4));
  const auto model = tiny.load();
  Gate gate(*model);
  gate.open();
  ExpertCache cache(*model, 3 * slot_bytes(*model), gate.reader());
  for (int i = 0; i < 100; ++i) {
    cache.expect(1, uses({8, 9}));
    run_layer(cache, 1, uses({0, 1}));
  }
  const int num_reads = gate.num_reads();
  cache.expect(1, uses({10, 11}));
  run_layer(cache, 1, uses({0, 1}));
  CHECK_EQ(gate.num_reads(), num_reads);
}

struct Abandoned {};

void test_a_wait_is_abandoned_and_the_next_pass_works() {
  const TinyModel tiny(config_of(WeightType::kI4));
  const auto model = tiny.load();
  Gate gate(*model);
  ExpertCache cache(*model, 3 * slot_bytes(*model), gate.reader());
  int num_polls = 0;
  bool is_abandoned = false;
  cache.start(1, uses({2, 3, 4, 5}), 1);
  try {
    cache.take_next([&] {
      if (++num_polls == 2) throw Abandoned{};
    });
  } catch (const Abandoned&) {
    is_abandoned = true;
  }
  CHECK(is_abandoned);
  CHECK_EQ(num_polls, 2);
  gate.open();
  cache.start(1, uses({1, 2, 11}), 1);
  const std::vector<Mlp>& experts = model->layers()[1].moe.experts;
  for (const int expert : {1, 2, 11}) {
    CHECK(has_same_bytes(cache.take_next(kGoOn), experts[expert]));
  }
}

void test_a_file_that_became_shorter_is_an_error_and_the_cache_goes_on() {
  const TinyModel tiny(config_of(WeightType::kI4));
  const auto model = tiny.load();
  ExpertCache cache(*model, 3 * slot_bytes(*model), make_expert_reader(*model));
  run_layer(cache, 1, uses({0, 1}));
  const std::string copy = tiny.path() + ".copy";
  std::filesystem::copy_file(tiny.path(), copy);
  std::filesystem::resize_file(tiny.path(), 4096);
  cache.expect(2, uses({3}));  // a failure that nobody waits for
  for (int i = 0; i < 2; ++i) {
    cache.start(3, uses({7, 8}), 1);
    CHECK_THROWS(kIoError, cache.take_next(kGoOn));
  }
  std::ifstream source(copy, std::ios::binary);
  std::ofstream(tiny.path(), std::ios::binary | std::ios::in) << source.rdbuf();
  std::filesystem::remove(copy);
  cache.start(3, uses({7, 8}), 1);
  for (const int expert : {7, 8}) {
    CHECK(has_same_bytes(cache.take_next(kGoOn), model->layers()[3].moe.experts[expert]));
  }
}

void test_a_file_moved_away_is_still_read() {
  const TinyModel tiny(config_of(WeightType::kI4));
  const auto model = tiny.load();
  const std::string moved = tiny.path() + ".moved";
  std::filesystem::rename(tiny.path(), moved);
  std::ofstream(tiny.path()) << "another file";
  ExpertCache cache(*model, kPlenty, make_expert_reader(*model));
  cache.start(2, uses({6}), 1);
  CHECK(has_same_bytes(cache.take_next(kGoOn), model->layers()[2].moe.experts[6]));
  std::filesystem::remove(moved);
}

void test_budgets_that_cannot_work_are_refused() {
  const TinyModel tiny(config_of(WeightType::kI4));
  const auto model = tiny.load();
  const uint64_t two_slots = 2 * slot_bytes(*model);
  CHECK_THROWS(kArgumentError, ExpertCache(*model, two_slots, make_expert_reader(*model)));
  const TinyModel dense(test::tiny_config());
  const auto dense_model = dense.load();
  CHECK_THROWS(kArgumentError,
               ExpertCache(*dense_model, kPlenty, make_expert_reader(*dense_model)));
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_experts_are_those_of_the_file_with_any_number_of_slots();
  autoglm::test_what_is_taken_stays_until_it_is_released();
  autoglm::test_experts_in_memory_are_not_read_again();
  autoglm::test_what_is_used_often_stays_among_much_that_is_used_once();
  autoglm::test_a_layer_larger_than_the_pool_keeps_what_it_can();
  autoglm::test_a_right_prediction_is_read_ahead();
  autoglm::test_predictions_that_fail_are_not_followed();
  autoglm::test_a_wait_is_abandoned_and_the_next_pass_works();
  autoglm::test_a_file_that_became_shorter_is_an_error_and_the_cache_goes_on();
  autoglm::test_a_file_moved_away_is_still_read();
  autoglm::test_budgets_that_cannot_work_are_refused();
  return autoglm::test::finish_tests();
}
