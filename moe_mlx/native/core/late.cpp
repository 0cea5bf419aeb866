#include "late.h"

#include <algorithm>

namespace moe {

bool LateChoice::has(int expert) const { return std::find(experts.begin(), experts.end(), expert) != experts.end(); }

void LateChoice::pick(const Light& light, const std::vector<int>& order, const float* shares, const int32_t* slot_of) {
  clear();
  if (!light.rows || !shares) return;
  double total = 0;
  for (int expert : order) total += double(shares[expert]);
  const double limit = light.beyond * total;
  double before = 0;
  for (size_t place = 0; place < order.size(); place++) {
    const int expert = order[place];
    if (place && before > limit && slot_of[expert] < 0 && int(experts.size()) < light.rows) {
      experts.push_back(expert);
      weight += double(shares[expert]);
    }
    before += double(shares[expert]);
  }
  if (!experts.empty()) weight /= total;
}

}  // namespace moe
