// Codes of quantised weights, cut into high and low bits and joined again: moe_mlx/store/codes.py, bit for bit. Every
// width is one stream of codes, the first in the lowest bits, and so is each half of it.
#pragma once

#include <cstdint>

namespace moe {

// How the codes of a weight are cut: 4 = 2 + 2, 6 = 4 + 2, 8 = 4 + 4. 0 bits: not at all.
struct Halves {
  int bits = 0, high = 0;

  int low() const { return bits - high; }
  static bool known(int bits, int high) {
    return (bits == 4 && high == 2) || (bits == 6 && high == 4) || (bits == 8 && high == 4);
  }
};

// `nbytes` is that of the whole codes, a multiple of four (of three for six bits).
void lift(const Halves& halves, const char* high, char* whole, int64_t nbytes);      // the low bits become zero
void complete(const Halves& halves, const char* low, char* whole, int64_t nbytes);   // fills the zeros that `lift` left
void high_of(const Halves& halves, const char* whole, char* high, int64_t nbytes);

// Codes of two or three bits to codes of four: moe_mlx/store/widening.py. `nbytes` is that of the latter, a multiple of
// four.
constexpr int kHeldBits = 4;
void widen(int bits, const char* few, char* whole, int64_t nbytes);

}  // namespace moe
