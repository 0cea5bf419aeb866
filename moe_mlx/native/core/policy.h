// The routing policies, bit for bit those of moe_mlx/routing: the same total order, the same float32 and float64 steps.
// Built with -ffp-contract=off, so that no compiler fuses what numpy does not.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace moe {

enum class Kind : int { exact = 0, cache_prior = 1, max_rank = 2, cumulative = 3 };

struct Policy {
  Kind kind = Kind::exact;
  float lam = 0;
  int top_j = 0;
  int max_rank = 0;
  double mass = 0;
};

// numpy.argsort(-scores, kind="stable"): descending, ties to the lower id, NaN last. A total order, so that any sorting
// algorithm gives the one result and garbage in never is undefined behaviour.
struct Descending {
  const float* z;
  bool operator()(int a, int b) const {
    const float x = -z[a], y = -z[b];
    if (x < y || (y != y && x == x)) return true;
    if (y < x || (x != x && y == y)) return false;
    return a < b;
  }
};

struct Choice {
  std::vector<int> experts;    // in computing order
  std::vector<int> displaced;  // places in the exact choice whose expert the policy did not take
};

class Chooser {
 public:
  // `experts` have slots; scores may be of more, which need no memory and so are always there.
  explicit Chooser(int experts) : experts_(experts) {}

  // max - min over finite scores, in float32 (finite_range of the oracle)
  static double range(const float* z, int n) {
    float low = INFINITY, high = -INFINITY;
    for (int e = 0; e < n; e++) {
      if (!std::isfinite(z[e])) continue;
      low = std::min(low, z[e]);
      high = std::max(high, z[e]);
    }
    return high >= low ? double(float(high - low)) : 0.0;
  }

  void choose(const Policy& policy, const float* z, int width, const int* exact, int k,
              const int32_t* slot_of, double delta, Choice& out) {
    out.displaced.clear();
    out.experts.assign(exact, exact + k);
    if (policy.kind == Kind::exact) return;
    order_.resize(width), inside_.resize(width), biased_.resize(width), held_.resize(width);
    rank(policy, z, k, slot_of, delta);
    std::fill(inside_.begin(), inside_.end(), 0);
    for (int i = 0; i < k; i++) inside_[order_[i]] = 1;
    for (int i = 0; i < k; i++)
      if (!inside_[exact[i]]) out.displaced.push_back(i);
    if (!out.displaced.empty()) take_own_of_equals(z, exact, k, out.displaced);
    if (out.displaced.empty()) return;
    out.experts.assign(order_.begin(), order_.begin() + k);
    std::sort(out.experts.begin(), out.experts.end(), Descending{z});
  }

 private:
  int size() const { return int(order_.size()); }
  bool resident(int e, const int32_t* slot_of) const { return e >= experts_ || slot_of[e] >= 0; }

  void sort(const float* z, int n) {
    std::iota(order_.begin(), order_.end(), 0);
    std::partial_sort(order_.begin(), order_.begin() + n, order_.end(), Descending{z});
  }

  // Puts the model's own expert back wherever one of exactly its score displaced it: no policy asked for that.
  void take_own_of_equals(const float* z, const int* exact, int k, std::vector<int>& displaced) {
    std::sort(order_.begin(), order_.begin() + k);
    for (int i = 0; i < k; i++) {
      if (std::find(exact, exact + k, order_[i]) != exact + k) continue;
      const auto equal = std::find_if(displaced.begin(), displaced.end(),
                                      [&](int place) { return z[exact[place]] == z[order_[i]]; });
      if (equal == displaced.end()) continue;
      order_[i] = exact[*equal];
      displaced.erase(equal);
    }
  }

  // Leaves the k chosen at the front of order_.
  void rank(const Policy& policy, const float* z, int k, const int32_t* slot_of, double delta) {
    if (policy.kind == Kind::cache_prior) {
      const float bonus = policy.lam * float(delta);
      sort(z, std::min(policy.top_j, size()));
      for (int e = 0; e < size(); e++) inside_[e] = resident(e, slot_of);
      for (int i = 0; i < policy.top_j && i < size(); i++) inside_[order_[i]] = 1;
      for (int e = 0; e < size(); e++) biased_[e] = inside_[e] ? z[e] + bonus : z[e];
      sort(biased_.data(), k);
      return;
    }
    int pool = std::min(policy.max_rank, size());
    if (policy.kind == Kind::cumulative) {
      sort(z, size());
      pool = cumulative_pool(z, policy.mass);
    } else {
      sort(z, std::min(size(), pool + k));
    }
    fill(z, slot_of, policy.top_j, pool, k);
  }

  // The fewest top experts that hold a share `mass` of softmax(z), in float64 and in rank order.
  int cumulative_pool(const float* z, double mass) {
    const double top = z[order_[0]];
    double sum = 0;
    for (int i = 0; i < size(); i++) {
      const double weight = std::exp(double(z[order_[i]]) - top);
      held_[i] = sum = i ? sum + weight : weight;
    }
    const double wanted = mass * held_.back();
    int low = 0, high = size();
    while (low < high) {  // bisect_left
      const int middle = (low + high) / 2;
      if (held_[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return std::min(low + 1, size());
  }

  // The true top-J, then residents among the top `pool` in rank order, then plain rank order.
  void fill(const float* z, const int32_t* slot_of, int top_j, int pool, int k) {
    for (int i = 0; i < size(); i++) {
      const int e = order_[i];
      inside_[i] = i < top_j || (i < pool && resident(e, slot_of) && std::isfinite(z[e]));
    }
    picked_.clear();
    for (char in : {1, 0})
      for (int i = 0; i < size() && int(picked_.size()) < k; i++)
        if (inside_[i] == in) picked_.push_back(order_[i]);
    std::copy(picked_.begin(), picked_.end(), order_.begin());
  }

  int experts_;
  std::vector<int> order_, picked_;
  std::vector<char> inside_;
  std::vector<float> biased_;
  std::vector<double> held_;
};

}  // namespace moe
