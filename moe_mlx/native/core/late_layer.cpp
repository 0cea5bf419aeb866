// A layer's late experts: begun by its own step, waited for by a later layer's, dropped where that never comes.
#include <stdexcept>
#include <utility>

#include "layer.h"

namespace moe {

void Layer::start_late(int64_t step, const Light& light) {
  if (!light.rows) return;
  late_.step = step;
  for (int i = 0; i < int(misses_.size()); i++) {
    if (!light_choice_.is_late(misses_[i].expert)) continue;
    late_.misses.push_back(i);
    const auto staged = guess_.find(misses_[i].expert);
    if (staged && guess_.wait(staged, 0) != Staged::failed) {
      late_.staged.emplace_back(i, staged);
      guess_.served(staged);
    } else {
      late_.demanded.push_back(i);
    }
  }
  if (late_.demanded.empty()) return;
  late_.batch = batch_of(late_.demanded);
  reader_->start(late_.batch);
}

void Layer::join(int64_t step, int rows, int* slots) {
  std::lock_guard lock(mutex_);
  if (late_.step != step) throw std::logic_error("moe-mlx: late experts of another step");
  const LateReads late = std::exchange(late_, {});
  Errors errors(misses_.size());
  std::vector<int> again;
  const Deadline deadline(stall_seconds);
  for (const auto& [i, staged] : late.staged)
    if (!take_staged(i, staged, deadline.left(), errors)) again.push_back(i);
  if (late.batch) {
    reader_->finish(late.batch, stall_seconds);
    commit_reads(late.batch, late.demanded, errors);
  }
  read_now(again, errors);
  throw_first(errors);
  for (int row = 0; row < rows; row++)
    slots[row] = row < int(late.misses.size()) ? misses_[late.misses[row]].slot : late.heaviest;
}

// Nobody took them, however far they came: their slots are empty, as after a call by read-back that was broken off.
void Layer::drop_late() {
  const LateReads late = std::exchange(late_, {});
  if (late.batch) {
    Errors errors(misses_.size());
    reader_->finish(late.batch, stall_seconds);
    commit_reads(late.batch, late.demanded, errors);
  }
  for (int i : late.misses)
    if (table_.used[misses_[i].slot] != Table::kQuarantined) table_.forget(misses_[i].slot);
}

}  // namespace moe
