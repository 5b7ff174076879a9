#include "model/pass.h"

#include <algorithm>

namespace autoglm {
namespace {

constexpr int kPieceTokens = 32;

}  // namespace

Pass::Pass(const KvWindow& window, int max_tokens) : window_(window), max_tokens_(max_tokens) {
  places_.reserve(max_tokens);
}

void Pass::begin(std::span<const Chunk> chunks) {
  chunks_ = chunks;
  first_rows_.clear();
  places_.clear();
  pieces_.clear();
  for (int index = 0; index < static_cast<int>(chunks.size()); ++index) {
    const Chunk& chunk = chunks[index];
    first_rows_.push_back(num_rows());
    for (int t = 0; t < chunk.num_tokens(); ++t) {
      places_.push_back({.chunk = index, .position = chunk.first_position + t});
    }
    add_pieces(index);
    if (!window_.is_on()) continue;
    if (static_cast<int>(tables_.size()) == index) tables_.emplace_back(window_, max_tokens_);
    tables_[index].build(chunk.kv.page_table, chunk.first_position, chunk.num_tokens());
  }
  std::stable_sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) {
    return (a.last - a.first) * int64_t{a.num_keys} > (b.last - b.first) * int64_t{b.num_keys};
  });
}

// With a window no piece may cross the end of a page.
void Pass::add_pieces(int index) {
  const Chunk& chunk = chunks_[index];
  const int offset = window_.is_on() ? chunk.first_position % kPieceTokens : 0;
  for (int first = 0; first < chunk.num_tokens();) {
    const int last = std::min(
        (offset + first) / kPieceTokens * kPieceTokens + kPieceTokens - offset, chunk.num_tokens());
    const int num_keys = window_.visible_position(chunk.first_position + last - 1) + 1;
    pieces_.push_back({.chunk = index, .first = first, .last = last, .num_keys = num_keys});
    first = last;
  }
}

}  // namespace autoglm
