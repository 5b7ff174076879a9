// Sessions that share passes get the bits they get alone, and the troubles of one stay its own.
#include "engine/shared_pass.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/cpu_features.h"
#include "model/testing.h"

namespace autoglm {
namespace {

using test::tiny_config;
using test::tiny_moe_config;
using test::TinyModel;

constexpr double kNoLimit = Session::kNoLimit;

std::vector<int32_t> random_ids(int count, int seed = 1) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = static_cast<int32_t>(uniform_at(seed, i) * 67);
  return ids;
}

Sampling sampling_of(int number) {
  return {.temperature = number % 2 == 0 ? 0.0f : 0.8f,
          .repetition_penalty = 1.1f,
          .seed = static_cast<uint64_t>(number)};
}

std::vector<int32_t> alone(const std::shared_ptr<const Model>& model, const Plan& plan,
                           const std::vector<int32_t>& prompt, int count,
                           const Sampling& sampling) {
  Session session(std::make_shared<Executor>(model, plan));
  session.prefill(prompt, {});
  return session.decode(count, sampling, {});
}

// Sessions of several lengths join one after the other and leave at different times; prompts are
// computed in pieces of 7 tokens beside the decodes of others.
std::vector<std::vector<int32_t>> together(const std::shared_ptr<Executor>& executor, int num,
                                           int num_ids, double seconds) {
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<std::vector<int32_t>> results(num);
  for (int round = 0; round < 1000; ++round) {
    if (static_cast<int>(sessions.size()) < num && round % 3 == 0) {
      const int number = static_cast<int>(sessions.size());
      sessions.push_back(std::make_unique<Session>(executor));
      sessions.back()->append(random_ids(20 + 30 * number, number));
    }
    std::vector<PassItem> items;
    std::vector<int> numbers;
    for (int i = 0; i < static_cast<int>(sessions.size()); ++i) {
      const int missing = num_ids - static_cast<int>(results[i].size());
      if (missing == 0) continue;
      items.push_back({sessions[i].get(), sampling_of(i), 7, missing});
      numbers.push_back(i);
    }
    if (items.empty()) break;
    const auto outcomes = SharedPass(*executor, items).run(seconds, {});
    for (size_t i = 0; i < items.size(); ++i) {
      CHECK(!outcomes[i].error);
      std::ranges::copy(outcomes[i].ids, std::back_inserter(results[numbers[i]]));
    }
  }
  return results;
}

void test_sessions_get_the_same_tokens_together_as_alone() {
  for (const WeightType type :
       {WeightType::kF32, WeightType::kBF16, WeightType::kI8, WeightType::kI4}) {
    for (const ModelConfig& config : {tiny_config(type), tiny_moe_config(type)}) {
      const TinyModel tiny(config);
      const auto model = tiny.load();
      for (const Isa isa : test::tested_isas()) {
        for (const KvType kv_type : {KvType::kF16, KvType::kI8}) {
          const Plan plan{.threads = 2,
                          .isa = std::string(isa_name(isa)),
                          .kv_dtype = kv_type,
                          .max_context = 2048};
          const auto executor = std::make_shared<Executor>(model, plan);
          const auto results = together(executor, 5, 12, kNoLimit);
          for (int i = 0; i < 5; ++i) {
            CHECK(results[i] == alone(model, plan, random_ids(20 + 30 * i, i), 12, sampling_of(i)));
          }
        }
      }
    }
  }
}

void test_sessions_with_a_window_share_passes() {
  const TinyModel tiny(tiny_config());
  const auto model = tiny.load();
  const Plan plan{.threads = 2, .max_context = 4096, .window = 64};
  const auto results = together(std::make_shared<Executor>(model, plan), 9, 20, kNoLimit);
  for (int i = 0; i < 9; ++i) {
    CHECK(results[i] == alone(model, plan, random_ids(20 + 30 * i, i), 20, sampling_of(i)));
  }
}

// By this clock every look takes a second.
double tick() {
  thread_local double now = 0.0;
  return now += 1.0;
}

void test_passes_repeat_until_the_time_is_over() {
  const TinyModel tiny(tiny_config());
  const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  Session first(executor), second(executor);
  first.append(random_ids(5));
  second.append(random_ids(6));
  const std::vector<PassItem> items{{&first, {}, 16, 40}, {&second, {}, 16, 40}};
  CHECK_EQ(SharedPass(*executor, items, tick).run(0.0, {})[1].ids.size(), 1u);
  const size_t few = SharedPass(*executor, items, tick).run(12.0, {})[1].ids.size();
  CHECK(few > 1 && few < 12);
}

void test_an_end_token_ends_the_passes_of_all() {
  const TinyModel tiny(tiny_config());
  const auto model = tiny.load();
  const auto executor = std::make_shared<Executor>(model, Plan{.threads = 1});
  const auto expected = alone(model, {.threads = 1}, random_ids(5), 4, {});
  Session first(executor), second(executor);
  first.append(random_ids(5));
  second.append(random_ids(6));
  const std::vector<PassItem> items{{&first, {.eos_ids = {expected[2]}}, 16, 40},
                                    {&second, {}, 16, 40}};
  const auto outcomes = SharedPass(*executor, items).run(kNoLimit, {});
  const auto end = std::ranges::find(expected, expected[2]) + 1;
  CHECK(outcomes[0].ids == std::vector<int32_t>(expected.begin(), end));
  CHECK(outcomes[0].is_ended);
  CHECK(!outcomes[1].is_ended);
  CHECK_EQ(outcomes[1].ids.size(), outcomes[0].ids.size());
}

void test_a_cancelled_session_leaves_and_the_others_go_on() {
  const TinyModel tiny(tiny_config());
  const auto model = tiny.load();
  const auto executor = std::make_shared<Executor>(model, Plan{.threads = 1});
  Session first(executor), second(executor);
  first.append(random_ids(5));
  second.append(random_ids(6));
  first.cancel();
  const std::vector<PassItem> items{{&first, {}, 16, 1}, {&second, {}, 16, 1}};
  const auto outcomes = SharedPass(*executor, items).run(0.0, {});
  CHECK(outcomes[0].error && outcomes[0].error->code() == kCancelledError);
  CHECK(outcomes[0].ids.empty());
  CHECK(outcomes[1].ids == alone(model, {.threads = 1}, random_ids(6), 1, {}));
}

void test_a_session_without_room_fails_alone() {
  const TinyModel tiny(tiny_config());
  const auto model = tiny.load();
  const auto executor =
      std::make_shared<Executor>(model, Plan{.threads = 1, .max_context = 2 * kPageTokens});
  Session first(executor), second(executor);
  first.append(random_ids(64));
  second.append(random_ids(65, 2));
  const std::vector<PassItem> items{{&first, {}, 64, 1}, {&second, {}, 65, 1}};
  const auto outcomes = SharedPass(*executor, items).run(0.0, {});
  CHECK(!outcomes[0].error);
  CHECK(outcomes[1].error && outcomes[1].error->code() == kContextFullError);
  CHECK(outcomes[0].ids == alone(model, {.threads = 1}, random_ids(64), 1, {}));
}

// Allows ids that its rule likes, after some refusals to say which ones those are.
class RuleJudge final : public Judge {
 public:
  explicit RuleJudge(std::function<bool(size_t, int32_t)> rule) : rule_(std::move(rule)) {}

  Verdict take(int32_t id) override {
    if (!rule_(taken.size(), id)) return {};
    taken.push_back(id);
    Verdict verdict{.is_allowed = true, .is_last = taken.size() >= last_at, .is_bound = is_strict};
    if (taken.size() == force_at) verdict.forced = forced;
    return verdict;
  }

  std::vector<uint32_t> mask() override {
    if (num_late > 0) {
      --num_late;
      return {};
    }
    ++num_masks;
    std::vector<uint32_t> words(3);
    for (int32_t id = 0; id < 67; ++id) {
      if (rule_(taken.size(), id)) words[id / 32] |= uint32_t{1} << (id % 32);
    }
    return words;
  }

  std::vector<int32_t> taken;
  std::vector<int32_t> forced;
  size_t force_at = 0;
  size_t last_at = 1000;
  bool is_strict = false;  // every token is drawn under a mask
  int num_late = 0;        // calls of mask() that do not know it yet
  int num_masks = 0;

 private:
  std::function<bool(size_t, int32_t)> rule_;
};

std::vector<int32_t> judged(const std::shared_ptr<Executor>& executor, const Sampling& sampling,
                            const std::shared_ptr<RuleJudge>& judge, int count) {
  Session session(executor);
  session.keep_to(judge);
  session.prefill(random_ids(9), {});
  std::vector<int32_t> ids;
  for (int round = 0; round < 100 && static_cast<int>(ids.size()) < count; ++round) {
    const auto more = session.decode(count - static_cast<int>(ids.size()), sampling, {});
    ids.insert(ids.end(), more.begin(), more.end());
  }
  return ids;
}

bool is_even(size_t, int32_t id) { return id % 2 == 0; }

void test_the_likeliest_allowed_tokens_are_those_of_masks() {
  const TinyModel tiny(tiny_config());
  const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  const auto lenient = std::make_shared<RuleJudge>(is_even);
  const auto strict = std::make_shared<RuleJudge>(is_even);
  strict->is_strict = true;
  const auto ids = judged(executor, {}, lenient, 30);
  CHECK(ids == judged(executor, {}, strict, 30));
  CHECK(lenient->taken == ids);
  CHECK_EQ(strict->num_masks, 30);
  CHECK(lenient->num_masks < 30);
  CHECK(lenient->num_masks > 1);
}

void test_sessions_with_judges_get_the_same_tokens_together_as_alone() {
  const TinyModel tiny(tiny_config());
  const auto executor =
      std::make_shared<Executor>(tiny.load(), Plan{.threads = 2, .max_context = 4096});
  for (const float temperature : {0.0f, 1.5f}) {
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<PassItem> items;
    const auto make_judge = [](int i) {
      auto judge = std::make_shared<RuleJudge>(
          [i](size_t at, int32_t id) { return (id + static_cast<int>(at)) % (2 + i) != 0; });
      judge->num_late = i;
      judge->forced = {5, 6, 7};
      judge->force_at = 3 + i;
      return judge;
    };
    for (int i = 0; i < 4; ++i) {
      sessions.push_back(std::make_unique<Session>(executor));
      if (i < 3) sessions.back()->keep_to(make_judge(i));
      sessions.back()->append(random_ids(9));
      items.push_back({sessions.back().get(), {.temperature = temperature, .seed = 3}, 9, 20});
    }
    std::vector<std::vector<int32_t>> ids(4);
    for (int round = 0; round < 30; ++round) {
      const auto outcomes = SharedPass(*executor, items).run(0.0, {});
      for (int i = 0; i < 4; ++i) {
        CHECK(!outcomes[i].error);
        std::ranges::copy(outcomes[i].ids, std::back_inserter(ids[i]));
      }
    }
    for (int i = 0; i < 4; ++i) {
      const auto expected =
          judged(executor, items[i].sampling, i < 3 ? make_judge(i) : nullptr, 25);
      CHECK(ids[i].size() >= 25);
      CHECK(std::equal(expected.begin(), expected.begin() + 25, ids[i].begin()));
      if (i < 3)
        CHECK((std::vector(expected.begin() + 3 + i, expected.begin() + 6 + i) ==
               std::vector<int32_t>{5, 6, 7}));
    }
  }
}

void test_a_judge_that_does_not_know_yet_is_asked_again() {
  const TinyModel tiny(tiny_config());
  const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  const auto judge = std::make_shared<RuleJudge>(is_even);
  judge->num_late = 2;
  Session session(executor);
  session.keep_to(judge);
  session.append(random_ids(9));
  const std::vector<PassItem> items{{&session, {}, 9, 1}};
  for (int i = 0; i < 2; ++i) {
    const auto outcomes = SharedPass(*executor, items).run(0.0, {});
    CHECK(outcomes[0].ids.empty());
    CHECK(!outcomes[0].error);
    CHECK_EQ(outcomes[0].num_pending, 0);
  }
  CHECK_EQ(SharedPass(*executor, items).run(0.0, {})[0].ids.size(), 1u);
}

void test_a_judge_ends_an_answer_and_one_that_fails_fails_alone() {
  const TinyModel tiny(tiny_config());
  const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  Session first(executor), second(executor);
  const auto ending = std::make_shared<RuleJudge>(is_even);
  ending->last_at = 3;
  first.keep_to(ending);
  second.keep_to(std::make_shared<RuleJudge>([](size_t at, int32_t) -> bool {
    if (at == 1) throw Error(kFormError, "no");
    return true;
  }));
  first.append(random_ids(9));
  second.append(random_ids(9));
  std::vector<PassItem> items{{&first, {}, 9, 9}, {&second, {}, 9, 9}};
  auto outcomes = SharedPass(*executor, items).run(kNoLimit, {});
  CHECK_EQ(outcomes[1].ids.size(), 1u);
  CHECK(outcomes[1].error && outcomes[1].error->code() == kFormError);
  CHECK(!outcomes[0].error);
  items.pop_back();
  outcomes = SharedPass(*executor, items).run(kNoLimit, {});
  CHECK(outcomes[0].is_ended);
  CHECK_EQ(ending->taken.size(), 3u);
}

void test_drafts_change_no_token_of_a_judged_answer() {
  const TinyModel tiny(tiny_config());
  const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  // A text that must repeat itself, so that the text so far foretells what comes.
  const auto rule = [](size_t at, int32_t id) { return id == 10 + static_cast<int>(at) % 7; };
  Session session(executor);
  session.keep_to(std::make_shared<RuleJudge>(rule));
  session.prefill(random_ids(9), {});
  const auto ids = session.decode(60, {}, {});
  CHECK_EQ(ids.size(), 60u);
  for (size_t i = 0; i < ids.size(); ++i) CHECK(rule(i, ids[i]));
  CHECK(session.num_accepted() > 0);
}

void test_forced_tokens_count_as_sampled() {
  const TinyModel tiny(tiny_config());
  const auto model = tiny.load();
  const auto executor = std::make_shared<Executor>(model, Plan{.threads = 1});
  const Sampling sampling{.presence_penalty = 5.0f};
  const auto expected = alone(model, {.threads = 1}, random_ids(9), 9, sampling);
  const auto judge = std::make_shared<RuleJudge>([](size_t, int32_t) { return true; });
  judge->forced.assign(expected.begin() + 1, expected.begin() + 5);
  judge->force_at = 1;
  CHECK(judged(executor, sampling, judge, 9) == expected);
}

void test_logprobs_are_those_of_the_logits() {
  const TinyModel tiny(tiny_config());
  const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  const std::vector<int32_t> ids = random_ids(40);
  std::vector<float> logits(ids.size() * 67);
  executor->logits(ids, logits.data(), [] {});
  const auto all = executor->logprobs(ids, 3, [] {});
  CHECK_EQ(all.size(), ids.size() - 1);
  double total = 0.0;
  for (size_t t = 1; t < ids.size(); ++t) {
    const std::span<const float> row(logits.data() + (t - 1) * 67, 67);
    CHECK_EQ(all[t - 1].id, ids[t]);
    CHECK_EQ(all[t - 1].logprob, row[ids[t]] - log_total(row));
    CHECK_EQ(all[t - 1].top[0].first, std::ranges::max_element(row) - row.begin());
    CHECK(all[t - 1].top[0].second >= all[t - 1].top[2].second);
    total -= all[t - 1].logprob;
  }
  CHECK(std::abs(total - executor->score(ids, [] {})) < 1e-9 * total);
}

void test_sampled_tokens_report_their_logprobs_alone_and_together() {
  const TinyModel tiny(tiny_config());
  const auto executor = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  const Sampling sampling{.num_logprobs = 2};
  Session first(executor), second(executor);
  first.append(random_ids(70));
  second.append(random_ids(70));
  const std::vector<PassItem> items{{&first, sampling, 100, 8}, {&second, sampling, 100, 8}};
  const auto outcomes = SharedPass(*executor, items).run(kNoLimit, {});
  Session third(executor);
  third.prefill(random_ids(70), {});
  third.decode(8, sampling, {});
  const auto expected = third.take_logprobs();
  const auto seen = second.take_logprobs();
  CHECK_EQ(expected.size(), 8u);
  for (size_t i = 0; i < seen.size(); ++i) {
    CHECK_EQ(seen[i].id, outcomes[1].ids[i]);
    CHECK_EQ(seen[i].logprob, expected[i].logprob);
    CHECK(seen[i].top == expected[i].top);
  }
  CHECK(third.take_logprobs().empty());
}

void test_an_embedding_does_not_depend_on_chunks() {
  const TinyModel tiny(tiny_config());
  const auto model = tiny.load();
  std::vector<float> whole(40), pieces(40);
  Executor(model, {.threads = 1}).embed(random_ids(90), whole.data(), [] {});
  Executor(model, {.threads = 2, .prefill_chunk = 11}).embed(random_ids(90), pieces.data(), [] {});
  CHECK(whole == pieces);
  CHECK(std::ranges::any_of(whole, [](float value) { return value != 0.0f; }));
}

void test_what_cannot_be_one_pass_is_refused() {
  const TinyModel tiny(tiny_config());
  const auto executor =
      std::make_shared<Executor>(tiny.load(), Plan{.threads = 1, .prefill_chunk = 16});
  const auto other = std::make_shared<Executor>(tiny.load(), Plan{.threads = 1});
  Session first(executor), second(executor), foreign(other);
  const auto run = [&](const std::vector<PassItem>& items) {
    SharedPass(*executor, items).run(0.0, {});
  };
  CHECK_THROWS(kArgumentError, run({{&first}, {&first}}));
  CHECK_THROWS(kArgumentError, run({{&first}, {&foreign}}));
  CHECK_THROWS(kArgumentError, run({{&first, {}, 9, 1}, {&second, {}, 8, 1}}));
  CHECK_THROWS(kArgumentError, run({{&first, {}, 0, 1}}));
  CHECK_THROWS(kArgumentError, run({{&first, {}, 1, 0}}));
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_sessions_get_the_same_tokens_together_as_alone();
  autoglm::test_sessions_with_a_window_share_passes();
  autoglm::test_passes_repeat_until_the_time_is_over();
  autoglm::test_an_end_token_ends_the_passes_of_all();
  autoglm::test_a_cancelled_session_leaves_and_the_others_go_on();
  autoglm::test_a_session_without_room_fails_alone();
  autoglm::test_the_likeliest_allowed_tokens_are_those_of_masks();
  autoglm::test_sessions_with_judges_get_the_same_tokens_together_as_alone();
  autoglm::test_a_judge_that_does_not_know_yet_is_asked_again();
  autoglm::test_a_judge_ends_an_answer_and_one_that_fails_fails_alone();
  autoglm::test_drafts_change_no_token_of_a_judged_answer();
  autoglm::test_forced_tokens_count_as_sampled();
  autoglm::test_logprobs_are_those_of_the_logits();
  autoglm::test_sampled_tokens_report_their_logprobs_alone_and_together();
  autoglm::test_an_embedding_does_not_depend_on_chunks();
  autoglm::test_what_cannot_be_one_pass_is_refused();
  return autoglm::test::finish_tests();
}
