// Residency and eviction of one layer, in place on the memory of the Python object that owns it
// (moe_mlx/expert_cache/residency.py, eviction.py): one state, whoever runs the step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

namespace moe {

struct Placement {
  int expert, slot;
};

// Type codes as Python's `array` has them.
template <typename T>
constexpr const char* type_code();
template <>
constexpr const char* type_code<int32_t>() { return "i"; }
template <>
constexpr const char* type_code<int64_t>() { return "q"; }
template <>
constexpr const char* type_code<double>() { return "d"; }

// The names, types and order of TableState, and the arrays of ResidencyTable that a decode step works on; compared when
// the primitive is loaded.
#define MOE_TABLE_STATE(FIELD) \
  FIELD(int64_t, clock)        \
  FIELD(int64_t, range_tokens) \
  FIELD(int64_t, stamp)        \
  FIELD(double, gain)          \
  FIELD(double, range_sum)    \
  FIELD(double, score_range)

#define MOE_TABLE_ARRAYS(FIELD) \
  FIELD(int32_t, slot_of)       \
  FIELD(int32_t, owner)         \
  FIELD(int64_t, used)          \
  FIELD(double, heat)           \
  FIELD(int64_t, uses)          \
  FIELD(int64_t, reads)         \
  FIELD(int64_t, last)          \
  FIELD(int64_t, distances)     \
  FIELD(int64_t, rows)          \
  FIELD(int64_t, lates)

struct TableState {
#define FIELD(type, name) type name;
  MOE_TABLE_STATE(FIELD)
#undef FIELD
};

// Who gives way, with the numbers of eviction.py: growth of the aged LFU's gain; of the router's mean what is kept at
// each token, the share of the new score, and what being chosen is worth.
struct Eviction {
  enum Kind { lru, lfu, router };
  Kind kind = lru;
  double growth = 1, keep = 0, share = 0, gain = 0;
};

struct Table {
  int experts, slots;
  Eviction evict;
  TableState* state;
#define FIELD(type, name) type* name;
  MOE_TABLE_ARRAYS(FIELD)
#undef FIELD
  static constexpr int64_t kQuarantined = int64_t(1) << 62;  // a clock no event reaches
  std::vector<int64_t> stamps = {};  // scratch of begin

  // One decode step that went through: what it used, in touch order, what it had to read for that, and what of that late.
  void count(const std::vector<int>& chosen, const std::vector<Placement>& misses, const std::vector<int>& late) {
    for (const int e : chosen) {
      uses[e] += 1;
      const int64_t before = last[e];
      distances[before ? std::count_if(last, last + experts, [=](int64_t other) { return other > before; }) : experts] += 1;
    }
    stamp(chosen);
    for (const Placement& miss : misses) reads[miss.expert] += 1;
    for (const int e : late) lates[e] += 1;
  }

  // A use that distances are measured from, the first becoming the oldest.
  void stamp(const std::vector<int>& used_now) {
    for (const int e : used_now) last[e] = state->stamp += 1;
  }

  double observe_range(double span) {
    state->range_sum += span;
    state->range_tokens += 1;
    return mean_range();
  }

  double mean_range() const { return state->range_tokens ? state->range_sum / double(state->range_tokens) : 0.0; }

  // The scores of the step to come, before its event.
  void observe(const float* scores, int scored) {
    if (evict.kind != Eviction::router) return;
    double lowest = std::numeric_limits<double>::infinity(), highest = -lowest;
    for (int e = 0; e < scored; e++) {
      if (!std::isfinite(scores[e])) continue;
      lowest = std::min(lowest, double(scores[e])), highest = std::max(highest, double(scores[e]));
    }
    if (highest < lowest) return;
    for (int e = 0; e < experts; e++) {
      const double score = std::isfinite(scores[e]) ? double(scores[e]) : lowest;
      heat[e] = evict.keep * heat[e] + evict.share * score;
    }
    state->score_range = highest - lowest;
  }

  // Touches what is resident and clears a slot for each expert that is not; returns the number of hits.
  int begin(const std::vector<int>& chosen, std::vector<Placement>& misses) {
    const int64_t since = state->clock;
    misses.clear();
    stamps.clear();
    for (size_t i = 0; i < chosen.size(); i++) {
      const int e = chosen[i];
      if (evict.kind == Eviction::lfu) heat[e] += state->gain;
      if (evict.kind == Eviction::router) heat[e] += evict.gain * state->score_range;
      if (slot_of[e] >= 0) {
        used[slot_of[e]] = since + 1 + int64_t(i);
      } else {
        misses.push_back({e, -1});
        stamps.push_back(since + 1 + int64_t(i));
      }
    }
    state->clock = since + int64_t(chosen.size());
    for (size_t m = 0; m < misses.size(); m++) {
      const int slot = evict.kind == Eviction::lru ? oldest(since) : coldest(since);
      if (slot < 0) {
        for (size_t done = 0; done < m; done++) forget(misses[done].slot);
        throw std::length_error("more experts than slots");
      }
      if (owner[slot] >= 0) slot_of[owner[slot]] = -1, owner[slot] = -1;
      used[slot] = stamps[m];
      misses[m].slot = slot;
    }
    if (evict.kind == Eviction::lfu) age();
    state->score_range = 0;
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
      const std::pair<double, int64_t> key{owner[slot] >= 0 ? heat[owner[slot]] : -std::numeric_limits<double>::infinity(), used[slot]};
      if (best < 0 || key < best_key) best = slot, best_key = key;
    }
    return best;
  }

  void age() {
    double gain = state->gain * evict.growth;
    if (gain > 1e100) {
      for (int e = 0; e < experts; e++) heat[e] /= gain;
      gain = 1.0;
    }
    state->gain = gain;
  }
};

}  // namespace moe
