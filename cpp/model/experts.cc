#include "model/experts.h"

#include <algorithm>

namespace autoglm {
namespace {

// Bound the scratch of a group; enough of both that a loop has work for all threads.
constexpr size_t kMostMembers = 64;
constexpr int kSpareRows = 256;  // beyond those that one expert may have

}  // namespace

RoutedExperts::RoutedExperts(const Model& model, const Kernels& kernels, ThreadPool& pool,
                             int max_tokens, bool is_precise, std::byte* gemm_scratch,
                             ExpertCache* cache)
    : config_(model.config()),
      kernels_(kernels),
      pool_(pool),
      gemm_scratch_(gemm_scratch),
      cache_(cache),
      most_rows_(std::min(max_tokens + kSpareRows, max_tokens * config_.num_experts_per_tok)),
      tokens_(kernels, is_precise),
      gathered_(kernels, is_precise),
      packed_(kernels, is_precise) {
  if (config_.num_experts == 0) return;
  for (const WeightType type : model.weight_types()) {
    const int hidden = round_up(config_.hidden_size, k_align(type));
    const int inner = round_up(config_.moe_intermediate_size, k_align(type));
    tokens_.reserve(type, max_tokens, hidden);
    gathered_.reserve(type, most_rows_, hidden, kMostMembers);
    packed_.reserve(type, most_rows_, inner, kMostMembers);
  }
  activated_ = Rows(most_rows_, config_.moe_intermediate_size);
  projected_ = Rows(max_tokens, config_.hidden_size);
  members_.reserve(kMostMembers);
  member_rows_.reserve(most_rows_);
}

void RoutedExperts::run(const MoeWeights& moe, const ExpertRouter& router, Rows& normed,
                        int num_tokens, Rows& hidden, const Checkpoint& checkpoint) {
  pack_tokens(moe.experts[0], normed, num_tokens);
  for (std::span<const ExpertUse> used = router.used(); !used.empty();) {
    used = used.subspan(gather(moe, router, used, checkpoint));
    gather_rows(num_tokens);
    multiply_gate_up();
    pack_activated();
    multiply_down(hidden);
    if (cache_ != nullptr) cache_->release();
  }
}

void RoutedExperts::pack_tokens(const Mlp& mlp, Rows& normed, int num_tokens) {
  const PackedMatrix& weight = mlp.gate_up.matrix;
  token_rows_ = tokens_.prepare(weight, num_tokens);
  for_rows(pool_, num_tokens,
           [&](int t) { kernels_.pack_row(token_rows_, weight.type, t, normed[t], weight.cols); });
}

size_t RoutedExperts::gather(const MoeWeights& moe, const ExpertRouter& router,
                             std::span<const ExpertUse> used, const Checkpoint& checkpoint) {
  members_.clear();
  member_rows_.clear();
  for (const ExpertUse& use : used) {
    const int first_row = static_cast<int>(member_rows_.size());
    if (members_.size() == kMostMembers || first_row + use.num_rows > most_rows_) break;
    const Mlp* mlp = acquire(moe, use.expert, checkpoint);
    if (mlp == nullptr) break;
    const int member = static_cast<int>(members_.size());
    members_.push_back({mlp, router.rows(use.expert), first_row, {}, {}});
    for (int row = 0; row < use.num_rows; ++row) member_rows_.push_back({member, row});
  }
  return members_.size();
}

// Waits for the first expert of a group only.
const Mlp* RoutedExperts::acquire(const MoeWeights& moe, int expert, const Checkpoint& checkpoint) {
  if (cache_ == nullptr) return &moe.experts[expert];
  return members_.empty() ? &cache_->take_next(checkpoint) : cache_->try_take_next();
}

// The packed rows of each member's tokens; one that all tokens chose reads them where they are.
void RoutedExperts::gather_rows(int num_tokens) {
  gathered_.clear();
  bool is_any_copied = false;
  for (Member& member : members_) {
    const int num_rows = static_cast<int>(member.rows.size());
    const bool is_copied = num_rows < num_tokens;
    member.x = is_copied ? gathered_.append(member.mlp->gate_up.matrix, num_rows) : token_rows_;
    is_any_copied = is_any_copied || is_copied;
  }
  if (!is_any_copied) return;
  for_rows(pool_, static_cast<int>(member_rows_.size()), [&](int i) {
    const Member& member = members_[member_rows_[i].member];
    if (member.x.data == token_rows_.data) return;
    const int row = member_rows_[i].row;
    copy_packed_row(member.mlp->gate_up.matrix.type, token_rows_, member.rows[row].token, member.x,
                    row);
  });
}

void RoutedExperts::multiply_gate_up() {
  const int num_blocks = members_[0].mlp->gate_up.matrix.padded_rows / kRowBlock;
  const int64_t count = static_cast<int64_t>(num_blocks) * static_cast<int64_t>(members_.size());
  pool_.parallel_for(count, block_grain(count, pool_.num_threads()),
                     [&](int64_t begin, int64_t end, int thread) {
                       while (begin < end) {
                         const Member& member = members_[begin / num_blocks];
                         const int64_t base = begin / num_blocks * num_blocks;
                         const int64_t stop = std::min<int64_t>(end, base + num_blocks);
                         kernels_.gemm(member.mlp->gate_up.matrix, member.x,
                                       {.data = activated_[member.first_row],
                                        .stride = activated_.stride,
                                        .epilogue = Epilogue::kSwiGlu},
                                       static_cast<int>(begin - base),
                                       static_cast<int>(stop - base), scratch(thread));
                         begin = stop;
                       }
                     });
}

void RoutedExperts::pack_activated() {
  packed_.clear();
  for (Member& member : members_) {
    const int num_rows = static_cast<int>(member.rows.size());
    member.activated = packed_.append(member.mlp->down.matrix, num_rows);
  }
  for_rows(pool_, static_cast<int>(member_rows_.size()), [&](int i) {
    const Member& member = members_[member_rows_[i].member];
    kernels_.pack_row(member.activated, member.mlp->down.matrix.type, member_rows_[i].row,
                      activated_[i], config_.moe_intermediate_size);
  });
}

// A thread owns columns of the residual and adds one expert after the other to them.
void RoutedExperts::multiply_down(Rows& hidden) {
  const int num_blocks = members_[0].mlp->down.matrix.padded_rows / kRowBlock;
  pool_.parallel_for(
      num_blocks, block_grain(num_blocks, pool_.num_threads()),
      [&](int64_t begin, int64_t end, int thread) {
        const int first = static_cast<int>(begin) * kRowBlock;
        const int last = std::min(static_cast<int>(end) * kRowBlock, config_.hidden_size);
        for (const Member& member : members_) {
          kernels_.gemm(member.mlp->down.matrix, member.activated,
                        {.data = projected_[0], .stride = projected_.stride},
                        static_cast<int>(begin), static_cast<int>(end), scratch(thread));
          for (size_t i = 0; i < member.rows.size(); ++i) {
            const auto [token, weight] = member.rows[i];
            const float* from = projected_[static_cast<int>(i)];
            float* to = hidden[token];
            for (int k = first; k < last; ++k) to[k] += weight * from[k];
          }
        }
      });
}

}  // namespace autoglm
