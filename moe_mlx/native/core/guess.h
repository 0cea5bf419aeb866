// What is guessed of one layer's next step: the experts that are prefetched for it into staging buffers. Not thread-safe
// by itself: the layer's lock guards it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "event.h"
#include "prefetcher.h"

namespace moe {

class Guess {
 public:
  ~Guess() { drop(); }

  bool enabled() const { return prefetcher_ != nullptr; }
  void use(std::shared_ptr<Prefetcher> prefetcher) { prefetcher_ = std::move(prefetcher); }

  void stage(const std::shared_ptr<const Shelf>& shelf, const std::vector<int>& experts);  // instead of those before
  void drop_waiting();                             // the step has come: what has not begun to be read is left out
  std::shared_ptr<Staged> find(int expert) const;  // being read or there; null where it must be read on demand
  Staged::State wait(const std::shared_ptr<Staged>& staged, double seconds) {
    return prefetcher_->wait(staged, seconds);
  }
  void served(const std::shared_ptr<Staged>& staged);  // it has become a slot's contents
  void drop();                                         // counts what is left as wasted and lets go of it
  void spent(int64_t ns) { counts_.host_ns += ns; }
  Event take_counts();  // since the last call
  void forget() { drop(), counts_ = {}; }

 private:
  std::shared_ptr<Prefetcher> prefetcher_;
  std::vector<std::shared_ptr<Staged>> staged_;
  Event counts_;
};

}  // namespace moe
