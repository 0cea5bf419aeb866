// A bounded LRU of open files: a large model has thousands, and importing mlx_lm lowers the limit to 2,048.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <unordered_map>

#include "access.h"
#include "shelf.h"

namespace moe {

class Descriptors {
 public:
  explicit Descriptors(Access access) : access_(access) {}
  ~Descriptors() { close_all(); }
  int acquire(const Shelf& shelf, int file);  // throws std::system_error
  void release(int64_t key, int fd);
  void forget(int64_t key);  // the next use opens the file anew
  void close_all();
  size_t open_count();
  static bool scarce();  // too few for anything that can be done without

 private:
  struct Entry {
    int fd, users;
    std::list<int64_t>::iterator place;
  };
  bool evict();
  void retire(std::unordered_map<int64_t, Entry>::iterator found);
  const Access access_;
  std::mutex mutex_;
  std::list<int64_t> latest_;
  std::unordered_map<int64_t, Entry> open_;
  std::unordered_map<int, int> stale_;  // descriptor -> users, closed by the last of them
};

}  // namespace moe
