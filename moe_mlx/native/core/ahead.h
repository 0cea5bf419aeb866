// What one layer has been told about its next step: the experts that are being read ahead for it. Not thread-safe by
// itself: the layer's lock guards it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "event.h"
#include "hints.h"

namespace moe {

class Ahead {
 public:
  ~Ahead() { clear(); }

  bool able() const { return hints_ != nullptr; }
  void use(std::shared_ptr<Hints> hints) { hints_ = std::move(hints); }

  void read(const std::shared_ptr<const Shelf>& shelf, const std::vector<int>& experts);  // instead of those before
  void hold();                                   // the step has come: what has not begun is dropped
  std::shared_ptr<Hint> find(int expert) const;  // under way or there; null where it must be read on demand
  Hint::State wait(const std::shared_ptr<Hint>& hint, double seconds) { return hints_->wait(hint, seconds); }
  void used(const std::shared_ptr<Hint>& hint);  // it has become a slot's contents
  void clear();                                  // counts what is left as read for nothing and lets go of it
  void spent(int64_t ns) { counts_.host_ns += ns; }
  Event take();  // what was counted since the last call
  void forget() { clear(), counts_ = {}; }

 private:
  std::shared_ptr<Hints> hints_;
  std::vector<std::shared_ptr<Hint>> coming_;
  Event counts_;
};

}  // namespace moe
