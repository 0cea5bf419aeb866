// How experts come off the disk: through the page cache, or past it. The words and rules of moe_mlx/store/access.py.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace moe {

// What direct reads ask for is found out by Python, once, where the model is opened.
struct Access {
  enum Way { cached, direct, dropped };
  Way way = cached;
  int64_t memory = 1;  // addresses are multiples of this
  int64_t block = 1;   // offsets and lengths are; 1: reads need no alignment
  int64_t bounce = 0;  // bytes of a thread's bounce buffer

  int flags() const;           // for open
  bool prepare(int fd) const;  // after it; false with errno
};

// A reader thread's buffers, there from their first use on.
class Bounce {
 public:
  char* of(int64_t nbytes);  // begins at a page; throws std::bad_alloc
  // Memory beside it for what a read finds in another order than it is wanted in; likewise.
  char* scratch(int64_t nbytes);

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  static char* make(int64_t nbytes);
  std::unique_ptr<char, Free> memory_, scratch_;
  int64_t scratch_nbytes_ = 0;
};

// Reads into buffers, one after the other, until they are full or the file ends; what is aligned straight into them.
// Returns the bytes read. Throws std::system_error; EOPNOTSUPP where a file refuses direct reads.
int64_t fill(const Access& access, Bounce& bounce, int fd, std::vector<iovec> buffers, int64_t offset);

}  // namespace moe
