#include "ahead.h"

#include <utility>

namespace moe {

void Ahead::read(const std::shared_ptr<const Shelf>& shelf, const std::vector<int>& experts) {
  clear();
  if (!experts.empty()) coming_ = hints_->read(shelf, experts);
}

void Ahead::hold() {
  std::erase_if(coming_, [this](const auto& hint) { return hints_->cancel(hint) == Hint::cancelled; });
}

std::shared_ptr<Hint> Ahead::find(int expert) const {
  for (const auto& hint : coming_)
    if (hint->expert == expert) return hint;
  return nullptr;
}

void Ahead::used(const std::shared_ptr<Hint>& hint) {
  counts_.hinted++, counts_.hint_hits++;
  std::erase(coming_, hint);
}

void Ahead::clear() {
  for (const auto& hint : coming_) {
    const auto state = hints_->cancel(hint);
    if (state == Hint::cancelled) continue;
    counts_.hinted++;
    if (state != Hint::failed) counts_.wasted_bytes += hint->shelf->expert_nbytes();
  }
  coming_.clear();
}

Event Ahead::take() { return std::exchange(counts_, {}); }

}  // namespace moe
