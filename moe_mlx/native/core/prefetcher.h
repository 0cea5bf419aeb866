// Guessed experts, read by threads of their own into staging buffers that nothing else sees: a wrong guess costs its read
// and nothing more. Nobody waits for a staged expert but who needs that very one, and then no longer than for a read.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "reader.h"

namespace moe {

// A fixed number of staging buffers, each of the largest expert's size; allocated when first used, kept until the last is back.
class Staging : public std::enable_shared_from_this<Staging> {
 public:
  static constexpr size_t kAlignment = 16384;

  Staging(int most, int64_t nbytes);
  ~Staging();
  Staging(const Staging&) = delete;
  std::shared_ptr<char> take();  // comes back by itself; null: all are in use

 private:
  const size_t most_, nbytes_;
  size_t made_ = 0;
  std::mutex mutex_;
  std::vector<char*> free_;
};

// One guessed expert on its way into a staging buffer, or there. What it holds on to outlives whoever asked for it.
struct Staged {
  enum State : char { waiting, running, done, failed, cancelled };
  std::shared_ptr<const Shelf> shelf;
  int expert = 0;
  std::shared_ptr<char> memory;  // the expert's tensors, one after the other
  State state = waiting;         // under the lock of Prefetcher
};

class Prefetcher {
 public:
  Prefetcher(std::shared_ptr<Reader> reader, int threads, int buffers, int64_t nbytes);
  ~Prefetcher();  // what stalls is left behind
  Prefetcher(const Prefetcher&) = delete;

  // Begins to read experts, the first first; what finds no buffer, or no thread any more, is left out.
  std::vector<std::shared_ptr<Staged>> stage(const std::shared_ptr<const Shelf>& shelf, const std::vector<int>& experts);
  Staged::State cancel(const std::shared_ptr<Staged>& staged);  // what has not begun never will; returns what it is then
  Staged::State wait(const std::shared_ptr<Staged>& staged, double seconds);  // until it has ended or the time is over
  bool stop(double seconds);  // begins no more; whether what was running has ended by then

 private:
  // Shared with the threads, so that one that hangs on a disk can be left behind.
  struct Work {
    std::mutex mutex;
    std::condition_variable wake, ended;
    std::deque<std::shared_ptr<Staged>> queue;
    std::shared_ptr<Reader> reader;
    int running = 0;
    bool stopped = false;
    void run();
  };
  std::shared_ptr<Work> work_;
  std::shared_ptr<Staging> staging_;
  std::vector<std::thread> threads_;
};

}  // namespace moe
