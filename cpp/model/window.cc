#include "model/window.h"

namespace autoglm {

WindowTables::WindowTables(const KvWindow& window, int max_tokens) : window_(window) {
  if (!window.is_on()) return;
  const size_t most_pages = max_tokens / kPageTokens + 2;
  tables_.resize(most_pages * window.most_visible());
}

void WindowTables::build(const int32_t* page_table, int first_position, int num_tokens) {
  if (!window_.is_on()) return;
  first_page_ = first_position / kPageTokens;
  const int last_page = (first_position + num_tokens - 1) / kPageTokens;
  int32_t* out = tables_.data();
  for (int page = first_page_; page <= last_page; ++page, out += window_.most_visible()) {
    const int num_hidden = window_.num_hidden(page);
    if (num_hidden == 0) continue;
    std::copy_n(page_table, window_.num_sink_pages, out);
    std::copy(page_table + window_.num_sink_pages + num_hidden, page_table + page + 1,
              out + window_.num_sink_pages);
  }
}

}  // namespace autoglm
