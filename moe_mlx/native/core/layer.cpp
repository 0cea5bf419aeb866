#include "layer.h"

#include <chrono>

namespace moe {
namespace {

int64_t now() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

enum Phase { kDecode = 1 };

}  // namespace

Layer::Layer(std::shared_ptr<Reader> reader, Shelf shelf, Table table, Log log, std::vector<char*> memory,
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

int64_t Layer::read_missing() {
  auto batch = std::make_shared<Batch>();
  batch->shelf = shelf_;
  batch->memory = owner_;
  for (const Placement& miss : misses_) {
    batch->experts.push_back(miss.expert);
    auto& buffers = batch->buffers.emplace_back();
    for (size_t t = 0; t < memory_.size(); t++) buffers.push_back(memory_[t] + miss.slot * shelf_->tensor_nbytes[t]);
  }
  reader_->read(batch, stall_seconds);
  std::optional<ReadError> failure;
  int64_t bytes = 0;
  for (int i = 0; i < int(misses_.size()); i++) {
    const auto error = reader_->error(*batch, i);
    if (!error) {
      table_.commit(misses_[i]);
      bytes += shelf_->expert_nbytes();
    } else if (!reader_->ended(*batch, i)) {
      table_.quarantine(misses_[i].slot);
      stalled_.push_back({batch, i, misses_[i].slot});
    } else {
      table_.forget(misses_[i].slot);
    }
    if (error && !failure) failure = error;
  }
  if (failure) throw ReadError(*failure);
  return bytes;
}

void Layer::decode(int64_t step, const Policy& policy, const Token& token, int* experts, int* slots) {
  std::lock_guard lock(mutex_);  // streams of two threads may meet here; the graph orders them, this keeps them safe
  const int64_t started = now();
  for (int i = 0; i < token.k; i++)
    if (token.exact[i] < 0 || (token.scores && token.exact[i] >= token.width))
      throw std::out_of_range("expert " + std::to_string(token.exact[i]));
  if (!stalled_.empty()) give_back();
  choose(token, policy);
  float moved = 0;
  if (token.weights)
    for (int place : choice_.displaced) moved += token.weights[place];
  int hits = 0;
  try {
    hits = table_.begin(touched_, misses_);
  } catch (const std::length_error& error) {
    throw ReadError(shelf_->layer, touched_.front(), shelf_->files[0].path, error.what());
  }
  int64_t waited = 0, bytes = 0;
  if (!misses_.empty()) {
    const int64_t from = now();
    bytes = read_missing();
    waited = now() - from;
  }
  table_.count(touched_, misses_);
  for (int i = 0; i < token.k; i++) {
    experts[i] = choice_.experts[i];
    slots[i] = experts[i] < table_.experts ? table_.slot_of[experts[i]] : 0;
  }
  const int64_t swapped = int64_t(choice_.displaced.size()), misses = int64_t(misses_.size());
  log_.write({step, kDecode, 1, hits, misses, swapped, bytes, waited, 0, hits + misses, 1, now() - started - waited},
             double(moved));
}

}  // namespace moe
