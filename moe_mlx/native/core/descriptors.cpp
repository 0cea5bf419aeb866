#include "descriptors.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace moe {
namespace {

int regular(int fd) {
  struct stat found;
  if (fstat(fd, &found) == 0 && S_ISREG(found.st_mode)) return fd;
  close(fd);
  errno = EINVAL;
  return -1;
}

// Below a root every part of the path is opened by itself, so that none of them can be a symbolic link.
int open_file(const Shelf& shelf, const std::string& path, int way) {
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | way;
  int fd = -1;
  if (shelf.root.empty()) {
    fd = open(path.c_str(), flags);
    return fd < 0 ? fd : regular(fd);
  }
  int folder = fcntl(shelf.root_fd, F_DUPFD_CLOEXEC, 0);
  for (size_t start = shelf.root.size() + 1; folder >= 0;) {
    const size_t end = path.find('/', start);
    const bool last = end == std::string::npos;
    const std::string part = path.substr(start, last ? end : end - start);
    fd = openat(folder, part.c_str(), (last ? flags : O_RDONLY | O_CLOEXEC | O_DIRECTORY) | O_NOFOLLOW);
    const int code = errno;
    close(folder);
    errno = code;
    if (last) return fd < 0 ? fd : regular(fd);
    folder = fd;
    start = end + 1;
  }
  return folder;
}

// A file that refuses direct reads is told apart from what is no regular file: EOPNOTSUPP.
int open_as(const Access& access, const Shelf& shelf, const std::string& path) {
  int fd = open_file(shelf, path, access.flags());
  if (fd < 0 && errno == EINVAL && access.flags()) {
    if ((fd = open_file(shelf, path, 0)) < 0) return -1;
    close(fd);
    errno = EOPNOTSUPP;
    return -1;
  }
  if (fd >= 0 && !access.prepare(fd)) {
    const int code = errno;
    close(fd);
    errno = code;
    return -1;
  }
  return fd;
}

// One in four of the process's descriptors, the limit as it is now: Python's reader holds others.
size_t allowed() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return 512;
  return std::min<size_t>(512, std::max<size_t>(4, limit.rlim_cur / 4));
}

}  // namespace

bool Descriptors::scarce() { return allowed() < 64; }

int Descriptors::acquire(const Shelf& shelf, int file) {
  const int64_t key = shelf.key + file;
  std::unique_lock lock(mutex_);
  const auto take = [&](Entry& entry) {
    latest_.splice(latest_.end(), latest_, entry.place);
    entry.users++;
    return entry.fd;
  };
  if (auto found = open_.find(key); found != open_.end()) return take(found->second);
  while (open_.size() >= allowed() && evict()) {}
  int fd = -1;
  while (true) {
    lock.unlock();  // a disk that does not answer must hold up nobody else
    fd = open_as(access_, shelf, shelf.files[file].path);
    const int code = errno;
    lock.lock();
    if (fd >= 0) break;
    if ((code != EMFILE && code != ENFILE) || !evict()) throw std::system_error(code, std::generic_category(), "open");
  }
  if (auto found = open_.find(key); found != open_.end()) {  // another thread was faster
    close(fd);
    return take(found->second);
  }
  open_[key] = {fd, 1, latest_.insert(latest_.end(), key)};
  return fd;
}

void Descriptors::release(int64_t key, int fd) {
  std::lock_guard lock(mutex_);
  if (auto found = open_.find(key); found != open_.end() && found->second.fd == fd) {
    found->second.users--;
  } else if (--stale_[fd] == 0) {
    stale_.erase(fd);
    close(fd);
  }
}

void Descriptors::forget(int64_t key) {
  std::lock_guard lock(mutex_);
  if (auto found = open_.find(key); found != open_.end()) retire(found);
}

void Descriptors::close_all() {
  std::lock_guard lock(mutex_);
  while (!open_.empty()) retire(open_.begin());
}

size_t Descriptors::open_count() {
  std::lock_guard lock(mutex_);
  return open_.size();
}

bool Descriptors::evict() {
  for (int64_t key : latest_) {
    if (auto found = open_.find(key); found->second.users == 0) {
      retire(found);
      return true;
    }
  }
  return false;
}

void Descriptors::retire(std::unordered_map<int64_t, Entry>::iterator found) {
  const Entry entry = found->second;
  latest_.erase(entry.place);
  open_.erase(found);
  if (entry.users) stale_[entry.fd] = entry.users;
  else close(entry.fd);
}

}  // namespace moe
