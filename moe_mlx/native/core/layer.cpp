#include "layer.h"

#include <cstring>

#include "clock.h"

namespace moe {

Deadline::Deadline(double seconds) : until_(now_ns() + int64_t(seconds * 1e9)) {}

double Deadline::left() const { return std::max(0.0, double(until_ - now_ns()) / 1e9); }

Layer::Layer(std::shared_ptr<Reader> reader, Shelf shelf, Table table, EventLog log, std::vector<char*> memory,
             std::shared_ptr<void> owner)
    : reader_(std::move(reader)), table_(std::move(table)), log_(log), memory_(std::move(memory)),
      owner_(std::move(owner)), chooser_(table_.experts) {
  reader_->adopt(shelf);
  shelf_ = std::make_shared<const Shelf>(std::move(shelf));
}

void Layer::choose(const Token& token, const Policy& policy) {
  if (token.scores) {
    const double delta = table_.observe_range(Chooser::range(token.raw ? token.raw : token.scores, token.width));
    chooser_.choose(policy, token.scores, token.width, token.exact, token.k, table_.slot_of, delta, choice_);
  } else {
    choice_.displaced.clear();
    choice_.experts.assign(token.exact, token.exact + token.k);
  }
  if (const float* raw = token.raw ? token.raw : token.scores) table_.observe(raw, token.width);
  touched_.clear();
  for (int expert : choice_.experts)
    if (expert < table_.experts && std::find(touched_.begin(), touched_.end(), expert) == touched_.end())
      touched_.push_back(expert);
  if (token.scores) std::sort(touched_.begin(), touched_.end(), Descending{token.weigh ? token.weigh : token.scores});
}

// A slot whose read stalled is used again once that read has ended.
void Layer::give_back() {
  std::erase_if(stalled_, [this](const Stalled& one) {
    if (!reader_->ended(*one.batch, one.place)) return false;
    if (table_.used[one.slot] == Table::kQuarantined) table_.forget(one.slot);
    return true;
  });
}

void Layer::reclaim() {
  std::lock_guard lock(mutex_);
  drop_late();
  give_back();
}

std::shared_ptr<Batch> Layer::batch_of(const std::vector<int>& misses) const {
  auto batch = std::make_shared<Batch>();
  batch->shelf = shelf_;
  batch->memory = owner_;
  for (int i : misses) {
    batch->experts.push_back(misses_[i].expert);
    batch->parts.push_back(misses_[i].part);
    if (misses_[i].part == kCoarse) {
      batch->buffers.push_back(table_.low_slots.buffers(misses_[i].slot));
      continue;
    }
    auto& buffers = batch->buffers.emplace_back();
    for (size_t t = 0; t < memory_.size(); t++)
      buffers.push_back(memory_[t] + misses_[i].slot * shelf_->tensor_nbytes[t]);
  }
  return batch;
}

void Layer::count_parts(Event& event) const {
  for (const Placement& miss : misses_) {
    const int64_t nbytes = shelf_->nbytes_of(miss.part, miss.expert);
    event.bytes_read += nbytes;
    if (miss.part == kCoarse) event.coarse_bytes += nbytes;
    if (miss.part == kRest) event.rest_bytes += nbytes, event.promotions++;
  }
}

void Layer::commit_reads(const std::shared_ptr<Batch>& batch, const std::vector<int>& misses, Errors& errors) {
  for (int place = 0; place < int(misses.size()); place++) {
    const Placement& miss = misses_[misses[place]];
    auto& error = errors[misses[place]] = reader_->error(*batch, place);
    if (!error) {
      table_.commit(miss);
    } else if (!reader_->ended(*batch, place)) {
      table_.quarantine(miss.slot);
      stalled_.push_back({batch, place, miss.slot});
    } else {
      table_.forget(miss.slot);
    }
  }
}

bool Layer::take_staged(int miss, const std::shared_ptr<Staged>& staged, double seconds, Errors& errors) {
  const int expert = misses_[miss].expert, slot = misses_[miss].slot;
  const auto state = guess_.wait(staged, seconds);
  if (state == Staged::failed) return false;
  if (state == Staged::running) {  // a demand read would hang on the same disk; nothing writes to the slot
    errors[miss] = Reader::stalled(*shelf_, expert, stall_seconds);
    table_.forget(slot);
    return true;
  }
  const char* from = staged->memory.get();
  for (size_t t = 0; t < memory_.size(); from += shelf_->tensor_nbytes[t++])
    std::memcpy(memory_[t] + slot * shelf_->tensor_nbytes[t], from, size_t(shelf_->tensor_nbytes[t]));
  table_.commit(misses_[miss]);
  return true;
}

void Layer::read_now(const std::vector<int>& misses, Errors& errors) {
  if (misses.empty()) return;
  const auto batch = batch_of(misses);
  reader_->read(batch, stall_seconds);
  commit_reads(batch, misses, errors);
}

void Layer::throw_first(const Errors& errors) {
  for (const auto& error : errors)
    if (error) throw ReadError(*error);
}

// All that must be read is asked for at once, what may be late after what may not; what is staged is copied meanwhile.
void Layer::read_missing(int64_t step, const Light& light) {
  Errors errors(misses_.size());
  std::vector<int> demanded, staged, again;
  for (int i = 0; i < int(misses_.size()); i++)
    if (!light_choice_.is_late(misses_[i].expert)) (guess_.find(misses_[i].expert) ? staged : demanded).push_back(i);
  const auto batch = batch_of(demanded);
  reader_->start(batch);
  start_late(step, light);
  const Deadline deadline(stall_seconds);
  for (int i : staged) {
    const auto there = guess_.find(misses_[i].expert);
    if (!take_staged(i, there, deadline.left(), errors)) again.push_back(i);
    else if (!errors[i]) guess_.served(there);
  }
  reader_->finish(batch, stall_seconds);
  commit_reads(batch, demanded, errors);
  read_now(again, errors);
  try {
    throw_first(errors);
  } catch (const ReadError&) {
    guess_.forget();  // the step leaves no row in the log, and so no guess of its in the next one's
    drop_late();
    throw;
  }
}

int Layer::admit(int64_t step, const Light& light, int64_t& waited) {
  int hits = 0;
  try {
    hits = table_.begin(touched_, light_choice_.coarse, misses_);
  } catch (const std::length_error& error) {
    throw ReadError(shelf_->layer, touched_.front(), shelf_->files[0].path, error.what());
  }
  if (misses_.empty()) {
    start_late(step, light);
  } else {
    const int64_t from = now_ns();
    read_missing(step, light);
    waited = now_ns() - from;
  }
  return hits;
}

void Layer::prefetch(const Policy& policy, const float* scores, int width, int count) {
  const int64_t started = now_ns();
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock || !guess_.enabled() || table_.low) return;  // whether a guessed expert has to be whole is not known yet
  std::vector<int> best(static_cast<size_t>(width));
  std::iota(best.begin(), best.end(), 0);
  count = std::min(count, width);
  std::partial_sort(best.begin(), best.begin() + count, best.end(), Descending{scores});
  const double mean = table_.mean_range();
  Choice likely;
  chooser_.choose(policy, scores, width, best.data(), count, table_.slot_of, mean, likely);
  std::erase_if(likely.experts, [this](int e) { return e >= table_.experts || table_.slot_of[e] >= 0; });
  guess_.stage(shelf_, likely.experts);
  guess_.spent(now_ns() - started);
}

void Layer::drop_guess() {
  std::lock_guard lock(mutex_);
  guess_.forget();
}

void Layer::decode(int64_t step, const Policy& policy, const Token& token, const Lateness& lateness,
                   const Taken& taken) {
  std::lock_guard lock(mutex_);  // streams of two threads may meet here; the graph orders them, this keeps them safe
  const int64_t started = now_ns();
  guess_.drop_waiting();
  for (int i = 0; i < token.k; i++)
    if (token.exact[i] < 0 || (token.scores && token.exact[i] >= token.width))
      throw std::out_of_range("expert " + std::to_string(token.exact[i]));
  if (token.width && token.width < table_.experts)
    throw std::out_of_range("scores of " + std::to_string(token.width) + " experts");
  if (late_.step != LateReads::kNone) drop_late();  // of a call that was broken off
  if (!stalled_.empty()) give_back();
  choose(token, policy);
  light_choice_.pick(lateness.light, touched_, token.shares, table_.slot_of, table_.slots);
  float moved = 0;
  if (token.weights)
    for (int place : choice_.displaced) moved += token.weights[place];
  int64_t waited = 0;
  const int hits = admit(step, lateness.light, waited);
  table_.count(touched_, misses_, light_choice_.late);
  late_.heaviest = touched_.empty() ? 0 : table_.slot_of[touched_.front()];
  for (int i = 0; i < token.k; i++) {
    const int expert = taken.experts[i] = choice_.experts[i];
    const bool late = light_choice_.is_late(expert);
    taken.slots[i] = late ? late_.heaviest : expert < table_.experts ? table_.slot_of[expert] : 0;
    if (taken.here) taken.here[i] = !late;
  }
  const auto place_of = [this](int expert) {
    return int(std::find(choice_.experts.begin(), choice_.experts.end(), expert) - choice_.experts.begin());
  };
  for (int row = 0; taken.places && row < lateness.light.rows; row++)
    taken.places[row] = row < int(light_choice_.late.size()) ? place_of(light_choice_.late[size_t(row)])
                        : touched_.empty()                    ? 0
                                                              : place_of(touched_.front());
  if (lateness.earlier) {
    const int64_t from = now_ns();
    lateness.earlier->join(step, lateness.earlier_rows, taken.late_slots);
    waited += now_ns() - from;
  }
  Event event;
  event.late = int64_t(light_choice_.late.size());
  event.late_weight_ppb = int64_t(light_choice_.late_weight * 1e9);
  event.coarse = int64_t(light_choice_.coarse.size());
  event.coarse_weight_ppb = int64_t(light_choice_.coarse_weight * 1e9);
  event.read_waits = int64_t(misses_.size()) > event.late;
  event.waits_saved = !misses_.empty() && !event.read_waits;
  event.step = step, event.phase = kDecode, event.tokens = 1;
  event.hits = hits, event.misses = int64_t(misses_.size());
  event.swapped = int64_t(choice_.displaced.size());
  count_parts(event);
  event.wait_ns = waited;
  event.choices = event.hits + event.misses, event.waits = 1;
  guess_.drop();
  event.host_ns = now_ns() - started - waited;
  event += guess_.take_counts();
  log_.write(event, double(moved));
}

}  // namespace moe
