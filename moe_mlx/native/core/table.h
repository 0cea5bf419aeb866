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

#include "low.h"

namespace moe {

struct Placement {
  int expert, slot;
  Part part = kWhole;
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
  FIELD(int64_t, pins)         \
  FIELD(double, gain)          \
  FIELD(double, range_sum)     \
  FIELD(double, score_range)

#define MOE_TABLE_ARRAYS(FIELD) \
  FIELD(int32_t, slot_of)       \
  FIELD(int32_t, owner)         \
  FIELD(int64_t, used)          \
  FIELD(int32_t, pinned)        \
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
  int low = 0;              // low slots, numbered after the whole ones
  LowSlots low_slots = {};  // what moves experts there
  std::vector<int64_t> stamps = {};  // scratch of begin

  bool whole(int expert) const { return slot_of[expert] >= 0 && slot_of[expert] < slots; }

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

  // Touches what is resident and clears a slot for each expert that is not, or not as whole as it must be; returns the
  // number of hits. `coarse` are those whose high bits do.
  int begin(const std::vector<int>& chosen, const std::vector<int>& coarse, std::vector<Placement>& misses) {
    const int64_t since = state->clock;
    misses.clear();
    stamps.clear();
    for (size_t i = 0; i < chosen.size(); i++) {
      const int e = chosen[i];
      if (evict.kind == Eviction::lfu) heat[e] += state->gain;
      if (evict.kind == Eviction::router) heat[e] += evict.gain * state->score_range;
      const bool light = std::find(coarse.begin(), coarse.end(), e) != coarse.end();
      if (slot_of[e] >= 0) used[slot_of[e]] = since + 1 + int64_t(i);
      if (whole(e) || (slot_of[e] >= 0 && light)) continue;
      misses.push_back({e, -1, light ? kCoarse : kWhole});
      stamps.push_back(since + 1 + int64_t(i));
    }
    state->clock = since + int64_t(chosen.size());
    for (size_t m = 0; m < misses.size(); m++) {
      const int slot = misses[m].part == kCoarse ? worst(since, slots, slots + low) : victim(since);
      if (slot < 0) {
        for (size_t done = 0; done < m; done++) forget(misses[done].slot);
        throw std::length_error("more experts than slots");
      }
      if (low && misses[m].part != kCoarse) misses[m].part = make_room(slot, misses[m].expert, since);
      else vacate(slot);
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
    vacate(slot);
    used[slot] = 0;
  }

  void vacate(int slot) {
    if (owner[slot] >= 0) slot_of[owner[slot]] = -1;
    owner[slot] = -1;
  }

  void quarantine(int slot) {
    forget(slot);
    used[slot] = kQuarantined;
  }

  // Empties a whole slot for an expert and lifts what there is of it; returns what is to be read. Who gives way goes to
  // the low slot that the expert leaves, or that is worth least.
  Part make_room(int slot, int expert, int64_t since) {
    const int loser = owner[slot], origin = slot_of[expert];
    const int64_t stamp = used[slot];
    int target = origin;
    vacate(slot);
    if (origin >= 0) {
      forget(origin);
      if (loser >= 0) low_slots.swap(slot, origin);
      else low_slots.lift(origin, slot);
    } else if (loser >= 0 && (target = low_slot_for(loser, stamp, since)) >= 0) {
      vacate(target);
      low_slots.demote(slot, target);
    }
    if (loser >= 0 && target >= 0) used[target] = stamp, commit({loser, target});
    return origin < 0 ? kWhole : kRest;
  }

  // The low slot that an expert touched last at `stamp` may take; -1 where all are worth more.
  int low_slot_for(int expert, int64_t stamp, int64_t since) const {
    const int found = worst(since, slots, slots + low);
    if (found < 0 || owner[found] < 0) return found;
    return worth(found) < Worth{evict.kind == Eviction::lru ? 0 : heat[expert], stamp} ? found : -1;
  }

  int victim(int64_t since) const {
    if (evict.kind != Eviction::lru || state->pins) return worst(since, 0, slots);
    const int slot = int(std::min_element(used, used + slots) - used);
    return used[slot] <= since ? slot : -1;
  }

  using Worth = std::pair<double, int64_t>;

  Worth worth(int slot) const {
    const double nothing = -std::numeric_limits<double>::infinity();
    return {owner[slot] < 0 ? nothing : evict.kind == Eviction::lru ? 0 : heat[owner[slot]], used[slot]};
  }

  // The slot that is worth least of those from `from` on; -1 where all were touched after `since` or are pinned.
  int worst(int64_t since, int from, int to) const {
    int best = -1;
    Worth best_worth;
    for (int slot = from; slot < to; slot++) {
      if (used[slot] > since || (owner[slot] >= 0 && pinned[owner[slot]])) continue;
      const Worth found = worth(slot);
      if (best < 0 || found < best_worth) best = slot, best_worth = found;
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
