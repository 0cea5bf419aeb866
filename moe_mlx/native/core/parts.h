// How an expert's bytes lie in its file where its tensors do not lie one behind the other: moe_mlx/store/parts.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "halves.h"

namespace moe {

// What of an expert is read: all of it, its high bits with scales and biases, or the low bits of one that has those.
enum Part { kWhole, kCoarse, kRest };

// Some rows of a tensor, or of one half of it, or of it with fewer bits a code.
struct Placed {
  enum Half : int64_t { all, high, low, narrow };
  int64_t tensor;
  int64_t half;
  int64_t offset;  // in the tensor, or in that half of it, or in what it is with fewer bits
  int64_t at;      // in the file's data
  int64_t nbytes;
};

// What lies under one digest.
struct Digested {
  std::string name;
  int64_t nbytes;
};

struct Parts {
  std::vector<Halves> halves;       // one a tensor
  std::vector<char> cut;            // whether a coarse expert has its high half alone, one a tensor
  std::vector<Placed> placed;       // in the order of the file
  std::vector<Digested> digested;   // likewise
  size_t coarse_digests = 0;        // how many of them are a coarse expert: a prefix
  int64_t coarse_nbytes = 0;
  int bits = 0;                     // of a code of what is narrow
  int64_t nbytes = 0;               // of all of it, where something is narrow

  bool empty() const { return placed.empty(); }
  // Puts what was read of a part where it belongs. buffers: of a whole expert's tensors, or of a coarse one's.
  void place(Part part, const char* data, int64_t from, int64_t to, const std::vector<char*>& buffers) const;
};

}  // namespace moe
