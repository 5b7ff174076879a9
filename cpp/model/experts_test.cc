// Grouped experts against one expert after the other, for every path this processor has.
#include "model/experts.h"

#include <random>
#include <vector>

#include "base/check.h"
#include "base/cpu_features.h"
#include "model/testing.h"

namespace autoglm {
namespace {

using test::tiny_moe_config;
using test::TinyModel;

constexpr int kMaxTokens = 300;  // more rows than one group holds

ModelConfig many_experts_config(WeightType weights) {
  ModelConfig config = tiny_moe_config(weights);
  config.num_experts = 80;  // more than one group has
  config.num_experts_per_tok = 5;
  config.n_group = 1;
  return config;
}

Rows random_rows(int num_rows, int cols, uint32_t seed) {
  std::mt19937 rng(seed);
  Rows rows(num_rows, cols);
  for (int r = 0; r < num_rows; ++r) {
    for (int k = 0; k < cols; ++k) rows[r][k] = static_cast<float>(rng()) * 0x1p-32f - 0.5f;
  }
  return rows;
}

std::vector<float> values(Rows& rows, int num_rows, int cols) {
  std::vector<float> out;
  for (int r = 0; r < num_rows; ++r) out.insert(out.end(), rows[r], rows[r] + cols);
  return out;
}

// One expert after the other on one thread, each with activations packed for it alone.
class OneByOne {
 public:
  OneByOne(const ModelConfig& config, const Kernels& kernels)
      : config_(config),
        kernels_(kernels),
        packed_(kernels, true),
        activated_(kMaxTokens, config.moe_intermediate_size),
        projected_(kMaxTokens, config.hidden_size),
        scratch_(kGemmScratchBytes) {
    for (const int cols : {config.hidden_size, config.moe_intermediate_size}) {
      packed_.reserve(config.weights, kMaxTokens, round_up(cols, k_align(config.weights)));
    }
  }

  void run(const MoeWeights& moe, const ExpertRouter& router, Rows& normed, Rows& hidden) {
    for (int e = 0; e < config_.num_experts; ++e) {
      const auto rows = router.rows(e);
      const int num_rows = static_cast<int>(rows.size());
      if (num_rows == 0) continue;
      const PackedMatrix& gate_up = moe.experts[e].gate_up.matrix;
      PackedRows x = packed_.prepare(gate_up, num_rows);
      for (int i = 0; i < num_rows; ++i) {
        kernels_.pack_row(x, gate_up.type, i, normed[rows[i].token], gate_up.cols);
      }
      multiply(gate_up, x, activated_, Epilogue::kSwiGlu);
      const PackedMatrix& down = moe.experts[e].down.matrix;
      x = packed_.prepare(down, num_rows);
      for (int i = 0; i < num_rows; ++i) {
        kernels_.pack_row(x, down.type, i, activated_[i], down.cols);
      }
      multiply(down, x, projected_, Epilogue::kStore);
      for (int i = 0; i < num_rows; ++i) {
        float* to = hidden[rows[i].token];
        for (int k = 0; k < config_.hidden_size; ++k) to[k] += rows[i].weight * projected_[i][k];
      }
    }
  }

 private:
  void multiply(const PackedMatrix& weight, const PackedRows& x, Rows& out, Epilogue epilogue) {
    kernels_.gemm(weight, x, {.data = out[0], .stride = out.stride, .epilogue = epilogue}, 0,
                  weight.padded_rows / kRowBlock, scratch_.data());
  }

  const ModelConfig& config_;
  const Kernels& kernels_;
  PackedActivations packed_;
  Rows activated_;
  Rows projected_;
  AlignedBuffer<std::byte> scratch_;
};

void check_same_bits(const ModelConfig& config, const Model& model, Isa isa) {
  const Kernels& kernels = kernels_for(isa);
  const MoeWeights& moe = model.layers()[1].moe;
  const int cols = config.hidden_size;
  OneByOne one_by_one(config, kernels);
  for (const int num_threads : {1, 3}) {
    ThreadPool pool(num_threads);
    AlignedBuffer<std::byte> scratch(kGemmScratchBytes * num_threads);
    ExpertRouter router(config, kMaxTokens);
    RoutedExperts experts(model, kernels, pool, kMaxTokens, true, scratch.data(), nullptr);
    for (const int num_tokens : {1, 2, 7, kMaxTokens}) {
      Rows normed = random_rows(num_tokens, cols, num_tokens);
      Rows expected = random_rows(num_tokens, cols, 99), got = random_rows(num_tokens, cols, 99);
      router.route(moe, normed[0], normed.stride, num_tokens, pool);
      one_by_one.run(moe, router, normed, expected);
      experts.run(moe, router, normed, num_tokens, got, [] {});
      CHECK(values(got, num_tokens, cols) == values(expected, num_tokens, cols));
    }
  }
}

void test_grouped_experts_give_the_bits_of_one_after_the_other() {
  for (const WeightType type :
       {WeightType::kF32, WeightType::kBF16, WeightType::kI8, WeightType::kI4, WeightType::kI3}) {
    const ModelConfig config = many_experts_config(type);
    const TinyModel tiny(config);
    const auto model = tiny.load();
    for (const Isa isa : supported_isas()) check_same_bits(config, *model, isa);
  }
}

// Every token chooses the same experts: they read the tokens' rows without a copy.
void test_experts_that_all_tokens_chose() {
  ModelConfig config = tiny_moe_config(WeightType::kI4);
  config.num_experts = config.num_experts_per_tok = 2;
  config.n_group = 1;
  const TinyModel tiny(config);
  const auto model = tiny.load();
  for (const Isa isa : supported_isas()) check_same_bits(config, *model, isa);
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_grouped_experts_give_the_bits_of_one_after_the_other();
  autoglm::test_experts_that_all_tokens_chose();
  return autoglm::test::finish_tests();
}
