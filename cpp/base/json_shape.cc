#include "base/json_shape.h"

#include <algorithm>

namespace autoglm {
namespace {

// Where a string ends that begins before `at`: behind its closing quote.
size_t end_of_string(std::span<const std::byte> text, size_t at) {
  while (at < text.size()) {
    const char c = static_cast<char>(text[at]);
    if (c == '"') return at + 1;
    at += c == '\\' ? 2 : 1;
  }
  return text.size();
}

}  // namespace

JsonShape json_shape(std::span<const std::byte> text) {
  JsonShape shape{.num_values = 1};
  size_t depth = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    switch (static_cast<char>(text[at])) {
      case '"':
        at = end_of_string(text, at + 1) - 1;
        break;
      case '{':
      case '[':
        ++shape.num_values;
        ++shape.num_containers;
        shape.depth = std::max(shape.depth, ++depth);
        break;
      case '}':
      case ']':
        depth -= depth > 0 ? 1 : 0;
        break;
      case ',':
        ++shape.num_values;
        break;
      default:
        break;
    }
  }
  return shape;
}

}  // namespace autoglm
