#include "prefetcher.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

namespace moe {

Staging::Staging(int most, int64_t nbytes)
    : most_(size_t(std::max(0, most))), nbytes_((size_t(nbytes) + kAlignment - 1) / kAlignment * kAlignment) {}

Staging::~Staging() {
  for (char* buffer : free_) std::free(buffer);
}

std::shared_ptr<char> Staging::take() {
  std::lock_guard lock(mutex_);
  char* buffer = nullptr;
  if (!free_.empty()) {
    buffer = free_.back();
    free_.pop_back();
  } else if (made_ < most_) {
    buffer = static_cast<char*>(std::aligned_alloc(kAlignment, nbytes_));
    if (buffer) made_++;
  }
  if (!buffer) return nullptr;
  return {buffer, [home = shared_from_this()](char* used) {
            std::lock_guard back(home->mutex_);
            home->free_.push_back(used);
          }};
}

Prefetcher::Prefetcher(std::shared_ptr<Reader> reader, int threads, int buffers, int64_t nbytes)
    : work_(std::make_shared<Work>()), staging_(std::make_shared<Staging>(buffers, nbytes)) {
  work_->reader = std::move(reader);
  threads_ = hire(threads, [work = work_] { work->run(); });
}

Prefetcher::~Prefetcher() {
  const bool ended = stop(1.0);
  for (auto& thread : threads_) {
    if (ended) thread.join();
    else thread.detach();
  }
}

void Prefetcher::Work::run() {
  Bounce bounce;
  std::unique_lock lock(mutex);
  while (true) {
    wake.wait(lock, [this] { return stopped || !queue.empty(); });
    if (stopped) return;
    const auto staged = std::move(queue.front());
    queue.pop_front();
    staged->state = Staged::running;
    running++;
    lock.unlock();
    std::vector<char*> buffers;
    char* next = staged->memory.get();
    for (int64_t n : staged->shelf->tensor_nbytes) buffers.push_back(next), next += n;
    bool whole = !Descriptors::scarce();  // the last ones are for reads that must succeed
    try {
      if (whole) reader->read(*staged->shelf, staged->expert, buffers, bounce);
    } catch (const std::exception&) {  // whoever needs the expert reads it anew and gets the error
      whole = false;
    }
    lock.lock();
    staged->state = whole ? Staged::done : Staged::failed;
    running--;
    ended.notify_all();
  }
}

std::vector<std::shared_ptr<Staged>> Prefetcher::stage(const std::shared_ptr<const Shelf>& shelf,
                                                       const std::vector<int>& experts) {
  std::vector<std::shared_ptr<Staged>> begun;
  for (int expert : experts) {
    auto memory = staging_->take();
    if (!memory) break;
    begun.push_back(std::make_shared<Staged>(Staged{shelf, expert, std::move(memory)}));
  }
  if (begun.empty()) return begun;
  {
    std::lock_guard lock(work_->mutex);
    if (work_->stopped) return {};
    work_->queue.insert(work_->queue.end(), begun.begin(), begun.end());
  }
  work_->wake.notify_all();
  return begun;
}

Staged::State Prefetcher::cancel(const std::shared_ptr<Staged>& staged) {
  std::lock_guard lock(work_->mutex);
  if (staged->state == Staged::waiting) {
    std::erase(work_->queue, staged);
    staged->state = Staged::cancelled;
  }
  return staged->state;
}

Staged::State Prefetcher::wait(const std::shared_ptr<Staged>& staged, double seconds) {
  std::unique_lock lock(work_->mutex);
  work_->ended.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return staged->state != Staged::running; });
  return staged->state;
}

bool Prefetcher::stop(double seconds) {
  std::unique_lock lock(work_->mutex);
  work_->stopped = true;
  for (auto& staged : work_->queue) staged->state = Staged::cancelled;
  work_->queue.clear();
  work_->wake.notify_all();
  return work_->ended.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return work_->running == 0; });
}

}  // namespace moe
