// Residency and eviction of one layer, in place on the memory of the Python object that owns it
// (moe_mlx/expert_cache/residency.py, eviction.py): one state, whoever runs the step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace moe {

struct Placement {
  int expert, slot;
};

struct Table {
  int experts, slots;
  int32_t* slot_of;
  int32_t* owner;
  int64_t* used;
  double* heat;
  int64_t* whole;  // clock, tokens in the running range, stamps given to `last`
  double* reals;   // LFU gain, sum of ranges
  int64_t* uses;
  int64_t* reads;
  int64_t* last;
  int64_t* distances;  // one more than there are experts
  bool lfu;
  double growth;
  static constexpr int64_t kQuarantined = int64_t(1) << 62;  // a clock no event reaches
  std::vector<int64_t> stamps = {};  // scratch of begin

  // One decode step that went through: what it used, in touch order, and what it had to read for that.
  void count(const std::vector<int>& chosen, const std::vector<Placement>& misses) {
    for (const int e : chosen) {
      uses[e] += 1;
      const int64_t before = last[e];
      distances[before ? std::count_if(last, last + experts, [=](int64_t other) { return other > before; }) : experts] += 1;
    }
    for (const int e : chosen) last[e] = whole[2] += 1;
    for (const Placement& miss : misses) reads[miss.expert] += 1;
  }

  double observe_range(double span) {
    reals[1] += span;
    whole[1] += 1;
    return reals[1] / double(whole[1]);
  }

  // Touches what is resident and clears a slot for each expert that is not; returns the number of hits.
  int begin(const std::vector<int>& chosen, std::vector<Placement>& misses) {
    const int64_t since = whole[0];
    misses.clear();
    stamps.clear();
    for (size_t i = 0; i < chosen.size(); i++) {
      const int e = chosen[i];
      if (lfu) heat[e] += reals[0];
      if (slot_of[e] >= 0) {
        used[slot_of[e]] = since + 1 + int64_t(i);
      } else {
        misses.push_back({e, -1});
        stamps.push_back(since + 1 + int64_t(i));
      }
    }
    whole[0] = since + int64_t(chosen.size());
    for (size_t m = 0; m < misses.size(); m++) {
      const int slot = lfu ? coldest(since) : oldest(since);
      if (slot < 0) {
        for (size_t done = 0; done < m; done++) forget(misses[done].slot);
        throw std::length_error("more experts than slots");
      }
      if (owner[slot] >= 0) slot_of[owner[slot]] = -1, owner[slot] = -1;
      used[slot] = stamps[m];
      misses[m].slot = slot;
    }
    if (lfu) age();
    return int(chosen.size() - misses.size());
  }

  void commit(const Placement& p) {
    owner[p.slot] = p.expert;
    slot_of[p.expert] = p.slot;
  }

  void forget(int slot) {
    if (owner[slot] >= 0) slot_of[owner[slot]] = -1;
    owner[slot] = -1;
    used[slot] = 0;
  }

  void quarantine(int slot) {
    forget(slot);
    used[slot] = kQuarantined;
  }

  int oldest(int64_t since) const {
    const int slot = int(std::min_element(used, used + slots) - used);
    return used[slot] <= since ? slot : -1;
  }

  int coldest(int64_t since) const {
    int best = -1;
    std::pair<double, int64_t> best_key;
    for (int slot = 0; slot < slots; slot++) {
      if (used[slot] > since) continue;
      const std::pair<double, int64_t> key{owner[slot] >= 0 ? heat[owner[slot]] : -1.0, used[slot]};
      if (best < 0 || key < best_key) best = slot, best_key = key;
    }
    return best;
  }

  void age() {
    double gain = reals[0] * growth;
    if (gain > 1e100) {
      for (int e = 0; e < experts; e++) heat[e] /= gain;
      gain = 1.0;
    }
    reals[0] = gain;
  }
};

}  // namespace moe
