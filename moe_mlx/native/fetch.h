// The MLX side: a primitive on a CPU stream that runs one layer's decode step inside the graph, without the GIL.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/layer.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

namespace moe {

namespace mx = mlx::core;

// The streams that one model's steps ran on, and the fault of those steps; its number stands in the text of what is
// thrown.
struct ModelStreams {
  ModelStreams();
  const int64_t id;
  Fault fault;
  std::atomic<bool> apart{false};  // fetches run on a stream of their own: as beside a GPU, where there is none

  void ran_on(mx::Stream stream);  // a fetch, or the model beside it
  void delivered();  // the fault has been raised; after `drain`
  void drain();  // waits for its streams and drops what they threw; not to be called from one of them
  static std::shared_ptr<ModelStreams> of_error(const std::string& text);
  std::string text(const ReadError& error) const;

  static std::shared_ptr<ModelStreams> make();

 private:
  std::mutex mutex_;
  std::vector<mx::Stream> streams_;
};

// What a queued step needs to stay alive: the layer with its banks, and through `keep` the Python arrays of its table.
struct Bound {
  std::shared_ptr<ModelStreams> streams;
  std::unique_ptr<Layer> layer;
  std::shared_ptr<void> keep;
};

struct Router {
  std::optional<mx::array> scores, raw, weigh, weights, shares;
};

// What may be late or coarse in a step, and which layer has left how many rows to it. That layer's bank is read after this step.
struct LateStep {
  Light light;
  std::shared_ptr<Bound> earlier;
  int earlier_rows = 0;
};

// The layer to prefetch for, what its own router makes of this layer's input, and how many of its experts to guess. It is
// held weakly: a queued step must not keep a bank alive that has been replaced.
struct NextLayer {
  std::optional<mx::array> scores;
  std::weak_ptr<Bound> bound;
  Policy policy;
  int guesses = 0;
};

// Returns the chosen experts and their slots, both shaped as `exact`; where some may be late, who is there and the places
// of the late ones; where an earlier layer has left some, their slots. Where the fetch has another stream than the model,
// one array goes there and one comes back. `after` is what has to be computed before slots may be rewritten: what read the
// layer's bank last.
std::vector<mx::array> decode(const std::shared_ptr<Bound>& bound, int64_t step, const Policy& policy,
                              const mx::array& exact, const Router& router, const NextLayer& next,
                              const LateStep& late, const std::optional<mx::array>& after);

// The stream of the fetches of this model's next step; it and the model's own are noted, to be drained.
mx::Stream fetch_stream(ModelStreams& streams);

// What every primitive of ours is called.
inline constexpr const char* kFetch = "MoeFetch";

// What crosses between the model's stream and the fetches' in a graph that is not yet evaluated.
struct Crossings {
  int64_t sent = 0;     // arrays that fetches take from another stream
  int64_t awaited = 0;  // other operations that wait for an array of another stream
};
Crossings crossings(const std::vector<mx::array>& outputs);

}  // namespace moe
