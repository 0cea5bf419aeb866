// A layer's low slots, each with room for an expert's high bits, and what moves between them and the whole ones: the
// words and rules of moe_mlx/expert_cache/low_slots.py.
#pragma once

#include <cstring>
#include <vector>

#include "parts.h"

namespace moe {

class LowSlots {
 public:
  LowSlots() = default;
  // whole, low: one block a tensor, slot after slot.
  LowSlots(const Parts& parts, int slots, std::vector<char*> whole, std::vector<int64_t> whole_nbytes,
           std::vector<char*> low, std::vector<int64_t> low_nbytes)
      : slots_(slots), halves_(parts.halves), cut_(parts.cut), whole_(std::move(whole)), low_(std::move(low)),
        whole_nbytes_(std::move(whole_nbytes)), low_nbytes_(std::move(low_nbytes)) {
    for (const int64_t n : low_nbytes_) nbytes_ += size_t(n);
  }

  void demote(int slot, int low) const {
    for (size_t t = 0; t < low_.size(); t++) high_bits(t, slot, at(t, low));
  }
  void lift(int low, int slot) const {
    for (size_t t = 0; t < low_.size(); t++) raise(t, at(t, low), slot);
  }
  void swap(int slot, int low) {
    aside_.resize(nbytes_);
    char* next = aside_.data();
    for (size_t t = 0; t < low_.size(); next += low_nbytes_[t++]) {
      high_bits(t, slot, next);
      raise(t, at(t, low), slot);
      std::memcpy(at(t, low), next, size_t(low_nbytes_[t]));
    }
  }
  // Of a low slot, by its number among all.
  std::vector<char*> buffers(int slot) const {
    std::vector<char*> found;
    for (size_t t = 0; t < low_.size(); t++) found.push_back(at(t, slot));
    return found;
  }

 private:
  char* at(size_t t, int low) const { return low_[t] + (low - slots_) * low_nbytes_[t]; }
  char* whole(size_t t, int slot) const { return whole_[t] + slot * whole_nbytes_[t]; }
  void high_bits(size_t t, int slot, char* to) const {
    if (cut_[t]) high_of(halves_[t], whole(t, slot), to, whole_nbytes_[t]);
    else std::memcpy(to, whole(t, slot), size_t(low_nbytes_[t]));
  }
  void raise(size_t t, const char* from, int slot) const {
    if (cut_[t]) moe::lift(halves_[t], from, whole(t, slot), whole_nbytes_[t]);
    else std::memcpy(whole(t, slot), from, size_t(low_nbytes_[t]));
  }

  int slots_ = 0;
  std::vector<Halves> halves_;
  std::vector<char> cut_;
  std::vector<char*> whole_, low_;
  std::vector<int64_t> whole_nbytes_, low_nbytes_;
  size_t nbytes_ = 0;
  std::vector<char> aside_;
};

}  // namespace moe
