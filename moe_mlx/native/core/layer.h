// One MoE layer's decode step: choose, look up, read what is missing, log. Knows no MLX and no Python.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "event.h"
#include "guess.h"
#include "late.h"
#include "light.h"
#include "policy.h"
#include "reader.h"
#include "table.h"

namespace moe {

// One token's router, widened to float32. Without scores the model's own choice stands (`exact` may then repeat); `raw`
// alone is for the eviction that knows the router.
struct Token {
  const float* scores = nullptr;
  const float* raw = nullptr;      // before groups were masked; else scores
  const float* weigh = nullptr;    // what the model weighs by; else scores
  const float* weights = nullptr;  // of `exact`, for the weight moved
  const float* shares = nullptr;   // what each expert would weigh, up to a common factor; where some may be late
  const int* exact = nullptr;
  int k = 0;
  int width = 0;  // of the scores, or of `raw` alone
};

// What is wrong with the steps of one model: the first failed read, until its message has been delivered. Steps carry
// the epoch their graph was built in; those of a failed epoch pass by without touching anything, as the later layers
// of a step that raised in Python never run.
class Fault {
 public:
  int64_t epoch() const { return epoch_.load(); }
  bool failed(int64_t epoch) const { return epoch <= failed_.load(); }
  bool standing() const { return failed_.load() >= epoch_.load(); }
  void raise(int64_t epoch, int64_t step, const ReadError& error) {
    std::lock_guard lock(mutex_);
    if (failed_.load() >= epoch) return;
    first_ = error;
    step_ = step;
    failed_.store(epoch);
  }
  std::optional<ReadError> first() const {
    std::lock_guard lock(mutex_);
    return first_;
  }
  int64_t step() const { return step_.load(); }  // the one that `first` is of
  void delivered() { epoch_.store(std::max(epoch_.load(), failed_.load()) + 1); }

 private:
  mutable std::mutex mutex_;
  std::optional<ReadError> first_;
  std::atomic<int64_t> epoch_{0}, failed_{-1}, step_{-1};
};

// Where a step's results go. With `here`, late experts are 0 there and get the heaviest expert's slot; `places` says which
// they are, and `late_slots` where those are that an earlier layer has left to this step.
struct Taken {
  int* experts;
  int* slots;
  int* here = nullptr;        // k
  int* places = nullptr;      // as many as may be late
  int* late_slots = nullptr;  // as many as may be late in the earlier layer
};

class Layer;

// What may be late in a step, and which layer has left late experts to it.
struct Lateness {
  Light light;
  Layer* earlier = nullptr;
  int earlier_rows = 0;
};

// Time that several waits share.
class Deadline {
 public:
  explicit Deadline(double seconds);
  double left() const;

 private:
  const int64_t until_;
};

class Layer {
 public:
  // memory: one block a tensor, slot after slot, kept by `owner`; that of the table's low slots too.
  Layer(std::shared_ptr<Reader> reader, Shelf shelf, Table table, EventLog log, std::vector<char*> memory,
        std::shared_ptr<void> owner);

  // Writes the chosen experts in computing order and their slots; what is not stored (longcat's identity experts, whose
  // numbers come after the stored ones) gets slot 0. Throws ReadError: a read failed, its slot is empty, the others of
  // the step are in; or a late one of the earlier layer failed.
  void decode(int64_t step, const Policy& policy, const Token& token, const Lateness& lateness, const Taken& taken);
  // For a later layer's step: waits for the late experts of this layer's step of that number. Throws ReadError.
  void join(int64_t step, int rows, int* slots);

  // The same for several rows at once, each with the model's own choice of `k`, all of which fit into the slots together:
  // a batch's decode step, counted as any call of more than one row. Writes their slots.
  void rows(int64_t step, const int* chosen, int count, int k, int* slots);

  // Gives back the slots of stalled reads that have ended since, and of late ones that nobody waits for: before another
  // reader of the table goes on.
  void reclaim();

  // Before the first step: what prefetches its experts.
  void use(std::shared_ptr<Prefetcher> prefetcher) { guess_.use(std::move(prefetcher)); }
  // Begins to read what this layer will miss in its next step, were that routed by these scores, `count` experts of
  // them. Waits for nothing; does nothing while a step of this layer is under way. Changes no result of any step.
  void prefetch(const Policy& policy, const float* scores, int width, int count);
  void drop_guess();

  std::atomic<double> stall_seconds{60};

 private:
  using Errors = std::vector<std::optional<ReadError>>;
  void choose(const Token& token, const Policy& policy);
  // Brings in `touched_`, of which `light_choice_` may be late or coarse; returns the hits.
  int admit(int64_t step, const Light& light, int64_t& waited);
  void read_missing(int64_t step, const Light& light);
  void read_now(const std::vector<int>& misses, Errors& errors);
  static void throw_first(const Errors& errors);
  void start_late(int64_t step, const Light& light);
  void drop_late();
  std::shared_ptr<Batch> batch_of(const std::vector<int>& misses) const;
  void count_parts(Event& event) const;  // of the misses
  // Makes slots of what was read whole; the rest is forgotten, or quarantined while it is still being read.
  void commit_reads(const std::shared_ptr<Batch>& batch, const std::vector<int>& misses, Errors& errors);
  // Waits for what is staged and copies it; false: it has to be read on demand.
  bool take_staged(int miss, const std::shared_ptr<Staged>& staged, double seconds, Errors& errors);
  void give_back();

  std::mutex mutex_;
  std::shared_ptr<Reader> reader_;
  std::shared_ptr<const Shelf> shelf_;
  Table table_;
  EventLog log_;
  std::vector<char*> memory_;
  std::shared_ptr<void> owner_;
  Guess guess_;
  Chooser chooser_;
  Choice choice_;
  std::vector<int> touched_;
  std::vector<Placement> misses_;
  LightChoice light_choice_;
  LateReads late_;
  struct Stalled {
    std::shared_ptr<Batch> batch;
    int place, slot;
  };
  std::vector<Stalled> stalled_;
};

}  // namespace moe
