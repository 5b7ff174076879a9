// The routed experts of a layer as grouped products: whatever the number of experts, the threads
// share one loop for the first matrices and one for the second.
//
// Experts add to the residual in ascending order: the same bits as one expert after the other.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/checkpoint.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/activations.h"
#include "model/expert_cache.h"
#include "model/moe.h"
#include "model/rows.h"
#include "model/weights.h"

namespace autoglm {

class RoutedExperts {
 public:
  // `gemm_scratch` is kGemmScratchBytes a thread. Experts come from `cache` unless it is null. All
  // references must outlive it.
  RoutedExperts(const Model& model, const Kernels& kernels, ThreadPool& pool, int max_tokens,
                bool is_precise, std::byte* gemm_scratch, ExpertCache* cache);

  // hidden += what the experts chosen by `router` make of `normed`, for all tokens. With a cache,
  // it has been told to start this layer.
  void run(const MoeWeights& moe, const ExpertRouter& router, Rows& normed, int num_tokens,
           Rows& hidden, const Checkpoint& checkpoint);

 private:
  struct Member {
    const Mlp* mlp = nullptr;
    std::span<const ExpertRow> rows;
    int first_row = 0;  // of activated_
    PackedRows x;
    PackedRows activated;
  };
  struct MemberRow {
    int member = 0;
    int row = 0;  // of the member
  };

  // Takes experts from `used` until one is not ready or the scratch is full; returns how many.
  size_t gather(const MoeWeights& moe, const ExpertRouter& router, std::span<const ExpertUse> used,
                const Checkpoint& checkpoint);
  const Mlp* acquire(const MoeWeights& moe, int expert, const Checkpoint& checkpoint);
  void pack_tokens(const Mlp& mlp, Rows& normed, int num_tokens);
  void gather_rows(int num_tokens);
  void multiply_gate_up();
  void pack_activated();
  void multiply_down(Rows& hidden);
  std::byte* scratch(int thread) const { return gemm_scratch_ + kGemmScratchBytes * thread; }

  const ModelConfig& config_;
  const Kernels& kernels_;
  ThreadPool& pool_;
  std::byte* gemm_scratch_;
  ExpertCache* cache_;
  int most_rows_;               // of a group
  PackedActivations tokens_;    // every token once
  PackedActivations gathered_;  // the tokens of each member
  PackedActivations packed_;    // what follows the first matrices
  PackedRows token_rows_;
  Rows activated_;               // [most_rows_][moe_intermediate_size]
  Rows projected_;               // of one expert
  std::vector<Member> members_;  // the group
  std::vector<MemberRow> member_rows_;
};

}  // namespace autoglm
