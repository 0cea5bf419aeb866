#include "halves.h"

#include <cstring>

namespace moe {
namespace {

template <typename T>
T load(const char* from) {
  T word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

template <typename T>
void store(char* to, T word) {
  std::memcpy(to, &word, sizeof word);
}

// 16 bits of packed halves, moved apart to where they lie in a word of whole codes; and back.
struct Two {
  static uint32_t apart(uint32_t x) {
    x = (x | x << 8) & 0x00FF00FFu, x = (x | x << 4) & 0x0F0F0F0Fu;
    return (x | x << 2) & 0x33333333u;
  }
  static uint32_t together(uint32_t x) {
    x &= 0x33333333u, x = (x | x >> 2) & 0x0F0F0F0Fu, x = (x | x >> 4) & 0x00FF00FFu;
    return (x | x >> 8) & 0xFFFFu;
  }
};

struct Four {
  static uint32_t apart(uint32_t x) { return x = (x | x << 8) & 0x00FF00FFu, (x | x << 4) & 0x0F0F0F0Fu; }
  static uint32_t together(uint32_t x) {
    return x &= 0x0F0F0F0Fu, x = (x | x >> 4) & 0x00FF00FFu, (x | x >> 8) & 0xFFFFu;
  }
};

template <typename Width>
void lift_words(int shift, const char* high, char* whole, int64_t words) {
  for (int64_t i = 0; i < words; i++) store(whole + 4 * i, Width::apart(load<uint16_t>(high + 2 * i)) << shift);
}

template <typename Width>
void complete_words(const char* low, char* whole, int64_t words) {
  for (int64_t i = 0; i < words; i++)
    store(whole + 4 * i, load<uint32_t>(whole + 4 * i) | Width::apart(load<uint16_t>(low + 2 * i)));
}

template <typename Width>
void high_words(int shift, const char* whole, char* high, int64_t words) {
  for (int64_t i = 0; i < words; i++)
    store(high + 2 * i, uint16_t(Width::together(load<uint32_t>(whole + 4 * i) >> shift)));
}

uint32_t three(const char* from) {
  const auto* byte = reinterpret_cast<const unsigned char*>(from);
  return uint32_t(byte[0]) | uint32_t(byte[1]) << 8 | uint32_t(byte[2]) << 16;
}

void store_three(char* to, uint32_t word) {
  for (int i = 0; i < 3; i++) to[i] = char(word >> (8 * i));
}

}  // namespace

void lift(const Halves& halves, const char* high, char* whole, int64_t nbytes) {
  if (halves.bits == 4) return lift_words<Two>(2, high, whole, nbytes / 4);
  if (halves.bits == 8) return lift_words<Four>(4, high, whole, nbytes / 4);
  for (int64_t i = 0; i < nbytes / 3; i++) {
    const uint32_t halves_of_four = load<uint16_t>(high + 2 * i);
    uint32_t word = 0;
    for (int code = 0; code < 4; code++) word |= (halves_of_four >> (4 * code) & 15u) << (6 * code + 2);
    store_three(whole + 3 * i, word);
  }
}

void complete(const Halves& halves, const char* low, char* whole, int64_t nbytes) {
  if (halves.bits == 4) return complete_words<Two>(low, whole, nbytes / 4);
  if (halves.bits == 8) return complete_words<Four>(low, whole, nbytes / 4);
  for (int64_t i = 0; i < nbytes / 3; i++) {
    const uint32_t halves_of_four = static_cast<unsigned char>(low[i]);
    uint32_t word = three(whole + 3 * i);
    for (int code = 0; code < 4; code++) word |= (halves_of_four >> (2 * code) & 3u) << (6 * code);
    store_three(whole + 3 * i, word);
  }
}

void high_of(const Halves& halves, const char* whole, char* high, int64_t nbytes) {
  if (halves.bits == 4) return high_words<Two>(2, whole, high, nbytes / 4);
  if (halves.bits == 8) return high_words<Four>(4, whole, high, nbytes / 4);
  for (int64_t i = 0; i < nbytes / 3; i++) {
    const uint32_t word = three(whole + 3 * i);
    uint32_t found = 0;
    for (int code = 0; code < 4; code++) found |= (word >> (6 * code + 2) & 15u) << (4 * code);
    store(high + 2 * i, uint16_t(found));
  }
}

void widen(int bits, const char* few, char* whole, int64_t nbytes) {
  if (bits == 2) {
    for (int64_t i = 0; i < nbytes / 4; i++) store(whole + 4 * i, Two::apart(load<uint16_t>(few + 2 * i)));
    return;
  }
  for (int64_t i = 0; i < nbytes / 4; i++) {
    uint32_t word = three(few + 3 * i);
    word = (word & 0x00000FFFu) | (word & 0x00FFF000u) << 4;
    word = (word & 0x003F003Fu) | (word & 0x0FC00FC0u) << 2;
    store(whole + 4 * i, (word & 0x07070707u) | (word & 0x38383838u) << 1);
  }
}

}  // namespace moe
