// How much there is in a JSON text, before anybody builds it.
#pragma once

#include <cstddef>
#include <span>

namespace autoglm {

struct JsonShape {
  size_t num_values = 0;      // as many or fewer, names of members not counted
  size_t num_containers = 0;  // objects and arrays
  size_t depth = 0;           // of the deepest container; 1: of the outermost
};

// Of a text that may be JSON; of others it means nothing, but takes no longer.
JsonShape json_shape(std::span<const std::byte> text);

}  // namespace autoglm
