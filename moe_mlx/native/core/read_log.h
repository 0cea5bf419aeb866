// What reads took, in fixed memory that a Python object owns (moe_mlx/counts/reads.py) and that only grows in its counts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>

namespace moe {

struct ReadLog {
  static constexpr int kDepths = 65;    // reads under way together, 64 standing for more
  static constexpr int kBuckets = 112;  // quarter octaves from one microsecond on
  int64_t* counts = nullptr;            // reads, bytes, depths, latencies
  std::shared_ptr<void> keep = {};

  // One writer at a time.
  void add(int depth, int64_t nbytes, int64_t nanoseconds) {
    if (!counts) return;
    const double octaves = nanoseconds > 1000 ? std::log2(double(nanoseconds) / 1000) : 0;
    add_to(0, 1);
    add_to(1, nbytes);
    add_to(2 + std::min(depth, kDepths - 1), 1);
    add_to(2 + kDepths + std::min(int(4 * octaves), kBuckets - 1), 1);
  }

 private:
  // Python looks at them while they move.
  void add_to(int place, int64_t more) { __atomic_fetch_add(counts + place, more, __ATOMIC_RELAXED); }
};

}  // namespace moe
