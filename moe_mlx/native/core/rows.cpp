// A step of several rows, each with the model's own choice: a batch's decode step. What it does to the table is what
// Python does for rows that all fit (moe_mlx/expert_cache/prefill.py): the union is read once, the rarest touched first.
#include <algorithm>
#include <numeric>

#include "clock.h"
#include "layer.h"

namespace moe {

void Layer::rows(int64_t step, const int* chosen, int count, int k, int* slots) {
  std::lock_guard lock(mutex_);
  const int64_t started = now_ns();
  guess_.drop_waiting();
  const int choices = count * k;
  std::vector<int64_t> uses(static_cast<size_t>(table_.experts));
  int real = 0;
  for (int i = 0; i < choices; i++) {
    if (chosen[i] < 0) throw std::out_of_range("expert " + std::to_string(chosen[i]));
    if (chosen[i] < table_.experts) uses[chosen[i]]++, real++;
  }
  if (late_.step != LateReads::kNone) drop_late();  // of a call that was broken off
  if (!stalled_.empty()) give_back();
  touched_.clear();
  for (int e = 0; e < table_.experts; e++)
    if (uses[e]) touched_.push_back(e);
  std::stable_sort(touched_.begin(), touched_.end(), [&](int a, int b) { return uses[a] < uses[b]; });
  light_choice_.clear();
  int64_t waited = 0;
  const int hits = admit(step, {}, waited);
  for (const int e : touched_) table_.rows[e] += uses[e];
  table_.stamp(touched_);
  for (int i = 0; i < choices; i++) slots[i] = chosen[i] < table_.experts ? table_.slot_of[chosen[i]] : 0;
  Event event;
  event.step = step, event.phase = kPrefill, event.tokens = count;
  event.hits = hits, event.misses = int64_t(misses_.size());
  count_parts(event);
  event.wait_ns = waited;
  event.read_waits = event.misses > 0;
  event.choices = real, event.waits = 1;
  guess_.drop();
  event.host_ns = now_ns() - started - waited;
  event += guess_.take_counts();
  log_.write(event, 0);
}

}  // namespace moe
