// The MLX side of a fault that others than this process have to hear of, as a number in the graph.
#pragma once

#include <memory>

#include "fetch.h"

namespace moe {

// Returns one int32: 1 where a fetch of this model has failed by the time that `after` is computed, else 0. What is behind
// a failed fetch in the graph has gone on with slots that hold something else, and only an error in this process says so.
mx::array failed_by(const std::shared_ptr<ModelStreams>& streams, const mx::array& after);

}  // namespace moe
