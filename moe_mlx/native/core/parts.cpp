#include "parts.h"

#include <cstring>

namespace moe {

void Parts::place(Part part, const char* data, int64_t from, int64_t to, const std::vector<char*>& buffers) const {
  for (const Placed& one : placed) {
    if (one.at < from || one.at >= to) continue;
    const char* come = data + (one.at - from);
    char* there = buffers[size_t(one.tensor)];
    const Halves& how = halves[size_t(one.tensor)];
    if (one.half == Placed::all || (part == kCoarse && cut[size_t(one.tensor)])) {
      std::memcpy(there + one.offset, come, size_t(one.nbytes));
      continue;
    }
    if (one.half == Placed::narrow) {
      widen(this->bits, come, there + one.offset * kHeldBits / this->bits, one.nbytes * kHeldBits / this->bits);
      continue;
    }
    const int bits = one.half == Placed::high ? how.high : how.low();
    (one.half == Placed::high ? lift : complete)(how, come, there + one.offset * how.bits / bits,
                                                 one.nbytes * how.bits / bits);
  }
}

}  // namespace moe
