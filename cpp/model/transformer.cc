#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/finite.h"

namespace autoglm {
namespace {

constexpr int kNormOperations = 4;  // square, add, scale and gain of a value
// More tokens use nearly every expert of a layer.
constexpr int kMostPredictedTokens = 8;

int widest_activation(const ModelConfig& c) {
  const int shared =
      c.num_experts > 0 ? c.moe_intermediate_size * std::max(c.num_shared_experts, 1) : 0;
  return std::max(c.intermediate_size, shared);
}

}  // namespace

Transformer::Transformer(const Model& model, const Kernels& kernels, ThreadPool& pool,
                         int max_tokens, bool is_precise, const KvWindow& window,
                         ExpertCache* expert_cache)
    : model_(model),
      config_(model.config()),
      kernels_(kernels),
      pool_(pool),
      is_precise_(is_precise),
      packed_(kernels, is_precise),
      packed_sums_(kernels, true),
      router_(config_, config_.num_experts > 0 ? max_tokens : 0),
      predictor_(config_, expert_cache != nullptr ? kMostPredictedTokens : 0),
      expert_cache_(expert_cache),
      hidden_(max_tokens, config_.hidden_size),
      normed_(max_tokens, config_.hidden_size),
      qkv_(max_tokens, config_.qkv_rows()),
      attended_(max_tokens, config_.attention_cols()),
      activated_(max_tokens, widest_activation(config_)),
      projected_(config_.sandwich_norms ? max_tokens : 0, config_.hidden_size),
      predicted_(expert_cache != nullptr ? kMostPredictedTokens : 0, config_.hidden_size),
      cos_(max_tokens, config_.rotary_dim / 2),
      sin_(max_tokens, config_.rotary_dim / 2),
      pass_(window, max_tokens),
      sink_q_(window.is_on() ? max_tokens : 0, config_.attention_cols()),
      sink_cos_(window.is_on() ? max_tokens : 0, config_.rotary_dim / 2),
      sink_sin_(window.is_on() ? max_tokens : 0, config_.rotary_dim / 2),
      attention_scratch_(pool.num_threads(),
                         static_cast<int>(attention_scratch_floats(config_.head_dim))),
      gemm_scratch_(kGemmScratchBytes * pool.num_threads()),
      experts_(model, kernels, pool, max_tokens, is_precise, gemm_scratch_.data(), expert_cache) {
  for (const WeightType type : model.weight_types()) {
    for (const int cols : {config_.hidden_size, config_.attention_cols(), activated_.stride}) {
      packed_.reserve(type, max_tokens, round_up(cols, k_align(type)));
    }
  }
  reserve_inputs(max_tokens);
}

void Transformer::reserve_inputs(int max_tokens) {
  int most_groups = 0, most_rows = 0;
  for (const LayerWeights& layer : model_.layers()) {
    const Mlp& mlp = layer.moe.experts.empty() ? layer.mlp : layer.moe.shared;
    for (const Linear* linear : {&layer.qkv, &layer.o, &mlp.gate_up, &mlp.down}) {
      packed_.reserve(*linear, max_tokens);
      if (!linear->has_offset()) continue;
      packed_sums_.reserve(linear->offset.type, max_tokens, linear->offset.padded_cols);
      most_groups = std::max(most_groups, linear->num_groups());
      most_rows = std::max(most_rows, linear->matrix.rows);
    }
  }
  if (most_groups == 0) return;
  sums_ = Rows(max_tokens, most_groups);
  offsets_ = Rows(max_tokens, most_rows);
}

template <typename RowOf>
void Transformer::normalize(Step step, const float* gain, int num_rows, const RowOf& row_of) {
  const StepScope scope = time_step(
      step, num_rows, [&] { return rows_cost(num_rows, config_.hidden_size, kNormOperations); });
  for_rows(pool_, num_rows, [&](int i) {
    kernels_.rms_norm(hidden_[row_of(i)], gain, config_.rms_norm_eps, config_.hidden_size,
                      normed_[i]);
  });
}

// One row at a time, which is in the cache then.
template <typename RowOf>
PackedRows Transformer::normalize_and_pack(Step step, const float* gain, const Linear& linear,
                                           int num_rows, const RowOf& row_of) {
  const StepScope scope = time_step(
      step, num_rows, [&] { return rows_cost(num_rows, config_.hidden_size, kNormOperations); });
  const PackedRows x = packed_.prepare(linear, num_rows);
  for_rows(pool_, num_rows, [&](int i) {
    kernels_.rms_norm(hidden_[row_of(i)], gain, config_.rms_norm_eps, config_.hidden_size,
                      normed_[i]);
    pack_row(linear, x, i, normed_[i]);
  });
  return x;
}

void Transformer::forward(std::span<const Chunk> chunks, const Checkpoint& checkpoint) {
  pass_.begin(chunks);
  layer_ = kNoLayer;
  is_broken_ = false;
  embed();
  compute_rotations();
  for (layer_ = 0; layer_ < config_.num_layers; ++layer_) {
    checkpoint();
    const LayerWeights& layer = model_.layers()[layer_];
    attention_block(layer);
    mlp_block(layer, pass_.num_rows(), checkpoint);
  }
  check_hidden();
}

// Whatever breaks inside a layer ends here: packing activations hands NaN on to the whole row.
void Transformer::check_hidden() {
  for_rows(pool_, pass_.num_rows(), [&](int row) {
    if (!is_all_finite(hidden_[row], config_.hidden_size)) is_broken_ = true;
  });
  if (is_broken_) throw_not_finite();
}

void Transformer::head(int begin, int end, float* logits, size_t stride) {
  compute_head(end - begin, [begin](int i) { return begin + i; }, logits, stride);
}

void Transformer::head(std::span<const int> rows, float* logits, size_t stride) {
  compute_head(static_cast<int>(rows.size()), [rows](int i) { return rows[i]; }, logits, stride);
}

template <typename RowOf>
void Transformer::compute_head(int num_rows, const RowOf& row_of, float* logits, size_t stride) {
  layer_ = kNoLayer;
  const PackedMatrix& weight = model_.head();
  const PackedRows x =
      normalize_and_pack(Step::kFinalNorm, model_.final_norm(), {weight}, num_rows, row_of);
  const StepScope scope =
      time_step(Step::kHead, num_rows, [&] { return matrix_cost(weight, num_rows, weight.rows); });
  gemm(weight, x, {.data = logits, .stride = static_cast<int>(stride)});
}

void Transformer::add_hidden(float* sum) {
  layer_ = kNoLayer;
  normalize(Step::kFinalNorm, model_.final_norm(), pass_.num_rows(), [](int row) { return row; });
  for (int row = 0; row < pass_.num_rows(); ++row) {
    kernels_.add(normed_[row], config_.hidden_size, sum);
  }
}

void Transformer::embed() {
  const int num_rows = pass_.num_rows();
  const StepScope scope = time_step(Step::kEmbed, num_rows,
                                    [&] { return embedding_cost(model_.embedding(), num_rows); });
  for_rows(pool_, num_rows,
           [&](int row) { kernels_.unpack_row(model_.embedding(), pass_.id(row), hidden_[row]); });
}

void Transformer::compute_rotations() {
  const int num_rows = pass_.num_rows();
  const StepScope scope = time_step(Step::kAngles, num_rows,
                                    [&] { return rows_cost(num_rows, config_.rotary_dim / 2, 0); });
  for_rows(pool_, num_rows, [&](int row) {
    const int position = pass_.place(row).position;
    compute_rotation(position, cos_[row], sin_[row]);
    if (num_hidden(position) == 0) return;
    compute_rotation(pass_.window().visible_position(position), sink_cos_[row], sink_sin_[row]);
  });
}

// Angles in float32, as the reference implementations compute them; float64 for positions that only
// a window reaches, where float32 would lose the distance between neighbours.
void Transformer::compute_rotation(int position, float* cos, float* sin) const {
  for (int i = 0; i < config_.rotary_dim / 2; ++i) {
    if (position < config_.max_position) {
      const float angle = static_cast<float>(position) * config_.inv_freq[i];
      cos[i] = std::cos(angle) * config_.rope_scale;
      sin[i] = std::sin(angle) * config_.rope_scale;
    } else {
      const double angle = static_cast<double>(position) * config_.inv_freq[i];
      cos[i] = static_cast<float>(std::cos(angle)) * config_.rope_scale;
      sin[i] = static_cast<float>(std::sin(angle)) * config_.rope_scale;
    }
  }
}

void Transformer::attention_block(const LayerWeights& layer) {
  const int num_rows = pass_.num_rows();
  const PackedRows x = normalize_and_pack(Step::kInputNorm, layer.input_norm, layer.qkv, num_rows,
                                          [](int row) { return row; });
  {
    const StepScope scope =
        time_step(Step::kQkv, num_rows, [&] { return linear_cost(layer.qkv, num_rows); });
    gemm(layer.qkv, x, qkv_, Epilogue::kStore);
  }
  rotate_and_store(layer);
  attend();
  const StepScope scope =
      time_step(Step::kOutput, num_rows, [&] { return linear_cost(layer.o, num_rows); });
  add_to_residual(layer.o, pack(layer.o, attended_, num_rows), layer.attention_post_norm);
}

KvLayer Transformer::kv_layer(const Chunk& chunk) const {
  return {.type = chunk.kv.type,
          .base = chunk.kv.base + layer_ * chunk.kv.layer_bytes,
          .page_table = chunk.kv.page_table,
          .page_stride = chunk.kv.page_stride,
          .num_kv_heads = config_.num_kv_heads,
          .head_dim = config_.head_dim};
}

void Transformer::rotate_and_store(const LayerWeights& layer) {
  const int dim = config_.head_dim;
  const int num_query = config_.num_heads;
  const int num_rows = pass_.num_rows();
  const StepScope scope = time_step(Step::kRopeStore, num_rows, [&] {
    return rope_store_cost(config_, kv_layer(pass_.chunk(0)), num_rows);
  });
  for_rows(pool_, num_rows, [&](int row) {
    const auto [chunk, position] = pass_.place(row);
    for (int h = 0; h < num_query + config_.num_kv_heads; ++h) {
      float* head = qkv_[row] + h * dim;
      if (config_.qk_norm) {
        const float* gain = h < num_query ? layer.q_norm : layer.k_norm;
        kernels_.rms_norm(head, gain, config_.rms_norm_eps, dim, head);
      }
      if (h < num_query && num_hidden(position) > 0) {
        float* sink_head = std::copy_n(head, dim, sink_q_[row] + h * dim) - dim;
        kernels_.rope(sink_head, sink_cos_[row], sink_sin_[row], config_.rotary_dim,
                      config_.rope_interleaved);
      }
      kernels_.rope(head, cos_[row], sin_[row], config_.rotary_dim, config_.rope_interleaved);
    }
    if (!is_all_finite(qkv_[row], config_.qkv_rows())) {
      is_broken_ = true;
      return;
    }
    const float* keys = qkv_[row] + num_query * dim;
    kernels_.store_kv(kv_layer(pass_.chunk(chunk)), position, keys,
                      keys + config_.num_kv_heads * dim);
  });
}

void Transformer::attend() {
  const StepScope scope = time_step(Step::kAttention, pass_.num_rows(), [&] {
    StepCost cost;
    for (const Chunk& chunk : pass_.chunks()) {
      const int first = pass_.window().visible_position(chunk.first_position);
      cost += attention_cost(config_, kv_layer(chunk), first, chunk.num_tokens());
    }
    return cost;
  });
  const std::span<const Pass::Piece> pieces = pass_.pieces();
  const auto num_pieces = static_cast<int64_t>(pieces.size());
  pool_.parallel_for(
      num_pieces * config_.num_kv_heads, 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t item = begin; item < end; ++item) {
          // Heads one after the other, so that the keys of one stay in the cache.
          const Pass::Piece& piece = pieces[item % num_pieces];
          kernels_.attention(attention_args(piece), static_cast<int>(item / num_pieces),
                             piece.first, piece.last, attention_scratch_[thread]);
        }
      });
}

AttentionArgs Transformer::attention_args(const Pass::Piece& piece) {
  const Chunk& chunk = pass_.chunk(piece.chunk);
  const int row = pass_.first_row(piece.chunk);
  AttentionArgs args{
      .kv = kv_layer(chunk),
      .q = qkv_[row],
      .out = attended_[row],
      .q_stride = qkv_.stride,
      .out_stride = attended_.stride,
      .num_heads = config_.num_heads,
      .first_position = chunk.first_position,
      .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
      .query_planes = is_precise_ ? 2 : 1,
  };
  const int position = chunk.first_position + piece.first;
  if (const int hidden = num_hidden(position); hidden > 0) {
    args.kv.page_table = pass_.visible_pages(piece.chunk, position);
    args.first_position -= hidden * kPageTokens;
    args.num_sink_keys = pass_.window().num_sink_pages * kPageTokens;
    args.sink_q = sink_q_[row];
    args.sink_q_stride = sink_q_.stride;
  }
  return args;
}

void Transformer::mlp_block(const LayerWeights& layer, int num_tokens,
                            const Checkpoint& checkpoint) {
  const auto same_row = [](int row) { return row; };
  if (layer.moe.experts.empty()) {
    const PackedRows x =
        normalize_and_pack(Step::kMlpNorm, layer.mlp_norm, layer.mlp.gate_up, num_tokens, same_row);
    dense_mlp(layer.mlp, x, layer.mlp_post_norm);
  } else {
    normalize(Step::kMlpNorm, layer.mlp_norm, num_tokens, same_row);
    moe_block(layer.moe, num_tokens, checkpoint);
  }
}

void Transformer::dense_mlp(const Mlp& mlp, const PackedRows& x, const float* post_norm) {
  const int num_tokens = x.rows;
  {
    const StepScope scope = time_step(Step::kGateUp, num_tokens, [&] {
      return matrix_cost(mlp.gate_up.matrix, num_tokens, mlp.down.matrix.cols);
    });
    gemm(mlp.gate_up, x, activated_, Epilogue::kSwiGlu);
  }
  const StepScope scope =
      time_step(Step::kDown, num_tokens, [&] { return linear_cost(mlp.down, num_tokens); });
  add_to_residual(mlp.down, pack(mlp.down, activated_, num_tokens), post_norm);
}

// Experts add to the residual in ascending order, the shared one last, whatever else is in the
// chunk.
void Transformer::moe_block(const MoeWeights& moe, int num_tokens, const Checkpoint& checkpoint) {
  {
    const StepScope scope =
        time_step(Step::kRouter, num_tokens, [&] { return router_cost(config_, num_tokens); });
    router_.route(moe, normed_[0], normed_.stride, num_tokens, pool_);
  }
  if (expert_cache_ != nullptr) expert_cache_->start(layer_, router_.used(), num_tokens);
  expect_experts(num_tokens);
  {
    const StepScope scope = time_step(Step::kExperts, num_tokens, [&] {
      StepCost cost;
      for (const ExpertUse& use : router_.used()) {
        cost += mlp_cost(moe.experts[use.expert], use.num_rows);
      }
      return cost;
    });
    experts_.run(moe, router_, normed_, num_tokens, hidden_, checkpoint);
  }
  if (config_.num_shared_experts == 0) return;
  dense_mlp(moe.shared, pack(moe.shared.gate_up, normed_, num_tokens), nullptr);
}

// Reads ahead what the next layer's router would choose now: attention and these experts change the
// hidden states little.
void Transformer::expect_experts(int num_tokens) {
  const int next = layer_ + 1;
  if (expert_cache_ == nullptr || next >= config_.num_layers || num_tokens > kMostPredictedTokens) {
    return;
  }
  const StepScope scope =
      time_step(Step::kRouter, num_tokens, [&] { return router_cost(config_, num_tokens); });
  const LayerWeights& layer = model_.layers()[next];
  for (int t = 0; t < num_tokens; ++t) {
    kernels_.rms_norm(hidden_[t], layer.mlp_norm, config_.rms_norm_eps, config_.hidden_size,
                      predicted_[t]);
  }
  predictor_.route(layer.moe, predicted_[0], predicted_.stride, num_tokens, pool_);
  expert_cache_->expect(next, predictor_.used());
}

PackedRows Transformer::pack(const Linear& linear, Rows& rows, int num_rows) {
  const PackedRows x = packed_.prepare(linear, num_rows);
  for_rows(pool_, num_rows, [&](int row) { pack_row(linear, x, row, rows[row]); });
  return x;
}

// Changes `values` to what the matrix is to meet. NaN passes both steps.
void Transformer::pack_row(const Linear& linear, const PackedRows& x, int row, float* values) {
  const int cols = linear.matrix.cols;
  if (linear.input_scale != nullptr) {
    for (int k = 0; k < cols; ++k) values[k] *= linear.input_scale[k];
  }
  if (const float range = linear.input_range; range > 0.0f) {
    for (int k = 0; k < cols; ++k) values[k] = std::min(std::max(values[k], -range), range);
  }
  kernels_.pack_row(x, linear.matrix.type, row, values, cols);
  if (!linear.has_offset()) return;
  for (int g = 0; g < linear.num_groups(); ++g) {
    const int end = std::min((g + 1) * kGroupSize, cols);
    sums_[row][g] = std::accumulate(values + g * kGroupSize, values + end, 0.0f);
  }
}

void Transformer::gemm(const Linear& linear, const PackedRows& x, Rows& out, Epilogue epilogue) {
  GemmOutput output{
      .data = out[0], .stride = out.stride, .bias = linear.bias, .epilogue = epilogue};
  if (linear.has_offset()) {
    const PackedRows sums = packed_sums_.prepare(linear.offset, x.rows);
    for_rows(pool_, x.rows, [&](int row) {
      kernels_.pack_row(sums, linear.offset.type, row, sums_[row], linear.offset.cols);
    });
    gemm(linear.offset, sums,
         {.data = offsets_[0], .stride = offsets_.stride, .bias = linear.bias});
    output.bias = offsets_[0];
    output.bias_stride = offsets_.stride;
  }
  gemm(linear.matrix, x, output);
}

void Transformer::gemm(const PackedMatrix& weight, const PackedRows& x, const GemmOutput& out) {
  const int num_blocks = weight.padded_rows / kRowBlock;
  const int64_t grain = block_grain(num_blocks, pool_.num_threads(), x.rows);
  pool_.parallel_for(num_blocks, grain, [&](int64_t begin, int64_t end, int thread) {
    kernels_.gemm(weight, x, out, static_cast<int>(begin), static_cast<int>(end),
                  gemm_scratch_.data() + kGemmScratchBytes * thread);
  });
}

void Transformer::add_to_residual(const Linear& linear, const PackedRows& x,
                                  const float* post_norm) {
  if (post_norm == nullptr) {
    gemm(linear, x, hidden_, Epilogue::kAdd);
    return;
  }
  gemm(linear, x, projected_, Epilogue::kStore);
  for_rows(pool_, x.rows, [&](int t) {
    float* row = projected_[t];
    kernels_.rms_norm(row, post_norm, config_.rms_norm_eps, config_.hidden_size, row);
    kernels_.add(row, config_.hidden_size, hidden_[t]);
  });
}

}  // namespace autoglm
