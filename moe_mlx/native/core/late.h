// The late reads of one step, until a later layer's step has waited for them.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "prefetcher.h"
#include "reader.h"

namespace moe {

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
