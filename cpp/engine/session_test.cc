// The whole engine on tiny random models: the same bits however the work is divided.
#include "engine/session.h"

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/cpu_features.h"
#include "model/testing.h"

namespace autoglm {
namespace {

using test::tiny_config;
using test::tiny_moe_config;
using test::TinyModel;

std::vector<int32_t> random_ids(int count) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = static_cast<int32_t>(uniform_at(1, i) * 67);
  return ids;
}

std::vector<float> logits(const std::shared_ptr<const Model>& model, const Plan& plan,
                          const std::vector<int32_t>& ids) {
  std::vector<float> out(ids.size() * model->config().vocab_size);
  Executor(model, plan).logits(ids, out.data(), [] {});
  return out;
}

void test_chunks_and_threads_do_not_change_a_bit() {
  const std::vector<int32_t> ids = random_ids(100);
  for (const WeightType type :
       {WeightType::kF32, WeightType::kBF16, WeightType::kI8, WeightType::kI4}) {
    for (const ModelConfig& config : {tiny_config(type), tiny_moe_config(type)}) {
      const TinyModel tiny(config);
      const auto model = tiny.load();
      for (const Isa isa : test::tested_isas()) {
        const std::string name(isa_name(isa));
        const auto whole = logits(model, {.threads = 1, .isa = name}, ids);
        CHECK(whole == logits(model, {.threads = 2, .isa = name, .prefill_chunk = 33}, ids));
        CHECK(whole == logits(model, {.threads = 3, .isa = name, .prefill_chunk = 1}, ids));
      }
    }
  }
}

void test_a_reused_prefix_decodes_like_a_cold_one() {
  const TinyModel tiny(tiny_config(WeightType::kI8));
  const auto model = tiny.load();
  const std::vector<int32_t> ids = random_ids(150);
  const Sampling sampling{.temperature = 1.0f, .seed = 5};
  const auto executor = std::make_shared<Executor>(model, Plan{.threads = 1});
  Session first(executor), second(executor);
  CHECK_EQ(first.prefill(ids, {}), 0);
  CHECK_EQ(second.prefill(ids, {}), 128);
  CHECK(first.decode(40, sampling, {}) == second.decode(40, sampling, {}));
}

void test_sessions_in_parallel_decode_what_they_decode_alone() {
  const TinyModel tiny(tiny_config());
  const auto model = tiny.load();
  const auto shared = std::make_shared<Executor>(model, Plan{.threads = 2, .max_context = 2048});
  std::vector<std::vector<int32_t>> results(4);
  std::vector<std::thread> workers;
  const auto decode = [&](const std::shared_ptr<Executor>& executor, int i) {
    Session session(executor);
    session.prefill(random_ids(60 + i), {});
    return session.decode(20, {}, {});
  };
  for (int i = 0; i < 4; ++i) {
    workers.emplace_back([&, i] { results[i] = decode(shared, i); });
  }
  for (std::thread& worker : workers) worker.join();
  for (int i = 0; i < 4; ++i) {
    CHECK(results[i] == decode(std::make_shared<Executor>(model, Plan{.threads = 1}), i));
  }
}

// A prompt that repeats itself makes drafts; whatever is drafted, the tokens are those without.
void test_prompt_lookup_changes_no_token() {
  int num_accepted = 0;
  for (const WeightType type :
       {WeightType::kF32, WeightType::kBF16, WeightType::kI8, WeightType::kI4}) {
    const TinyModel tiny(tiny_config(type));
    const auto model = tiny.load();
    std::vector<int32_t> ids = random_ids(40);
    for (int i = 0; i < 3; ++i) ids.insert(ids.end(), ids.begin(), ids.begin() + 40);
    for (const Isa isa : test::tested_isas()) {
      for (const KvType kv_type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
        const Plan plan{.threads = 2, .isa = std::string(isa_name(isa)), .kv_dtype = kv_type};
        const auto executor = std::make_shared<Executor>(model, plan);
        for (const float temperature : {0.0f, 0.3f}) {
          Sampling sampling{.temperature = temperature, .repetition_penalty = 1.1f, .seed = 3};
          Session with(executor), without(executor);
          with.prefill(ids, {});
          without.prefill(ids, {});
          const auto drafted = with.decode(60, sampling, {});
          sampling.prompt_lookup = false;
          CHECK(drafted == without.decode(60, sampling, {}));
          CHECK_EQ(with.num_tokens(), without.num_tokens());
          CHECK_EQ(without.num_drafted(), 0);
          num_accepted += with.num_accepted();
        }
      }
    }
  }
  CHECK(num_accepted > 0);  // how many follows the measured speed of this machine
}

// Abandons calls at every layer boundary in turn; the session must go on as if nothing had
// happened.
void test_an_interrupted_session_goes_on(const Plan& plan, int num_tokens) {
  const TinyModel tiny(tiny_config());
  const auto executor = std::make_shared<Executor>(tiny.load(), plan);
  const std::vector<int32_t> ids = random_ids(num_tokens);
  Session expected(executor);
  expected.prefill(ids, {});
  const std::vector<int32_t> tokens = expected.decode(6, {}, {});
  for (int stop_at = 1; stop_at <= 12; ++stop_at) {
    Session session(executor);
    int num_polls = 0;
    const Checkpoint poll = [&] {
      if (++num_polls == stop_at) throw Error(kCancelledError, "stopped by the test");
    };
    std::vector<int32_t> rest = ids;
    try {
      session.prefill(ids, poll);
    } catch (const Error&) {
      CHECK_EQ(session.num_tokens() % plan.prefill_chunk, 0);
    }
    rest.erase(rest.begin(), rest.begin() + session.num_tokens());
    if (!rest.empty()) session.prefill(rest, {});
    num_polls = 0;
    std::vector<int32_t> got;
    while (got.size() < tokens.size()) {
      const int num_before = session.num_tokens();
      try {
        got.push_back(session.decode(1, {}, poll).at(0));
      } catch (const Error&) {
        CHECK_EQ(session.num_tokens(), num_before);
      }
    }
    CHECK(got == tokens);
  }
}

void test_cancel_stops_one_call() {
  const TinyModel tiny(tiny_config());
  Session session(std::make_shared<Executor>(tiny.load(), Plan{.threads = 1}));
  session.cancel();
  CHECK_THROWS(kCancelledError, session.prefill(random_ids(10), {}));
  session.prefill(random_ids(10), {});
  session.cancel();
  CHECK_THROWS(kCancelledError, session.decode(1, {}, {}));
  CHECK_EQ(session.decode(3, {}, {}).size(), 3u);
}

void test_the_context_ends_with_an_error_and_no_change() {
  const TinyModel tiny(tiny_config());
  Session session(std::make_shared<Executor>(tiny.load(), Plan{.threads = 1, .max_context = 128}));
  CHECK_THROWS(kContextFullError, session.prefill(random_ids(129), {}));
  session.prefill(random_ids(128), {});
  CHECK_EQ(session.decode(5, {}, {}).size(), 1u);
  CHECK_THROWS(kContextFullError, session.decode(1, {}, {}));
}

void test_invalid_ids_are_refused() {
  const TinyModel tiny(tiny_config());
  const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  CHECK_THROWS(kArgumentError, executor->check_ids(std::vector<int32_t>{67}));
  CHECK_THROWS(kArgumentError, Session(executor).decode(1, {}, {}));
  CHECK_THROWS(kArgumentError, Session(executor).prefill({}, {}));
}

// The file loses its pages at each layer boundary in turn: the call fails, what was computed from
// zeros is neither returned nor cached, and a model of the whole file works beside the broken one.
void test_a_model_file_cut_in_use_is_an_error() {
  const std::vector<int32_t> ids = random_ids(80);
  for (const WeightType type : {WeightType::kBF16, WeightType::kI4}) {
    for (int cut_at = 1; cut_at <= 6; ++cut_at) {
      const TinyModel tiny(tiny_moe_config(type)), whole(tiny_moe_config(type));
      const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 2});
      const auto other = std::make_shared<Executor>(whole.load(), Plan{.threads = 2});
      Session session(executor), after(executor), sound(other);
      int num_polls = 0;
      const Checkpoint cut = [&] {
        if (++num_polls == cut_at) CHECK_EQ(truncate(tiny.path().c_str(), 0), 0);
      };
      const auto run = [&] {
        session.prefill(ids, cut);
        session.decode(4, {}, cut);
      };
      CHECK_THROWS(kIoError, run());
      CHECK_THROWS(kIoError, after.prefill(ids, {}));
      if (cut_at <= 2) CHECK_EQ(after.num_tokens(), 0);  // the prompt itself was cut short
      CHECK_EQ(sound.prefill(ids, {}), 0);
      CHECK_EQ(sound.decode(4, {}, {}).size(), 4u);
    }
  }
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_chunks_and_threads_do_not_change_a_bit();
  autoglm::test_a_reused_prefix_decodes_like_a_cold_one();
  autoglm::test_sessions_in_parallel_decode_what_they_decode_alone();
  autoglm::test_prompt_lookup_changes_no_token();
  autoglm::test_an_interrupted_session_goes_on({.threads = 1, .prefill_chunk = 16}, 80);
  autoglm::test_an_interrupted_session_goes_on(
      {.threads = 1, .prefill_chunk = 64, .max_context = 4096, .window = 64}, 330);
  autoglm::test_cancel_stops_one_call();
  autoglm::test_the_context_ends_with_an_error_and_no_change();
  autoglm::test_invalid_ids_are_refused();
  autoglm::test_a_model_file_cut_in_use_is_an_error();
  return autoglm::test::finish_tests();
}
