// Light experts that may be late: the rule of moe_mlx/routing/light.py, bit for bit, and the late reads of a step until a
// later layer's step has waited for them.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "prefetcher.h"
#include "reader.h"

namespace moe {

// How many experts of a token may be late, and the share of its weight that lies before each of them.
struct Light {
  int rows = 0;  // 0: every expert is waited for
  double beyond = 0;
};

struct LateChoice {
  std::vector<int> experts;  // the heaviest first
  double weight = 0;         // their share of the token's

  bool has(int expert) const;
  void clear() { experts.clear(), weight = 0; }
  // order: the chosen, the heaviest first; shares: of every expert, up to a common factor.
  void pick(const Light& light, const std::vector<int>& order, const float* shares, const int32_t* slot_of);
};

// What one step has left to a later layer's: places in its list of misses, and how each of them comes.
struct LateReads {
  static constexpr int64_t kNone = -1;
  int64_t step = kNone;
  int heaviest = 0;         // slot of the heaviest expert: what fills the rows that are left
  std::vector<int> misses;  // all of them, the heaviest first
  std::vector<int> demanded;
  std::shared_ptr<Batch> batch;  // of `demanded`
  std::vector<std::pair<int, std::shared_ptr<Staged>>> staged;
};

}  // namespace moe
