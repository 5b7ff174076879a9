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
       {WeightType::kF32, WeightType::kBF16, WeightType::kI8, WeightType::kI4, WeightType::kI3}) {
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

// A clock by which every step takes as long as any other, so that drafts always pay for themselves
// and tests do not depend on the machine.
double tick() {
  thread_local double now = 0.0;
  return now += 1.0;
}

// The clock of draft models that cost nothing.
double stopped() { return 0.0; }

struct Run {
  std::vector<int32_t> ids;
  int num_tokens = 0;
  int num_drafted = 0;
  int num_accepted = 0;
};

Run decode(const std::shared_ptr<Executor>& executor,
           const std::shared_ptr<DraftModel>& draft_model, const std::vector<int32_t>& prompt,
           int count, const Sampling& sampling) {
  Session session(executor, draft_model, tick);
  session.prefill(prompt, {});
  Run run{.ids = session.decode(count / 3, sampling, {})};
  const auto rest = session.decode(count - count / 3, sampling, {});
  run.ids.insert(run.ids.end(), rest.begin(), rest.end());
  run.num_tokens = session.num_tokens();
  run.num_drafted = session.num_drafted();
  run.num_accepted = session.num_accepted();
  return run;
}

// Calls body(executor, sampling) for every path, cache type, weight format and temperature.
template <typename Body>
void for_every_executor(const Body& body) {
  for (const WeightType type :
       {WeightType::kF32, WeightType::kBF16, WeightType::kI8, WeightType::kI4, WeightType::kI3}) {
    const TinyModel tiny(tiny_config(type));
    const auto model = tiny.load();
    for (const Isa isa : test::tested_isas()) {
      for (const KvType kv_type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
        const Plan plan{.threads = 1, .isa = std::string(isa_name(isa)), .kv_dtype = kv_type};
        const auto executor = std::make_shared<Executor>(model, plan);
        for (const float temperature : {0.0f, 0.3f}) {
          body(executor, plan,
               Sampling{.temperature = temperature, .repetition_penalty = 1.1f, .seed = 3});
        }
      }
    }
  }
}

// Whatever is drafted, the tokens are those without.
void test_prompt_lookup_changes_no_token() {
  std::vector<int32_t> ids = random_ids(40);
  for (int i = 0; i < 3; ++i) ids.insert(ids.end(), ids.begin(), ids.begin() + 40);
  for_every_executor(
      [&](const std::shared_ptr<Executor>& executor, const Plan&, Sampling sampling) {
        sampling.repetition_penalty = 1.0f;  // loops are what lookup is good at
        const Run with = decode(executor, nullptr, ids, 150, sampling);
        sampling.prompt_lookup = false;
        const Run without = decode(executor, nullptr, ids, 150, sampling);
        CHECK(with.ids == without.ids);
        CHECK_EQ(with.num_tokens, without.num_tokens);
        CHECK_EQ(without.num_drafted, 0);
        if (sampling.temperature == 0.0f) CHECK(with.num_accepted > 25);
      });
}

// The same weights guess every token, if their view of the text is the session's.
void test_a_draft_model_of_the_same_weights_is_always_right() {
  for_every_executor(
      [&](const std::shared_ptr<Executor>& executor, const Plan& plan, Sampling sampling) {
        const auto drafting =
            std::make_shared<Executor>(executor->shared_model(), plan, executor.get());
        const auto draft_model = std::make_shared<DraftModel>(drafting, executor, stopped);
        sampling.prompt_lookup = false;
        const Run plain = decode(executor, nullptr, random_ids(70), 300, sampling);
        const Run drafted = decode(executor, draft_model, random_ids(70), 300, sampling);
        CHECK(drafted.ids == plain.ids);
        CHECK(drafted.num_accepted > 150);  // once it is known how little they cost
        CHECK_EQ(drafted.num_accepted, drafted.num_drafted);
        sampling.prompt_lookup = true;
        CHECK(decode(executor, draft_model, random_ids(70), 300, sampling).ids == plain.ids);
      });
}

// Another model is wrong nearly always: drafts must be taken back, and soon not be made.
void test_a_useless_draft_model_changes_no_token_and_is_given_up() {
  ModelConfig other_config = tiny_config();
  other_config.num_layers = 1;
  const TinyModel other(other_config);
  for_every_executor(
      [&](const std::shared_ptr<Executor>& executor, const Plan& plan, Sampling sampling) {
        const auto drafting = std::make_shared<Executor>(other.load(), plan, executor.get());
        const auto draft_model = std::make_shared<DraftModel>(drafting, executor, stopped);
        sampling.prompt_lookup = false;
        const Run plain = decode(executor, nullptr, random_ids(70), 300, sampling);
        const Run drafted = decode(executor, draft_model, random_ids(70), 300, sampling);
        CHECK(drafted.ids == plain.ids);
        CHECK(drafted.num_drafted > 0);
        CHECK(drafted.num_drafted < 40);
        // What was learned serves the next session: it tries again only now and then.
        CHECK(decode(executor, draft_model, random_ids(71), 60, sampling).num_drafted <= 4);
      });
}

void test_a_draft_model_follows_a_window() {
  const TinyModel tiny(tiny_config());
  const Plan plan{.threads = 1, .window = 64};
  const auto executor = std::make_shared<Executor>(tiny.load(), plan);
  const auto drafting = std::make_shared<Executor>(tiny.load(), plan, executor.get());
  const auto draft_model = std::make_shared<DraftModel>(drafting, executor, stopped);
  const Sampling sampling{.temperature = 1.0f, .seed = 9, .prompt_lookup = false};
  const Run plain = decode(executor, nullptr, random_ids(300), 400, sampling);
  const Run drafted = decode(executor, draft_model, random_ids(300), 400, sampling);
  CHECK(drafted.ids == plain.ids);
  CHECK(drafted.num_accepted > 300);
  CHECK_EQ(drafted.num_accepted, drafted.num_drafted);
}

void test_a_draft_model_without_room_drafts_nothing() {
  const TinyModel tiny(tiny_config());
  const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  const auto drafting =
      std::make_shared<Executor>(tiny.load(), Plan{.threads = 1, .max_context = 128});
  const auto draft_model = std::make_shared<DraftModel>(drafting, executor, stopped);
  const Sampling sampling{.prompt_lookup = false};
  const Run drafted = decode(executor, draft_model, random_ids(40), 160, sampling);
  CHECK(drafted.ids == decode(executor, nullptr, random_ids(40), 160, sampling).ids);
  CHECK(drafted.num_accepted > 10);
  CHECK(drafted.num_drafted <= 128 - 40);
}

void test_a_draft_model_of_another_vocabulary_is_refused() {
  ModelConfig config = tiny_config();
  config.vocab_size = 66;
  const TinyModel tiny(tiny_config()), other(config);
  const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  const auto drafting = std::make_shared<Executor>(other.load(), Plan{.threads = 1});
  CHECK_THROWS(kArgumentError, DraftModel(drafting, executor));
  const auto twin = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  CHECK_THROWS(kArgumentError, Session(twin, std::make_shared<DraftModel>(executor, executor)));
}

// Every step takes a second by this clock.
void test_decoding_ends_before_its_time_is_over() {
  const TinyModel tiny(tiny_config());
  const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  Session session(executor, nullptr, tick);
  session.prefill(random_ids(10), {});
  CHECK_EQ(session.decode(20, {}, {}, 0.0).size(), 1u);
  const size_t few = session.decode(20, {.prompt_lookup = false}, {}, 12.0).size();
  CHECK(few > 1 && few < 12);
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
  autoglm::test_a_draft_model_of_the_same_weights_is_always_right();
  autoglm::test_a_useless_draft_model_changes_no_token_and_is_given_up();
  autoglm::test_a_draft_model_follows_a_window();
  autoglm::test_a_draft_model_without_room_drafts_nothing();
  autoglm::test_a_draft_model_of_another_vocabulary_is_refused();
  autoglm::test_decoding_ends_before_its_time_is_over();
  autoglm::test_an_interrupted_session_goes_on({.threads = 1, .prefill_chunk = 16}, 80);
  autoglm::test_an_interrupted_session_goes_on(
      {.threads = 1, .prefill_chunk = 64, .max_context = 4096, .window = 64}, 330);
  autoglm::test_cancel_stops_one_call();
  autoglm::test_the_context_ends_with_an_error_and_no_change();
  autoglm::test_invalid_ids_are_refused();
  autoglm::test_a_model_file_cut_in_use_is_an_error();
  return autoglm::test::finish_tests();
}
