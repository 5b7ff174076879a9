// What the steps of a forward pass take: events for `autoglm profile`, none when nobody records.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"
#include "model/config.h"
#include "model/weights.h"

namespace autoglm {

enum class Step : uint8_t {
  kEmbed,
  kAngles,  // cosines and sines of the positions
  kInputNorm,
  kQkv,        // as every step with a matrix: packing the activations and the product
  kRopeStore,  // rotation (with the norms of q and k) and the write to the KV cache
  kAttention,
  kOutput,  // with the residual add, as kDown
  kMlpNorm,
  kRouter,
  kExperts,  // the routed ones; a shared expert is kGateUp and kDown
  kGateUp,
  kDown,
  kFinalNorm,
  kHead,
};

inline constexpr int kNoLayer = -1;  // of a step before or after the layers

std::string_view step_name(Step step);

// What a step cannot avoid: every byte of memory it reads or writes counted once, and two
// operations for each multiplication and addition of a matrix product.
struct StepCost {
  uint64_t bytes = 0;
  uint64_t operations = 0;
  uint64_t kv_bytes = 0;  // those of `bytes` that belong to the KV cache

  StepCost& operator+=(const StepCost& other) {
    bytes += other.bytes;
    operations += other.operations;
    kv_bytes += other.kv_bytes;
    return *this;
  }
};

struct StepEvent {
  Step step = Step::kEmbed;
  int layer = kNoLayer;
  int num_tokens = 0;
  double start_s = 0.0;  // since the recorder was made
  double seconds = 0.0;
  StepCost cost;
};

StepCost rows_cost(int num_rows, int cols, int operations_per_value);  // read and written once
StepCost embedding_cost(const PackedMatrix& weight, int num_rows);
StepCost matrix_cost(const PackedMatrix& weight, int num_rows, int num_outputs);
StepCost linear_cost(const Linear& linear, int num_rows);
StepCost mlp_cost(const Mlp& mlp, int num_rows);
StepCost router_cost(const ModelConfig& config, int num_rows);
StepCost rope_store_cost(const ModelConfig& config, const KvLayer& kv, int num_tokens);
// Keys and values of every position up to the last token are read once, those after a token are
// left out of its operations.
StepCost attention_cost(const ModelConfig& config, const KvLayer& kv, int first_position,
                        int num_tokens);

class StepRecorder {
 public:
  void add(const StepEvent& event) { events_.push_back(event); }
  double now_s() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - origin_).count();
  }
  const std::vector<StepEvent>& events() const { return events_; }

 private:
  std::chrono::steady_clock::time_point origin_ = std::chrono::steady_clock::now();
  std::vector<StepEvent> events_;
};

// Records the block it lives in as one step; cost() is asked only when there is a recorder.
class StepScope {
 public:
  template <typename CostFunction>
  StepScope(StepRecorder* recorder, Step step, int layer, int num_tokens, const CostFunction& cost)
      : recorder_(recorder) {
    if (recorder_ == nullptr) return;
    event_ = {.step = step, .layer = layer, .num_tokens = num_tokens, .cost = cost()};
    event_.start_s = recorder_->now_s();
  }
  ~StepScope() {
    if (recorder_ == nullptr) return;
    event_.seconds = recorder_->now_s() - event_.start_s;
    recorder_->add(event_);
  }
  StepScope(const StepScope&) = delete;
  StepScope& operator=(const StepScope&) = delete;

 private:
  StepRecorder* recorder_;
  StepEvent event_;
};

}  // namespace autoglm
