#include "engine/drafter.h"

namespace autoglm {
namespace {

size_t policy_for(int match_length) {
  if (match_length < 3) return 0;
  if (match_length < 4) return 1;
  return match_length < 8 ? 2 : 3;
}

}  // namespace

std::span<const int32_t> LookupDrafter::draft(const DraftRequest& request) {
  if (!request.sampling.prompt_lookup) return {};
  const Draft found = lookup_.find(request.text, request.most_tokens);
  if (found.ids.empty()) return {};
  last_policy_ = policy_for(found.match_length);
  num_drafted_ =
      policies_[last_policy_].draft_tokens(timer_.costs(), 0.0, static_cast<int>(found.ids.size()));
  return found.ids.first(num_drafted_);
}

void LookupDrafter::record(int num_accepted) {
  policies_[last_policy_].record(num_drafted_, num_accepted);
}

}  // namespace autoglm
