// A model whose experts are read when needed computes what the mapped one does, bit for bit.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/cpu_features.h"
#include "engine/session.h"
#include "model/testing.h"

namespace autoglm {
namespace {

using test::tiny_moe_config;
using test::TinyModel;

constexpr int kBudgetMib = 1;

std::vector<int32_t> random_ids(int count) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = static_cast<int32_t>(uniform_at(1, i) * 67);
  return ids;
}

// Experts of about 330 KiB, so that kBudgetMib holds the fewest that are allowed.
ModelConfig streaming_config(WeightType type) {
  ModelConfig config = tiny_moe_config(type);
  config.num_layers = 3;
  switch (type) {
    case WeightType::kF32:
      config.moe_intermediate_size = 540;
      break;
    case WeightType::kBF16:
      config.moe_intermediate_size = 860;
      break;
    case WeightType::kI8:
      config.moe_intermediate_size = 1500;
      break;
    default:
      config.moe_intermediate_size = 1600;
      break;
  }
  return config;
}

std::vector<float> logits(const std::shared_ptr<const Model>& model, const Plan& plan,
                          const std::vector<int32_t>& ids, ExpertStats* stats = nullptr) {
  std::vector<float> out(ids.size() * model->config().vocab_size);
  Executor executor(model, plan);
  executor.logits(ids, out.data(), [] {});
  if (stats != nullptr) *stats = executor.expert_cache()->stats();
  return out;
}

void test_streaming_changes_no_bit() {
  const std::vector<int32_t> ids = random_ids(48);
  for (const WeightType type :
       {WeightType::kF32, WeightType::kBF16, WeightType::kI8, WeightType::kI4}) {
    const TinyModel tiny(streaming_config(type));
    const auto model = tiny.load();
    for (const Isa isa : supported_isas()) {
      const std::string name(isa_name(isa));
      const auto mapped = logits(model, {.threads = 1, .isa = name}, ids);
      for (const int chunk : {1, 7, 64}) {
        ExpertStats stats;
        const Plan plan{.threads = chunk == 64 ? 1 : 2,
                        .isa = name,
                        .prefill_chunk = chunk,
                        .expert_memory_mib = kBudgetMib};
        CHECK(mapped == logits(model, plan, ids, &stats));
        CHECK_EQ(stats.num_slots, 3);
        CHECK(stats.num_used > stats.num_resident);
      }
    }
  }
}

void test_sessions_decode_the_same_tokens() {
  const TinyModel tiny(streaming_config(WeightType::kI8));
  const auto model = tiny.load();
  const auto mapped = std::make_shared<Executor>(model, Plan{.threads = 2});
  const auto streamed =
      std::make_shared<Executor>(model, Plan{.threads = 2, .expert_memory_mib = kBudgetMib});
  Session expected(mapped), got(streamed);
  expected.prefill(random_ids(20), {});
  got.prefill(random_ids(20), {});
  CHECK(expected.decode(40, {}, {}) == got.decode(40, {}, {}));
}

// A call given up at each of its checkpoints in turn; the session goes on as if nothing happened.
void test_an_interrupted_pass_leaves_the_cache_usable() {
  struct Interrupt {};
  const TinyModel tiny(streaming_config(WeightType::kI8));
  const auto model = tiny.load();
  const auto executor =
      std::make_shared<Executor>(model, Plan{.threads = 2, .expert_memory_mib = kBudgetMib});
  const std::vector<int32_t> ids = random_ids(30);
  Session expected(std::make_shared<Executor>(model, Plan{.threads = 1}));
  expected.prefill(ids, {});
  const std::vector<int32_t> tokens = expected.decode(10, {}, {});
  for (int stop = 1; stop < 12; ++stop) {
    Session session(executor);
    int num_polls = 0;
    try {
      session.prefill(ids, [&] {
        if (++num_polls == stop) throw Interrupt{};
      });
    } catch (const Interrupt&) {
      session.prefill(std::vector<int32_t>(ids.begin() + session.num_tokens(), ids.end()), {});
    }
    CHECK(session.decode(10, {}, {}) == tokens);
  }
}

void test_expert_memory_is_checked() {
  const TinyModel dense(test::tiny_config());
  CHECK_THROWS(kArgumentError, Executor(dense.load(), Plan{.threads = 1, .expert_memory_mib = 1}));
  const TinyModel mixture(streaming_config(WeightType::kF32));
  CHECK_THROWS(kArgumentError,
               Executor(mixture.load(), Plan{.threads = 1, .expert_memory_mib = -1}));
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_streaming_changes_no_bit();
  autoglm::test_sessions_decode_the_same_tokens();
  autoglm::test_an_interrupted_pass_leaves_the_cache_usable();
  autoglm::test_expert_memory_is_checked();
  return autoglm::test::finish_tests();
}
