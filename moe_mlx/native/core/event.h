// One layer's part in one model call, and the ring of them in memory that a Python object owns
// (moe_mlx/counts/event_log.py).
#pragma once

#include <cstdint>
#include <cstring>

namespace moe {

// One line a counter, the names and the order of EventLog.FIELDS; compared when the primitive is loaded.
#define MOE_EVENT_FIELDS(FIELD) \
  FIELD(step)                   \
  FIELD(phase)                  \
  FIELD(tokens)                 \
  FIELD(hits)                   \
  FIELD(misses)                 \
  FIELD(swapped)                \
  FIELD(bytes_read)             \
  FIELD(wait_ns)                \
  FIELD(read_backs)             \
  FIELD(choices)                \
  FIELD(waits)                  \
  FIELD(host_ns)                \
  FIELD(hinted)                 \
  FIELD(hint_hits)              \
  FIELD(wasted_bytes)           \
  FIELD(late)                   \
  FIELD(late_weight_ppb)        \
  FIELD(read_waits)             \
  FIELD(waits_saved)            \
  FIELD(coarse)                 \
  FIELD(coarse_weight_ppb)      \
  FIELD(promotions)             \
  FIELD(coarse_bytes)           \
  FIELD(rest_bytes)

enum Phase { kPrefill = 0, kDecode = 1 };

struct Event {
#define FIELD(name) int64_t name = 0;
  MOE_EVENT_FIELDS(FIELD)
#undef FIELD

  Event& operator+=(const Event& other) {
#define FIELD(name) name += other.name;
    MOE_EVENT_FIELDS(FIELD)
#undef FIELD
    return *this;
  }
};

constexpr const char* kEventFields[] = {
#define FIELD(name) #name,
    MOE_EVENT_FIELDS(FIELD)
#undef FIELD
};
static_assert(sizeof(Event) == sizeof(kEventFields) / sizeof(kEventFields[0]) * sizeof(int64_t));

struct EventLog {
  static constexpr int kRows = 256;
  Event* rows;
  double* weights_moved;
  int64_t* written;

  void write(const Event& event, double weight_moved) {
    const int64_t number = *written, row = number % kRows;
    std::memcpy(rows + row, &event, sizeof event);
    weights_moved[row] = weight_moved;
    // A row is whole before it counts. (std::atomic_ref is missing from Apple's older standard libraries.)
    __atomic_store_n(written, number + 1, __ATOMIC_RELEASE);
  }
};

}  // namespace moe
