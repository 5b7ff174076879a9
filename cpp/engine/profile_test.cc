// Profiles of tiny random models: which steps are recorded, and that recording changes nothing.
#include "model/profile.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "engine/session.h"
#include "model/testing.h"

namespace autoglm {
namespace {

using test::tiny_config;
using test::tiny_moe_config;
using test::TinyModel;

constexpr int kPromptTokens = 70;
constexpr int kChunkTokens = 32;

std::vector<int32_t> random_ids(int count) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = static_cast<int32_t>(uniform_at(1, i) * 67);
  return ids;
}

std::shared_ptr<Executor> make_executor(const TinyModel& tiny) {
  return std::make_shared<Executor>(tiny.load(), Plan{.threads = 2, .prefill_chunk = kChunkTokens});
}

std::vector<StepEvent> profile_prefill(Executor& executor, Session& session) {
  executor.start_profile();
  session.prefill(random_ids(kPromptTokens), {});
  return executor.stop_profile();
}

// The steps of a layer in the order of the events.
std::vector<Step> steps_of(const std::vector<StepEvent>& events, int layer) {
  std::vector<Step> steps;
  for (const StepEvent& event : events) {
    if (event.layer == layer) steps.push_back(event.step);
  }
  return steps;
}

StepCost total(const std::vector<StepEvent>& events, Step step) {
  StepCost cost;
  for (const StepEvent& event : events) {
    if (event.step == step) cost += event.cost;
  }
  return cost;
}

void test_every_step_of_every_layer_is_recorded_once_a_pass() {
  const TinyModel tiny(tiny_moe_config());
  const auto executor = make_executor(tiny);
  Session session(executor);
  session.prefill(random_ids(5), {});
  session.decode(1, {}, {});
  executor->start_profile();
  session.decode(1, {}, {});
  const std::vector<StepEvent> events = executor->stop_profile();
  const std::vector<Step> attention = {Step::kInputNorm, Step::kQkv,    Step::kRopeStore,
                                       Step::kAttention, Step::kOutput, Step::kMlpNorm};
  std::vector<Step> dense = attention;
  dense.insert(dense.end(), {Step::kGateUp, Step::kDown});
  std::vector<Step> mixture = attention;
  mixture.insert(mixture.end(), {Step::kRouter, Step::kExperts, Step::kGateUp, Step::kDown});
  CHECK(steps_of(events, 0) == dense);
  CHECK(steps_of(events, 1) == mixture);
  CHECK(steps_of(events, kNoLayer) ==
        (std::vector<Step>{Step::kEmbed, Step::kAngles, Step::kFinalNorm, Step::kHead}));
}

void test_a_prompt_is_recorded_in_chunks_one_after_the_other() {
  const TinyModel tiny(tiny_config());
  const auto executor = make_executor(tiny);
  Session session(executor);
  const std::vector<StepEvent> events = profile_prefill(*executor, session);
  std::vector<int> chunks;
  double end_s = 0.0;
  for (const StepEvent& event : events) {
    if (event.step == Step::kEmbed) chunks.push_back(event.num_tokens);
    CHECK(event.start_s >= end_s);
    CHECK(event.seconds >= 0.0);
    end_s = event.start_s + event.seconds;
  }
  CHECK(chunks == (std::vector<int>{32, 32, 6}));
}

void test_costs_are_those_of_the_shapes() {
  const ModelConfig config = tiny_config();
  const TinyModel tiny(config);
  const auto executor = make_executor(tiny);
  Session session(executor);
  const std::vector<StepEvent> events = profile_prefill(*executor, session);
  const uint64_t tokens = kPromptTokens, layers = config.num_layers;
  const uint64_t token_kv_bytes = 2u * config.num_kv_heads * config.head_dim * sizeof(float);
  CHECK_EQ(total(events, Step::kQkv).operations,
           2 * layers * tokens * config.qkv_rows() * config.hidden_size);
  CHECK_EQ(total(events, Step::kHead).operations, 2u * config.vocab_size * config.hidden_size);
  CHECK_EQ(total(events, Step::kAttention).operations,
           4 * layers * config.attention_cols() * (tokens * (tokens + 1) / 2));
  CHECK_EQ(total(events, Step::kRopeStore).kv_bytes, layers * tokens * token_kv_bytes);
  // Chunks end at 32, 64 and 70 tokens; each reads what there is.
  CHECK_EQ(total(events, Step::kAttention).kv_bytes, layers * (32 + 64 + 70) * token_kv_bytes);
  CHECK_EQ(total(events, Step::kDown).kv_bytes, 0u);
}

void test_every_expert_in_use_is_read_once() {
  const ModelConfig config = tiny_moe_config();
  const TinyModel tiny(config);
  const auto executor = make_executor(tiny);
  Session session(executor);
  const std::vector<StepEvent> events = profile_prefill(*executor, session);
  const uint64_t expert_rows = 2u * round_up(config.moe_intermediate_size, kRowBlock);
  const uint64_t products = expert_rows + config.moe_intermediate_size;
  CHECK_EQ(total(events, Step::kExperts).operations,
           2 * products * config.hidden_size * kPromptTokens * config.num_experts_per_tok);
  // Three chunks cannot read more than all experts three times.
  const uint64_t all_weights = sizeof(float) * config.num_experts * (expert_rows + 48) * 48;
  CHECK(total(events, Step::kExperts).bytes < 4 * all_weights);
}

void test_recording_changes_no_token() {
  for (const WeightType type : {WeightType::kF32, WeightType::kI4}) {
    for (const ModelConfig& config : {tiny_config(type), tiny_moe_config(type)}) {
      const TinyModel tiny(config);
      const auto plain = make_executor(tiny), recorded = make_executor(tiny);
      const std::vector<int32_t> ids = random_ids(kPromptTokens);
      std::vector<float> expected(ids.size() * config.vocab_size), got(expected.size());
      plain->logits(ids, expected.data(), [] {});
      recorded->start_profile();
      recorded->logits(ids, got.data(), [] {});
      CHECK(!recorded->stop_profile().empty());
      CHECK(got == expected);
    }
  }
}

void test_nothing_is_recorded_before_the_start_and_after_the_end() {
  const TinyModel tiny(tiny_config());
  const auto executor = make_executor(tiny);
  Session session(executor);
  session.prefill(random_ids(10), {});
  CHECK(executor->stop_profile().empty());
  executor->start_profile();
  CHECK(executor->stop_profile().empty());
  session.decode(3, {}, {});
  CHECK(executor->stop_profile().empty());
}

void test_limits_are_measured() {
  ThreadPool pool(2);
  const Limits limits = measure_limits(kernels_for(select_isa("")), WeightType::kI4, pool);
  CHECK(limits.read_bytes_per_s > 1e6);
  CHECK(limits.operations_per_s > 1e6);
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_every_step_of_every_layer_is_recorded_once_a_pass();
  autoglm::test_a_prompt_is_recorded_in_chunks_one_after_the_other();
  autoglm::test_costs_are_those_of_the_shapes();
  autoglm::test_every_expert_in_use_is_read_once();
  autoglm::test_recording_changes_no_token();
  autoglm::test_nothing_is_recorded_before_the_start_and_after_the_end();
  autoglm::test_limits_are_measured();
  return autoglm::test::finish_tests();
}
