// The checks of the tensor table and the configuration.
#include "model/weights.h"

#include <cmath>
#include <functional>
#include <string>

#include "base/check.h"
#include "model/testing.h"

namespace autoglm {
namespace {

using test::tiny_config;
using test::tiny_moe_config;
using test::TinyModel;

TensorEntry& find(std::vector<TensorEntry>& table, const std::string& name) {
  for (TensorEntry& entry : table) {
    if (entry.name == name) return entry;
  }
  std::abort();
}

void test_every_weight_type_loads() {
  for (const WeightType type :
       {WeightType::kF32, WeightType::kBF16, WeightType::kI8, WeightType::kI4, WeightType::kI3}) {
    const TinyModel dense(tiny_config(type)), moe(tiny_moe_config(type));
    CHECK_EQ(dense.load()->layers().size(), 2u);
    CHECK_EQ(moe.load()->layers()[1].moe.experts.size(), 6u);
  }
}

void test_stacked_experts_lie_one_after_the_other() {
  const TinyModel model(tiny_moe_config());
  const auto loaded = model.load();
  const auto& experts = loaded->layers()[1].moe.experts;
  const size_t bytes = packed_parts(WeightType::kF32, 40, 18)[0].bytes;
  CHECK_EQ(experts[5].down.matrix.weight - experts[4].down.matrix.weight,
           static_cast<ptrdiff_t>(bytes));
}

void test_broken_tables_are_refused() {
  const TinyModel model(tiny_config());
  const std::string name = "model.layers.1.attn.o.weight";
  const std::vector<std::function<void(TensorEntry&)>> edits = {
      [](TensorEntry& t) { t.name = "other"; },
      [](TensorEntry& t) { t.dtype = "BF16"; },
      [](TensorEntry& t) { t.shape[0] += 1; },
      [](TensorEntry& t) { t.shape.push_back(1); },
      [](TensorEntry& t) { t.num_bytes -= 64; },
      [](TensorEntry& t) { t.num_bytes = ~uint64_t{63}; },
      [](TensorEntry& t) { t.offset += 4; },
      [](TensorEntry& t) { t.offset = ~uint64_t{63}; },
      [](TensorEntry& t) { t.offset = 0; },
      [](TensorEntry& t) { t.file_index = 1; },
      [](TensorEntry& t) { t.file_index = -1; },
  };
  for (const auto& edit : edits) {
    std::vector<TensorEntry> table = model.table();
    edit(find(table, name));
    CHECK_THROWS(kModelFileError, model.load(table));
  }
  std::vector<TensorEntry> twice = model.table();
  twice.push_back(twice.front());
  CHECK_THROWS(kModelFileError, model.load(twice));
}

void test_configurations_out_of_bounds_are_refused() {
  const std::vector<std::function<void(ModelConfig&)>> edits = {
      [](ModelConfig& c) { c.vocab_size = 0; },
      [](ModelConfig& c) { c.hidden_size = 131073; },
      [](ModelConfig& c) { c.num_heads = 3; },
      [](ModelConfig& c) { c.num_heads = 0; },
      [](ModelConfig& c) { c.head_dim = 11; },
      [](ModelConfig& c) { c.rotary_dim = 12; },
      [](ModelConfig& c) { c.inv_freq.pop_back(); },
      [](ModelConfig& c) { c.inv_freq[0] = NAN; },
      [](ModelConfig& c) { c.rms_norm_eps = NAN; },
      [](ModelConfig& c) { c.rope_scale = INFINITY; },
      [](ModelConfig& c) { c.num_experts_per_tok = 4; },
      [](ModelConfig& c) { c.n_group = 4; },
      [](ModelConfig& c) { c.sandwich_norms = true; },
  };
  for (const auto& edit : edits) {
    ModelConfig config = tiny_moe_config();
    edit(config);
    CHECK_THROWS(kConfigError, validate_config(config));
  }
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_every_weight_type_loads();
  autoglm::test_stacked_experts_lie_one_after_the_other();
  autoglm::test_broken_tables_are_refused();
  autoglm::test_configurations_out_of_bounds_are_refused();
  return autoglm::test::finish_tests();
}
