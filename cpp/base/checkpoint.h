// The hook by which a caller abandons a long computation.
#pragma once

#include <functional>

namespace autoglm {

// Called now and then on the calling thread; throws to abandon the call.
using Checkpoint = std::function<void()>;

}  // namespace autoglm
