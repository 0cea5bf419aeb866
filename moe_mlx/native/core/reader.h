// Experts from disk into slot memory, whole and checked, by a few threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "crew.h"
#include "descriptors.h"
#include "read_log.h"

namespace moe {

// Some experts on their way. A batch outlives its step: a read that stalled goes on into the slot it was given.
struct Batch {
  enum State : char { waiting, running, done, cancelled };
  std::shared_ptr<const Shelf> shelf;
  std::shared_ptr<void> memory;  // keeps what the buffers point into
  std::vector<int> experts;
  std::vector<Part> parts;                  // what is read of each
  std::vector<std::vector<char*>> buffers;  // one per tensor
  std::vector<State> state;                 // under the reader's lock, as is all below
  std::vector<std::optional<ReadError>> errors;
  int left = 0;
};

class Reader {
 public:
  Reader(int threads, std::string root, Access access = {}, ReadLog log = {});  // root: empty for files named in full
  ~Reader();
  Reader(const Reader&) = delete;

  void adopt(Shelf& shelf);  // gives a layer's files their keys and their root
  // Reads a batch. After `seconds` without an end, what has not begun is cancelled and what is running is left behind.
  void read(const std::shared_ptr<Batch>& batch, double seconds);
  // The same in two steps, for who has something to do meanwhile.
  void start(const std::shared_ptr<Batch>& batch);
  void finish(const std::shared_ptr<Batch>& batch, double seconds);
  bool ended(const Batch& batch, int i);
  std::optional<ReadError> error(const Batch& batch, int i);
  void read(const Shelf& shelf, int expert, const std::vector<char*>& buffers, Bounce& bounce);  // in the caller's thread
  static ReadError stalled(const Shelf& shelf, int expert, double seconds, Part part = kWhole);
  void close() { descriptors_.close_all(); }
  size_t open_count() { return descriptors_.open_count(); }

 private:
  void work();
  void enqueue(const std::shared_ptr<Batch>& batch);  // these two under the lock
  void await(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Batch>& batch, double seconds);
  void counted(std::unique_lock<std::mutex>& lock, const Shelf& shelf, int expert, Part part,
               const std::vector<char*>& buffers, Bounce& bounce);
  void read_one(const Shelf& shelf, int expert, Part part, const std::vector<char*>& buffers, Bounce& bounce);
  // Forgets the files of an expert that it could not read.
  void read_whole(const Shelf& shelf, int expert, const std::vector<char*>& buffers, Bounce& bounce);
  // The same of an expert that lies in its file in parts.
  void read_parts(const Shelf& shelf, int expert, Part part, const std::vector<char*>& buffers, Bounce& bounce);
  // Fills buffers from one run of a file; returns what is wrong, or nothing.
  std::string fill_from(const Shelf& shelf, int file, int64_t offset, std::vector<iovec> buffers, Bounce& bounce,
                        int64_t* got);
  [[noreturn]] void damaged(const Shelf& shelf, int expert, int file, const std::string& reason);
  const Access access_;
  ReadLog log_;  // written under the lock
  int running_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_, ended_;
  std::deque<std::pair<std::shared_ptr<Batch>, int>> queue_;
  bool stop_ = false;
  std::string root_;
  int root_fd_ = -1;
  int64_t keys_ = 0;
  Descriptors descriptors_;
  std::vector<std::thread> threads_;
};

}  // namespace moe
