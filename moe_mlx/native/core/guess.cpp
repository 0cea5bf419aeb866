#include "guess.h"

#include <utility>

namespace moe {

void Guess::stage(const std::shared_ptr<const Shelf>& shelf, const std::vector<int>& experts) {
  drop();
  if (!experts.empty()) staged_ = prefetcher_->stage(shelf, experts);
}

void Guess::drop_waiting() {
  std::erase_if(staged_, [this](const auto& staged) { return prefetcher_->cancel(staged) == Staged::cancelled; });
}

std::shared_ptr<Staged> Guess::find(int expert) const {
  for (const auto& staged : staged_)
    if (staged->expert == expert) return staged;
  return nullptr;
}

void Guess::served(const std::shared_ptr<Staged>& staged) {
  counts_.hinted++, counts_.hint_hits++;
  std::erase(staged_, staged);
}

void Guess::drop() {
  for (const auto& staged : staged_) {
    const auto state = prefetcher_->cancel(staged);
    if (state == Staged::cancelled) continue;
    counts_.hinted++;
    if (state != Staged::failed) counts_.wasted_bytes += staged->shelf->nbytes_of(kWhole, staged->expert);
  }
  staged_.clear();
}

Event Guess::take_counts() { return std::exchange(counts_, {}); }

}  // namespace moe
