// The MLX side of a step of several rows: one array of chosen experts in, their slots out.
#pragma once

#include <memory>
#include <optional>

#include "fetch.h"

namespace moe {

// Returns the slots of `chosen` `[..., k]`, whose experts are read once whatever the number of rows that chose them. All
// of them have to fit into the layer's slots at once. `after` as for `decode`.
mx::array fetch_rows(const std::shared_ptr<Bound>& bound, int64_t step, const mx::array& chosen,
                     const std::optional<mx::array>& after);

}  // namespace moe
