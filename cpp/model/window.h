// Attention over the first pages of a sequence ("sinks") and its latest ones (Xiao et al., arXiv
// 2309.17453), at the granularity of pages.
//
// The keys a token sees depend on its position alone. They are attended as if they stood together:
// a table without the pages between maps them, and the sinks meet queries rotated to the position
// in that shorter sequence, so that no distance grows with the text.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace autoglm {

struct KvWindow {
  int num_sink_pages = 0;
  int num_pages = 0;  // whole pages seen before the token's own; 0: no window, all are seen

  bool is_on() const { return num_pages > 0; }
  // Pages that the tokens of a page do not see: those from num_sink_pages on, this many.
  int num_hidden(int page) const {
    return is_on() ? std::max(0, page - num_pages - num_sink_pages) : 0;
  }
  // The position among the visible keys.
  int visible_position(int position) const {
    return position - num_hidden(position / kPageTokens) * kPageTokens;
  }
  // The most pages that a table of visible pages has.
  int most_visible() const { return num_sink_pages + num_pages + 1; }
  // The most pages that a sequence needs while up to `num_tokens` of it are computed at once.
  int most_held(int num_tokens) const {
    return num_sink_pages + num_pages + 1 + (num_tokens + kPageTokens - 1) / kPageTokens;
  }
};

// The tables of visible pages for the tokens of one chunk.
class WindowTables {
 public:
  WindowTables(const KvWindow& window, int max_tokens);

  // For a chunk that begins at `first_position`; takes pages from the sequence's own table.
  void build(const int32_t* page_table, int first_position, int num_tokens);
  // The pages that the token at `position` sees, when some are hidden from it.
  const int32_t* table(int position) const {
    return tables_.data() +
           static_cast<size_t>(position / kPageTokens - first_page_) * window_.most_visible();
  }

 private:
  KvWindow window_;
  int first_page_ = 0;
  std::vector<int32_t> tables_;  // [pages of the chunk][most_visible]
};

}  // namespace autoglm
