#include "access.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <system_error>

namespace moe {
namespace {

// What is left to fill, a vector of buffers from `first` on.
struct Left {
  std::vector<iovec> parts;
  size_t first = 0;

  bool empty() const { return first == parts.size(); }
  int64_t nbytes() const {
    int64_t sum = 0;
    for (size_t i = first; i < parts.size(); i++) sum += int64_t(parts[i].iov_len);
    return sum;
  }
  void advance(size_t n) {
    while (first < parts.size() && n >= parts[first].iov_len) n -= parts[first++].iov_len;
    if (n) parts[first].iov_base = static_cast<char*>(parts[first].iov_base) + n, parts[first].iov_len -= n;
  }
  bool aligned(const Access& access, int64_t offset) const {
    return offset % access.block == 0 && std::all_of(parts.begin() + long(first), parts.end(), [&](const iovec& part) {
      return int64_t(part.iov_len) % access.block == 0 &&
             reinterpret_cast<uintptr_t>(part.iov_base) % uintptr_t(access.memory) == 0;
    });
  }
};

int64_t read(const Access& access, int fd, const iovec* parts, size_t count, int64_t offset) {
  while (true) {
    const ssize_t got = preadv(fd, parts, int(std::min<size_t>(16, count)), offset);
    if (got >= 0) return got;
    if (errno == EINTR) continue;
    const int code = errno == EINVAL && access.way == Access::direct ? EOPNOTSUPP : errno;
    throw std::system_error(code, std::generic_category(), "preadv");
  }
}

int64_t through_bounce(const Access& access, Bounce& bounce, int fd, Left& left, int64_t offset) {
  int64_t done = 0;
  const int64_t wanted = left.nbytes();
  char* memory = wanted ? bounce.of(access.bounce) : nullptr;
  while (done < wanted) {
    const int64_t skip = (offset + done) % access.block;
    const int64_t blocks = (skip + wanted - done + access.block - 1) / access.block;
    const iovec piece{memory, size_t(std::min(access.bounce, blocks * access.block))};
    // Where a file ends within a block, the read ends there as well.
    int64_t got = std::min(read(access, fd, &piece, 1, offset + done - skip) - skip, wanted - done);
    if (got <= 0) break;
    done += got;
    for (const char* from = memory + skip; got;) {
      const size_t n = std::min(size_t(got), left.parts[left.first].iov_len);
      std::memcpy(left.parts[left.first].iov_base, from, n);
      left.advance(n);
      from += n, got -= int64_t(n);
    }
  }
  return done;
}

}  // namespace

int Access::flags() const {
#ifdef O_DIRECT
  if (way == direct) return O_DIRECT;
#endif
  return 0;
}

bool Access::prepare(int fd) const {
#ifdef F_NOCACHE
  return way != direct || fcntl(fd, F_NOCACHE, 1) != -1;
#else
  return fd >= 0;
#endif
}

char* Bounce::make(int64_t nbytes) {
  void* made = nullptr;
  if (posix_memalign(&made, size_t(sysconf(_SC_PAGESIZE)), size_t(nbytes)) != 0) throw std::bad_alloc();
  return static_cast<char*>(made);
}

char* Bounce::of(int64_t nbytes) {
  if (!memory_) memory_.reset(make(nbytes));
  return memory_.get();
}

char* Bounce::scratch(int64_t nbytes) {
  if (scratch_nbytes_ < nbytes) scratch_.reset(make(nbytes)), scratch_nbytes_ = nbytes;
  return scratch_.get();
}

int64_t fill(const Access& access, Bounce& bounce, int fd, std::vector<iovec> buffers, int64_t offset) {
  Left left{std::move(buffers)};
  int64_t done = 0;
  while (!left.empty() && (access.block == 1 || left.aligned(access, offset + done))) {
    const int64_t got = read(access, fd, &left.parts[left.first], left.parts.size() - left.first, offset + done);
    if (got == 0) break;
    done += got;
    left.advance(size_t(got));
  }
  if (access.block > 1 && !left.empty()) done += through_bounce(access, bounce, fd, left, offset + done);
#ifdef POSIX_FADV_DONTNEED
  if (access.way == Access::dropped && done) {  // every page that was touched
    const int64_t page = sysconf(_SC_PAGESIZE), from = offset / page * page;
    posix_fadvise(fd, from, (offset + done + page - 1) / page * page - from, POSIX_FADV_DONTNEED);
  }
#endif
  return done;
}

}  // namespace moe
