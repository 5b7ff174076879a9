// What one forward pass computes: chunks of several token sequences, one after the other in the
// rows of its activations, and the pieces their attention is cut into.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "model/window.h"

namespace autoglm {

// Where the keys and values of one token sequence lie: page p of layer l begins at
// base + l * layer_bytes + page_table[p] * page_stride elements.
struct KvView {
  KvType type = KvType::kF32;
  std::byte* base = nullptr;
  size_t layer_bytes = 0;
  size_t page_stride = 0;
  const int32_t* page_table = nullptr;
};

// Consecutive tokens of one sequence; the pages up to their last position exist.
struct Chunk {
  std::span<const int32_t> ids;  // each in [0, vocab_size)
  int first_position = 0;
  KvView kv;

  int num_tokens() const { return static_cast<int>(ids.size()); }
};

class Pass {
 public:
  // Tokens [first, last) of a chunk, which are attended together.
  struct Piece {
    int chunk = 0;
    int first = 0;
    int last = 0;
    int num_keys = 0;  // that its last token sees
  };
  struct Place {
    int chunk = 0;
    int position = 0;
  };

  // Passes have up to `max_tokens` rows.
  Pass(const KvWindow& window, int max_tokens);

  // The chunks must outlive the pass.
  void begin(std::span<const Chunk> chunks);

  int num_rows() const { return static_cast<int>(places_.size()); }
  std::span<const Chunk> chunks() const { return chunks_; }
  const Chunk& chunk(int index) const { return chunks_[index]; }
  int first_row(int chunk) const { return first_rows_[chunk]; }
  Place place(int row) const { return places_[row]; }
  int32_t id(int row) const {
    const Place place = places_[row];
    return chunks_[place.chunk].ids[row - first_rows_[place.chunk]];
  }
  std::span<const Piece> pieces() const { return pieces_; }  // those with the most work first
  const KvWindow& window() const { return window_; }
  // The pages that the token at `position` of a chunk sees, when some are hidden from it.
  const int32_t* visible_pages(int chunk, int position) const {
    return tables_[chunk].table(position);
  }

 private:
  void add_pieces(int chunk);

  KvWindow window_;
  int max_tokens_;
  std::span<const Chunk> chunks_;
  std::vector<int> first_rows_;
  std::vector<Place> places_;
  std::vector<Piece> pieces_;
  std::vector<WindowTables> tables_;  // of every chunk, when there is a window
};

}  // namespace autoglm
