// What an answer must keep to, such as a grammar: known outside of the core.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace autoglm {

// Asked by one thread at a time about the tokens of one answer, in their order.
class Judge {
 public:
  struct Verdict {
    bool is_allowed = false;
    bool is_last = false;              // no token may follow
    bool is_bound = false;             // the next one has to be drawn under mask()
    std::vector<int32_t> forced = {};  // what must follow; taken too
  };

  virtual ~Judge() = default;

  // Takes a token if it may come; forgets that it was asked otherwise. Throws Error.
  virtual Verdict take(int32_t id) = 0;

  // A bit for every token that may come next, as for Sampler::sample(); empty while that is not
  // known. Throws Error.
  virtual std::vector<uint32_t> mask() = 0;

  // Calls body(), which asks several judges of this kind; what asking needs is got once for all.
  virtual void ask(const std::function<void()>& body) { body(); }
};

}  // namespace autoglm
