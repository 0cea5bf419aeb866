#include "light.h"

namespace moe {

void LightChoice::pick(const Light& light, const std::vector<int>& order, const float* shares, const int32_t* slot_of,
                       int slots) {
  clear();
  if (!light.rows && !light.coarse) return;
  const size_t middle = order.empty() ? 0 : (order.size() - 1) / 2;
  const auto share = [&](size_t place) {
    return shares ? double(shares[order[place]]) : place == middle ? 1.0 : 0.0;
  };
  double total = 0;
  for (size_t place = 0; place < order.size(); place++) total += share(place);
  const double limit = light.beyond * total;
  double before = 0;
  for (size_t place = 0; place < order.size(); place++) {
    const int slot = slot_of[order[place]];
    if (place && before > limit && !(0 <= slot && slot < slots)) {
      if (int(coarse.size()) < light.coarse) coarse.push_back(order[place]), coarse_weight += share(place);
      if (slot < 0 && int(late.size()) < light.rows) late.push_back(order[place]), late_weight += share(place);
    }
    before += share(place);
  }
  if (!late.empty() || !coarse.empty()) late_weight /= total, coarse_weight /= total;
}

}  // namespace moe
