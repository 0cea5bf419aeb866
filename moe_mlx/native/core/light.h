// Light experts: who of a token's may be late or coarse, by the rule of moe_mlx/routing/light.py, bit for bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace moe {

// How many experts of a token may be late, how many coarse, and the share of its weight that lies before each of them.
struct Light {
  int rows = 0;
  double beyond = 0;
  int coarse = 0;
};

struct LightChoice {
  std::vector<int> late, coarse;  // the heaviest first
  double late_weight = 0, coarse_weight = 0;

  bool is_late(int expert) const { return std::find(late.begin(), late.end(), expert) != late.end(); }
  void clear() { late.clear(), coarse.clear(), late_weight = coarse_weight = 0; }
  // order: the chosen, the heaviest first; shares: of every expert, up to a common factor, or null: then by rank, the
  // first half of them being what is not light. slots: the whole ones, after which low ones are numbered.
  void pick(const Light& light, const std::vector<int>& order, const float* shares, const int32_t* slot_of, int slots);
};

}  // namespace moe
