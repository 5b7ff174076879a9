#include "engine/executor.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/cpu_features.h"
#include "base/error.h"
#include "base/finite.h"

namespace autoglm {
namespace {

constexpr int kScoreRows = 16;             // rows of logits that score() holds at once
constexpr int kMostTokens = 1 << 26;       // in a cache
constexpr int kUnboundedTokens = 1 << 30;  // of a sequence with a window
constexpr int kMostDraft = 64;             // tokens that a step may compute ahead

int pages_for(int num_tokens) { return (num_tokens + kPageTokens - 1) / kPageTokens; }

int step_tokens(int prefill_chunk) { return std::max(prefill_chunk, kMostDraft); }

int check_range(const char* name, int value, int low, int high) {
  if (value >= low && value <= high) return value;
  throw Error(kArgumentError, std::string(name) + " is " + std::to_string(value) +
                                  ", must be from " + std::to_string(low) + " to " +
                                  std::to_string(high));
}

bool is_precise(const Plan& plan) {
  if (plan.activation_bits == 8 || plan.activation_bits == 16) return plan.activation_bits == 16;
  throw Error(kArgumentError,
              "activation_bits is " + std::to_string(plan.activation_bits) + ", must be 8 or 16");
}

int num_threads_of(const Plan& plan) {
  check_range("threads", plan.threads, 0, 256);
  return plan.threads > 0 ? plan.threads : num_physical_cores();
}

KvWindow window_of(const Plan& plan) {
  check_range("window", plan.window, 0, kMostTokens);
  check_range("sink", plan.sink, 0, kMostTokens);
  return {.num_sink_pages = pages_for(plan.sink), .num_pages = pages_for(plan.window)};
}

// Whether no distance between tokens goes beyond what the model knows, however long the text.
bool is_unbounded(const KvWindow& window, const ModelConfig& config) {
  return window.is_on() && window.most_visible() <= config.max_position / kPageTokens;
}

int num_pages_of(const Plan& plan, const KvWindow& window, const ModelConfig& config) {
  check_range("max_context", plan.max_context, 0, kMostTokens);
  if (plan.max_context > 0) return pages_for(plan.max_context);
  if (is_unbounded(window, config)) return window.most_held(step_tokens(plan.prefill_chunk));
  return pages_for(config.max_position);
}

int max_tokens_of(const Plan& plan, const KvWindow& window, int num_pages,
                  const ModelConfig& config) {
  if (is_unbounded(window, config) &&
      num_pages >= window.most_held(step_tokens(plan.prefill_chunk))) {
    return kUnboundedTokens;
  }
  return std::min(config.max_position, num_pages * kPageTokens);
}

KvGeometry kv_geometry_of(const Plan& plan, const ModelConfig& config) {
  const KvType natural = config.weights == WeightType::kF32 ? KvType::kF32 : KvType::kF16;
  return {.type = plan.kv_dtype.value_or(natural),
          .num_layers = config.num_layers,
          .num_kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim};
}

std::unique_ptr<ExpertCache> make_expert_cache(const Plan& plan, const Model& model) {
  constexpr int kMostMib = 1 << 24;
  const int mib = check_range("expert_memory_mib", plan.expert_memory_mib, 0, kMostMib);
  if (mib == 0) return nullptr;
  return std::make_unique<ExpertCache>(model, static_cast<uint64_t>(mib) << 20,
                                       make_expert_reader(model));
}

}  // namespace

int held_tokens(const Plan& plan, int num_tokens) {
  const KvWindow window = window_of(plan);
  const int num_pages = pages_for(num_tokens);
  if (!window.is_on()) return num_pages * kPageTokens;
  return std::min(num_pages, window.most_held(step_tokens(plan.prefill_chunk))) * kPageTokens;
}

Executor::Executor(std::shared_ptr<const Model> model, const Plan& plan, const Executor* threads_of)
    : model_(std::move(model)),
      kernels_(kernels_for(select_isa(plan.isa))),
      prefill_chunk_(check_range("prefill_chunk", plan.prefill_chunk, 1, 8192)),
      window_(window_of(plan)),
      num_pages_(num_pages_of(plan, window_, model_->config())),
      max_tokens_(max_tokens_of(plan, window_, num_pages_, model_->config())),
      workers_(threads_of != nullptr ? threads_of->workers_
                                     : std::make_shared<Workers>(num_threads_of(plan))),
      kv_cache_(kv_geometry_of(plan, model_->config()), num_pages_),
      expert_cache_(make_expert_cache(plan, *model_)),
      transformer_(*model_, kernels_, workers_->pool, prefill_chunk_, is_precise(plan), window_,
                   expert_cache_.get()) {}

void Executor::check_ids(std::span<const int32_t> ids) const {
  const int vocab_size = model_->config().vocab_size;
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    throw Error(kArgumentError, "token id " + std::to_string(id) +
                                    " is outside the vocabulary of " + std::to_string(vocab_size));
  }
}

void Executor::forward(const Chunk& chunk, int num_logits, float* logits,
                       const Checkpoint& checkpoint) {
  const std::lock_guard lock(workers_->mutex);
  model_->check_files();
  transformer_.forward({&chunk, 1}, checkpoint);
  if (num_logits > 0) {
    const int num_tokens = chunk.num_tokens();
    transformer_.head(num_tokens - num_logits, num_tokens, logits, model_->config().vocab_size);
  }
  model_->check_files();
}

void Executor::forward(std::span<const Chunk> chunks, std::span<const int> logit_rows,
                       float* logits, const Checkpoint& checkpoint) {
  const std::lock_guard lock(workers_->mutex);
  model_->check_files();
  transformer_.forward(chunks, checkpoint);
  if (!logit_rows.empty()) transformer_.head(logit_rows, logits, model_->config().vocab_size);
  model_->check_files();
}

void Executor::logits(std::span<const int32_t> ids, float* out, const Checkpoint& checkpoint) {
  const size_t vocab_size = model_->config().vocab_size;
  for_chunks(ids, checkpoint, [&](int first, int num_tokens) {
    float* rows = out + first * vocab_size;
    transformer_.head(0, num_tokens, rows, vocab_size);
    if (!is_all_finite(rows, num_tokens * vocab_size)) throw_not_finite();
  });
}

double Executor::score(std::span<const int32_t> ids, const Checkpoint& checkpoint) {
  std::vector<double> losses(ids.size());
  for_predictions(ids, checkpoint, [&](size_t t, std::span<const float> row) {
    losses[t] = log_total(row) - row[ids[t]];
  });
  const double total = std::accumulate(losses.begin(), losses.end(), 0.0);
  if (!std::isfinite(total)) throw_not_finite();
  return total;
}

std::vector<TokenLogprob> Executor::logprobs(std::span<const int32_t> ids, int num_top,
                                             const Checkpoint& checkpoint) {
  std::vector<TokenLogprob> all(ids.size());
  for_predictions(ids, checkpoint, [&](size_t t, std::span<const float> row) {
    all[t] = token_logprob(row, ids[t], num_top);
  });
  for (const TokenLogprob& one : std::span(all).subspan(std::min<size_t>(1, all.size()))) {
    if (!std::isfinite(one.logprob)) throw_not_finite();
  }
  if (!all.empty()) all.erase(all.begin());
  return all;
}

void Executor::embed(std::span<const int32_t> ids, float* out, const Checkpoint& checkpoint) {
  const int hidden_size = model_->config().hidden_size;
  std::fill_n(out, hidden_size, 0.0f);
  for_chunks(ids, checkpoint, [&](int, int) { transformer_.add_hidden(out); });
  for (int i = 0; i < hidden_size; ++i) out[i] /= static_cast<float>(ids.size());
  if (!is_all_finite(out, hidden_size)) throw_not_finite();
}

void Executor::start_profile() {
  const std::lock_guard lock(workers_->mutex);
  recorder_.emplace();
  transformer_.set_recorder(&*recorder_);
}

std::vector<StepEvent> Executor::stop_profile() {
  const std::lock_guard lock(workers_->mutex);
  transformer_.set_recorder(nullptr);
  std::vector<StepEvent> events;
  if (recorder_) events = recorder_->events();
  recorder_.reset();
  return events;
}

Limits Executor::measure_limits() {
  const std::lock_guard lock(workers_->mutex);
  return autoglm::measure_limits(kernels_, model_->config().weights, workers_->pool);
}

template <typename Body>
void Executor::for_predictions(std::span<const int32_t> ids, const Checkpoint& checkpoint,
                               const Body& body) {
  const size_t vocab_size = model_->config().vocab_size;
  for_chunks(ids, checkpoint, [&](int first, int num_tokens) {
    score_logits_.reserve(kScoreRows * vocab_size);
    for (int row = 0; row < num_tokens; row += kScoreRows) {
      const size_t next = first + row + 1;
      const int num_rows =
          std::min({kScoreRows, num_tokens - row, static_cast<int>(ids.size() - next)});
      if (num_rows == 0) continue;
      transformer_.head(row, row + num_rows, score_logits_.data(), vocab_size);
      workers_->pool.parallel_for(num_rows, 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          body(next + i, std::span<const float>(score_logits_.data() + i * vocab_size, vocab_size));
        }
      });
    }
  });
}

// Computes a sequence of its own; body(first token, number of tokens) follows each chunk.
template <typename Body>
void Executor::for_chunks(std::span<const int32_t> ids, const Checkpoint& checkpoint,
                          const Body& body) {
  check_ids(ids);
  if (ids.size() > static_cast<size_t>(max_tokens_)) {
    throw Error(kContextFullError, std::to_string(ids.size()) + " tokens, the context holds " +
                                       std::to_string(max_tokens_));
  }
  const int num_tokens = static_cast<int>(ids.size());
  KvSequence kv(kv_cache_, window_);
  for (int first = 0; first < num_tokens; first += prefill_chunk_) {
    const int count = std::min(prefill_chunk_, num_tokens - first);
    kv.slide(first);
    kv.reserve(window_.is_on() ? first + count : num_tokens);
    const std::lock_guard lock(workers_->mutex);
    model_->check_files();
    const Chunk chunk{ids.subspan(first, count), first, kv.view()};
    transformer_.forward({&chunk, 1}, checkpoint);
    body(first, count);
    model_->check_files();
  }
}

}  // namespace autoglm
