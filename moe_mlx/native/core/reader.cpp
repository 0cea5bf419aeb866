#include "reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <system_error>

#define XXH_INLINE_ALL
#include "../third_party/xxhash.h"
#include "clock.h"

namespace moe {
namespace {

[[noreturn]] void fail(int code, const char* what) { throw std::system_error(code, std::generic_category(), what); }

std::string reason_of(const Shelf& shelf, int code) {
  if (!shelf.root.empty() && code == ELOOP) return "a symbolic link, which a store may not hold";
  if (!shelf.root.empty() && code == ENOENT) return "the file is missing";
  if (code == EINVAL) return "not a regular file";
  if (code == EOPNOTSUPP) return "direct reads are refused";
  return std::generic_category().message(code);
}

std::string hex(const Digest& digest) {
  std::string text;
  char two[3];
  for (unsigned char byte : digest) snprintf(two, sizeof two, "%02x", byte), text += two;
  return text;
}

// PART_WORDS of moe_mlx/expert_cache/residency.py.
std::string words_of(Part part) { return part == kCoarse ? "coarse part: " : part == kRest ? "rest part: " : ""; }

Digest canonical(const XXH128_hash_t& hash) {
  XXH128_canonical_t found;
  XXH128_canonicalFromHash(&found, hash);
  Digest digest;
  std::memcpy(digest.data(), found.digest, sizeof found.digest);
  return digest;
}

}  // namespace

ReadError::ReadError(int layer, int expert, std::string path, std::string reason)
    : std::runtime_error("layer " + std::to_string(layer) + ", expert " + std::to_string(expert) + ": " + reason + " (" +
                         path + ")"),
      layer(layer), expert(expert), path(std::move(path)), reason(std::move(reason)) {}

int64_t Shelf::expert_nbytes() const {
  int64_t sum = 0;
  for (int64_t n : tensor_nbytes) sum += n;
  return sum;
}

int64_t Shelf::nbytes_of(Part part, int expert) const {
  if (!form.empty() && form[size_t(expert)]) return parts_of(expert).nbytes;
  return part == kWhole ? expert_nbytes() : part == kCoarse ? parts.coarse_nbytes : expert_nbytes() - parts.coarse_nbytes;
}

const Parts& Shelf::parts_of(int expert) const {
  const size_t which = form.empty() ? 0 : form[size_t(expert)];
  return which ? narrower[which - 1] : parts;
}

Reader::Reader(int threads, std::string root, Access access, ReadLog log)
    : access_(access), log_(std::move(log)), root_(std::move(root)), descriptors_(access) {
  if (!root_.empty() && (root_fd_ = open(root_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY)) < 0) fail(errno, "open");
  try {
    threads_ = hire(threads, [this] { work(); });
  } catch (...) {
    if (root_fd_ >= 0) ::close(root_fd_);
    throw;
  }
}

Reader::~Reader() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& thread : threads_) thread.join();
  if (root_fd_ >= 0) ::close(root_fd_);
}

void Reader::adopt(Shelf& shelf) {
  std::lock_guard lock(mutex_);
  shelf.root = root_, shelf.root_fd = root_fd_, shelf.key = keys_;
  keys_ += int64_t(shelf.files.size());
}

void Reader::work() {
  Bounce bounce;
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;
    auto [batch, i] = std::move(queue_.front());
    queue_.pop_front();
    if (batch->state[i] == Batch::cancelled) continue;
    batch->state[i] = Batch::running;
    std::optional<ReadError> error;
    try {
      counted(lock, *batch->shelf, batch->experts[i], batch->parts[i], batch->buffers[i], bounce);
    } catch (const ReadError& failed) {
      error = failed;
    } catch (const std::exception& failed) {
      error = ReadError(batch->shelf->layer, batch->experts[i], batch->shelf->root, failed.what());
    }
    if (!batch->errors[i]) batch->errors[i] = std::move(error);  // it may have been given up as stalled
    batch->state[i] = Batch::done;
    if (--batch->left == 0) ended_.notify_all();
  }
}

void Reader::read(const Shelf& shelf, int expert, const std::vector<char*>& buffers, Bounce& bounce) {
  std::unique_lock lock(mutex_);
  counted(lock, shelf, expert, kWhole, buffers, bounce);
}

// Lets the lock go while it reads, and has it again afterwards, failure or not.
void Reader::counted(std::unique_lock<std::mutex>& lock, const Shelf& shelf, int expert, Part part,
                     const std::vector<char*>& buffers, Bounce& bounce) {
  const int depth = ++running_;
  lock.unlock();
  const int64_t started = now_ns();
  try {
    read_one(shelf, expert, part, buffers, bounce);
  } catch (...) {
    lock.lock();
    running_--;
    throw;
  }
  const int64_t took = now_ns() - started;
  lock.lock();
  running_--;
  log_.add(depth, shelf.nbytes_of(part, expert), took);
}

void Reader::read(const std::shared_ptr<Batch>& batch, double seconds) {
  std::unique_lock lock(mutex_);
  enqueue(batch);
  await(lock, batch, seconds);
}

void Reader::start(const std::shared_ptr<Batch>& batch) {
  std::lock_guard lock(mutex_);
  enqueue(batch);
}

void Reader::finish(const std::shared_ptr<Batch>& batch, double seconds) {
  std::unique_lock lock(mutex_);
  await(lock, batch, seconds);
}

void Reader::enqueue(const std::shared_ptr<Batch>& batch) {
  const size_t n = batch->experts.size();
  batch->state.assign(n, Batch::waiting);
  batch->errors.assign(n, std::nullopt);
  batch->left = int(n);
  for (size_t i = 0; i < n; i++) {
    queue_.emplace_back(batch, int(i));
    if (i < threads_.size()) wake_.notify_one();
  }
}

void Reader::await(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Batch>& batch, double seconds) {
  if (ended_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return batch->left == 0; })) return;
  for (size_t i = 0; i < batch->experts.size(); i++) {
    if (batch->state[i] == Batch::done) continue;
    if (batch->state[i] == Batch::waiting) batch->state[i] = Batch::cancelled, batch->left--;
    batch->errors[i] = stalled(*batch->shelf, batch->experts[i], seconds, batch->parts[i]);
  }
}

ReadError Reader::stalled(const Shelf& shelf, int expert, double seconds, Part part) {
  char limit[32];
  snprintf(limit, sizeof limit, "%g", seconds);
  const int file = shelf.ranges[size_t(expert) * shelf.runs()].file;
  return {shelf.layer, expert, shelf.files[file].path, words_of(part) + "no answer from the disk in " + limit + " s"};
}

bool Reader::ended(const Batch& batch, int i) {
  std::lock_guard lock(mutex_);
  return batch.state[i] != Batch::running;
}

std::optional<ReadError> Reader::error(const Batch& batch, int i) {
  std::lock_guard lock(mutex_);
  return batch.errors[i];
}

void Reader::read_one(const Shelf& shelf, int expert, Part part, const std::vector<char*>& buffers, Bounce& bounce) {
  const auto read = [&] {
    if (shelf.parts_of(expert).empty()) read_whole(shelf, expert, buffers, bounce);
    else read_parts(shelf, expert, part, buffers, bounce);
  };
  try {
    read();
  } catch (const ReadError&) {
    // The descriptor may be of a file that was damaged and has been replaced since: look once at what is there.
    read();
  }
}

void Reader::damaged(const Shelf& shelf, int expert, int file, const std::string& reason) {
  const Range* range = &shelf.ranges[size_t(expert) * shelf.runs()];
  for (size_t r = 0; r < shelf.runs(); r++) descriptors_.forget(shelf.key + range[r].file);
  throw ReadError(shelf.layer, expert, shelf.files[file].path, reason);
}

std::string Reader::fill_from(const Shelf& shelf, int file, int64_t offset, std::vector<iovec> buffers, Bounce& bounce,
                              int64_t* got) {
  try {
    const int fd = descriptors_.acquire(shelf, file);
    std::string problem;
    try {
      struct stat found {};
      if (shelf.files[file].nbytes >= 0 && fstat(fd, &found) != 0) fail(errno, "fstat");
      if (shelf.files[file].nbytes >= 0 && found.st_size != shelf.files[file].nbytes)
        problem = "the file has " + std::to_string(found.st_size) + " bytes, " +
                  std::to_string(shelf.files[file].nbytes) + " are expected";
      else
        *got = fill(access_, bounce, fd, std::move(buffers), offset);
    } catch (...) {
      descriptors_.release(shelf.key + file, fd);
      throw;
    }
    descriptors_.release(shelf.key + file, fd);
    return problem;
  } catch (const std::system_error& error) {
    return reason_of(shelf, error.code().value());
  }
}

void Reader::read_whole(const Shelf& shelf, int expert, const std::vector<char*>& buffers, Bounce& bounce) {
  const size_t runs = shelf.runs(), tensors = shelf.tensor_nbytes.size();
  const Range* range = &shelf.ranges[size_t(expert) * runs];
  size_t tensor = 0;
  for (size_t r = 0; r < runs;) {
    const int file = range[r].file;
    const int64_t offset = range[r].offset;
    const size_t first = tensor;
    int64_t wanted = 0;
    do wanted += range[r].nbytes;  // neighbours in a file are one read
    while (++r < runs && range[r].file == file && range[r].offset == offset + wanted);
    std::vector<iovec> parts;
    for (int64_t n = 0; n < wanted && tensor < tensors; n += shelf.tensor_nbytes[tensor++])
      if (shelf.tensor_nbytes[tensor]) parts.push_back({buffers[tensor], size_t(shelf.tensor_nbytes[tensor])});
    int64_t got = 0;
    std::string problem = fill_from(shelf, file, offset, std::move(parts), bounce, &got);
    if (problem.empty() && got != wanted)
      problem = (shelf.root.empty() ? shelf.tensors[first] + " ends" : std::string("the data ends")) + " after " +
                std::to_string(got) + " of " + std::to_string(wanted) + " bytes";
    if (!problem.empty()) damaged(shelf, expert, file, problem);
  }
  if (shelf.digests.empty()) return;
  XXH3_state_t running;
  XXH3_128bits_reset(&running);
  for (size_t t = 0; t < tensors; t++) XXH3_128bits_update(&running, buffers[t], size_t(shelf.tensor_nbytes[t]));
  const Digest digest = canonical(XXH3_128bits_digest(&running));
  if (digest != shelf.digests[size_t(expert)])
    damaged(shelf, expert, range[0].file,
            "digest is " + hex(digest) + ", the manifest says " + hex(shelf.digests[size_t(expert)]));
}

void Reader::read_parts(const Shelf& shelf, int expert, Part part, const std::vector<char*>& buffers, Bounce& bounce) {
  const Parts& parts = shelf.parts_of(expert);
  const size_t runs = shelf.runs();
  const Range* range = &shelf.ranges[size_t(expert) * runs];
  const int file = range[0].file;
  const int64_t from = part == kRest ? parts.coarse_nbytes : 0, wanted = shelf.nbytes_of(part, expert);
  char* data = bounce.scratch(shelf.expert_nbytes());
  // A machine's rows of a file in parts are a run a part.
  for (int64_t r = 0, begin = 0; r < int64_t(runs); begin += range[r++].nbytes) {
    const int64_t first = std::max(from, begin), last = std::min(from + wanted, begin + range[r].nbytes);
    if (first >= last) continue;
    int64_t got = 0;
    std::string problem = fill_from(shelf, file, range[r].offset + first - begin,
                                    {{data + first - from, size_t(last - first)}}, bounce, &got);
    if (problem.empty() && got != last - first)
      problem = "the data ends after " + std::to_string(first + got) + " of " +
                std::to_string(shelf.nbytes_of(kWhole, expert)) + " bytes";
    if (!problem.empty()) damaged(shelf, expert, file, words_of(part) + problem);
  }
  const size_t all = parts.digested.size();
  const size_t first = part == kRest ? parts.coarse_digests : 0, last = part == kCoarse ? parts.coarse_digests : all;
  const char* next = data;
  for (size_t i = first; i < last && !shelf.digests.empty(); next += parts.digested[i++].nbytes) {
    const Digest digest = canonical(XXH3_128bits(next, size_t(parts.digested[i].nbytes)));
    const Digest& wanted_digest = shelf.digests[size_t(expert) * all + i];
    if (digest != wanted_digest)
      damaged(shelf, expert, file,
              "part " + parts.digested[i].name + ": digest is " + hex(digest) + ", the manifest says " + hex(wanted_digest));
  }
  parts.place(part, data, from, from + wanted, buffers);
}

}  // namespace moe
