// The MLX-free core against the Python oracle: runs the steps that stress.py wrote and compares every outcome, two
// layers at a time on one reader, with guesses before steps, during them and at the end.
// Built by test_stress.py under Address- and ThreadSanitizer.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <future>
#include <numeric>
#include <random>
#include <string>
#include <thread>

#include "core/layer.h"

using namespace moe;

namespace {

struct Bytes {
  std::string data;
  size_t at = 0;
  template <typename T>
  std::vector<T> take(size_t n) {
    std::vector<T> out(n);
    if (at + n * sizeof(T) > data.size()) std::fprintf(stderr, "the file of steps is short\n"), std::exit(2);
    if (n) std::memcpy(out.data(), data.data() + at, n * sizeof(T));
    at += n * sizeof(T);
    return out;
  }
  bool left() const { return at < data.size(); }
};

struct Head {
  int experts, width, slots, k, kind, top_j, max_rank, evict, raw, weigh, scores, steps, late_rows, verify, tensors;
  int nested, low, ranked;  // row blocks of a nested expert's file, or 0; low slots; whether weights are not known
};

[[noreturn]] void differ(int step, const char* what) {
  std::fprintf(stderr, "step %d: %s differs from the oracle\n", step, what);
  std::exit(1);
}

template <typename T>
void same(const std::vector<T>& mine, const std::vector<T>& theirs, int step, const char* what) {
  if (mine.size() != theirs.size() || (!mine.empty() && std::memcmp(mine.data(), theirs.data(), mine.size() * sizeof(T))))
    differ(step, what);
}

std::atomic<int64_t> guesses_used{0};

// Scores that rank some of `likely` and some others first.
std::vector<float> guess(std::mt19937& random, int width, const std::vector<int>& likely) {
  std::vector<float> scores(static_cast<size_t>(width));
  for (auto& score : scores) score = float(random() % 1000) / 1000;
  for (int expert : likely)
    if (random() % 2) scores[size_t(expert)] += 1;
  return scores;
}

// One block: a layer, its steps and what they must lead to. Takes its own copy of the bytes.
void run(Bytes in, const std::shared_ptr<Reader>& reader, const std::string& folder, size_t* end) {
  const Head h = in.take<Head>(1)[0];
  const auto numbers = in.take<double>(7);  // lambda, mass; growth, keep, share, gain; beyond
  const auto sizes = in.take<int64_t>(size_t(h.tensors));
  Shelf shelf;
  shelf.layer = 7, shelf.experts = h.experts, shelf.tensor_nbytes = sizes;
  shelf.tensors.assign(size_t(h.tensors), "t");
  std::vector<int64_t> low_sizes;
  if (h.nested) {
    const auto halves = in.take<int64_t>(3 * size_t(h.tensors)), counts = in.take<int64_t>(4);
    for (size_t t = 0; t < size_t(h.tensors); t++) {
      shelf.parts.halves.push_back({int(halves[3 * t]), int(halves[3 * t + 1])});
      shelf.parts.cut.push_back(char(halves[3 * t + 2]));
    }
    shelf.parts.placed = in.take<Placed>(size_t(counts[0]));
    for (const int64_t n : in.take<int64_t>(size_t(counts[1]))) shelf.parts.digested.push_back({"p", n});
    shelf.parts.coarse_digests = size_t(counts[2]), shelf.parts.coarse_nbytes = counts[3];
    low_sizes = in.take<int64_t>(size_t(h.tensors));
  }
  const size_t digests_each = h.nested ? shelf.parts.digested.size() : 1;
  shelf.digests.resize(h.verify ? size_t(h.experts) * digests_each : 0);
  const auto digests = in.take<unsigned char>(shelf.digests.size() * 16);
  if (h.verify) std::memcpy(shelf.digests.data(), digests.data(), digests.size());
  for (int e = 0; e < h.experts; e++) {
    const std::string name = (h.nested ? std::to_string(h.nested) + "-" : "") + std::to_string(e);
    shelf.files.push_back({folder + "/" + name, 16 + shelf.expert_nbytes()});
    shelf.ranges.push_back({e, 16, shelf.expert_nbytes()});
  }
  const auto contents = in.take<unsigned char>(size_t(h.experts) * size_t(shelf.expert_nbytes()));
  std::vector<int32_t> slot_of(size_t(h.experts), -1), owner(size_t(h.slots + h.low), -1);
  std::vector<int64_t> used(size_t(h.slots + h.low)), written(1);
  auto pinned = in.take<int32_t>(size_t(h.experts));
  TableState state{};
  state.gain = 1, state.pins = std::accumulate(pinned.begin(), pinned.end(), int64_t{0});
  std::vector<Event> rows(EventLog::kRows);
  std::vector<int64_t> uses(size_t(h.experts)), reads(size_t(h.experts)), last(size_t(h.experts)),
      distances(size_t(h.experts) + 1), lates(size_t(h.experts));
  std::vector<double> heat(size_t(h.experts)), moved(EventLog::kRows);
  auto memory = std::make_shared<std::vector<std::vector<char>>>();
  std::vector<char*> blocks;
  for (int64_t n : sizes) blocks.push_back(memory->emplace_back(size_t(n * h.slots)).data());
  std::vector<char*> low_blocks;
  for (int64_t n : low_sizes) low_blocks.push_back(memory->emplace_back(size_t(n * h.low)).data());
  const Parts parts = shelf.parts;
  const int64_t nbytes = shelf.expert_nbytes();
  const Eviction evict{Eviction::Kind(h.evict), numbers[2], numbers[3], numbers[4], numbers[5]};
  Table table{h.experts,   h.slots,       evict,       &state,      slot_of.data(), owner.data(),
              used.data(), pinned.data(), heat.data(), uses.data(), reads.data(),   last.data(),
              distances.data(), nullptr, lates.data()};
  if (h.low) table.low = h.low, table.low_slots = {parts, h.slots, blocks, sizes, low_blocks, low_sizes};
  Layer layer(reader, std::move(shelf), table, {rows.data(), moved.data(), written.data()}, blocks, memory);
  const auto prefetcher = std::make_shared<Prefetcher>(reader, 2, 3, nbytes);
  layer.use(prefetcher);
  std::atomic<bool> over{false};
  std::thread meddler([&] {  // guesses while steps run
    std::mt19937 random(unsigned(h.slots));
    while (!over) {
      layer.prefetch({}, guess(random, h.width, {}).data(), h.width, h.k);
      if (random() % 8 == 0) layer.drop_guess();
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  std::mt19937 random(unsigned(h.experts));
  const Policy policy{Kind(h.kind), float(numbers[0]), h.top_j, h.max_rank, numbers[1]};
  const size_t k = size_t(h.k), late_rows = size_t(h.late_rows);
  const auto check_slot = [&](int step, int expert, int slot) {
    const unsigned char* whole_expert = contents.data() + expert * nbytes;
    if (slot >= h.slots) {
      for (size_t t = 0; t < sizes.size(); whole_expert += sizes[t++]) {
        std::vector<char> high(whole_expert, whole_expert + low_sizes[t]);
        const char* all = reinterpret_cast<const char*>(whole_expert);
        if (parts.cut[t]) high_of(parts.halves[t], all, high.data(), sizes[t]);
        if (std::memcmp(low_blocks[t] + (slot - h.slots) * low_sizes[t], high.data(), high.size()))
          differ(step, "a low slot's bytes");
      }
      return;
    }
    for (size_t t = 0; t < sizes.size(); whole_expert += sizes[t++])
      if (std::memcmp(blocks[t] + slot * sizes[t], whole_expert, size_t(sizes[t]))) differ(step, "a slot's bytes");
  };
  for (int step = 0; step < h.steps; step++) {
    const auto scores = in.take<float>(h.scores ? size_t(h.width) : 0), raw = in.take<float>(h.raw ? size_t(h.width) : 0);
    const auto weigh = in.take<float>(h.weigh ? size_t(h.width) : 0), weights = in.take<float>(h.scores ? k : 0);
    const auto exact = in.take<int>(k), failed = in.take<int>(1), want_experts = in.take<int>(k), want_slots = in.take<int>(k);
    const int coarse = h.low && h.scores ? h.k : 0;
    const auto shares = in.take<float>((late_rows || coarse) && !h.ranked ? size_t(h.width) : 0);
    const auto want_here = in.take<int>(late_rows ? k : 0), want_places = in.take<int>(late_rows);
    const auto joined = in.take<int>(1), late_failed = in.take<int>(1), want_late_slots = in.take<int>(late_rows);
    const auto want_row = in.take<int64_t>(13);
    const auto want_moved = in.take<double>(1);
    if (random() % 4) {
      layer.prefetch(policy, guess(random, h.width, exact).data(), h.width, h.k + int(random() % 3));
      if (random() % 2) std::this_thread::yield();
    }
    const auto some = [](const std::vector<float>& row) { return row.empty() ? nullptr : row.data(); };
    std::vector<int> experts(k), slots(k), here(want_here.size()), places(late_rows), late_slots(late_rows);
    try {
      const Token token{some(scores), some(raw), some(weigh), some(weights), some(shares), exact.data(), h.k, h.width};
      layer.decode(step, policy, token, {{h.late_rows, numbers[6], coarse}},
                   {experts.data(), slots.data(), late_rows ? here.data() : nullptr, places.data()});
      if (failed[0] >= 0) differ(step, "an error that did not come");
    } catch (const ReadError& error) {
      if (error.expert != failed[0]) differ(step, error.what());
      continue;
    }
    same(experts, want_experts, step, "the choice");
    same(slots, want_slots, step, "the slots");
    same(here, want_here, step, "who is there");
    same(places, want_places, step, "the places of the late");
    const Event& row = rows[size_t((written[0] - 1) % EventLog::kRows)];
    same<int64_t>({row.hits, row.misses, row.swapped, row.bytes_read, row.late, row.late_weight_ppb, row.read_waits,
                   row.waits_saved, row.coarse, row.coarse_weight_ppb, row.promotions, row.coarse_bytes, row.rest_bytes},
                  want_row, step, "the counters");
    if (row.hint_hits < 0 || row.hint_hits > row.misses || row.hinted < row.hint_hits ||
        row.wasted_bytes > (row.hinted - row.hint_hits) * nbytes)
      differ(step, "what was guessed does not add up: it");
    guesses_used += row.hint_hits;
    same<double>({moved[size_t((written[0] - 1) % EventLog::kRows)]}, want_moved, step, "the weight moved");
    for (size_t i = 0; i < k; i++) {
      if (experts[i] < h.experts && (here.empty() || here[i])) check_slot(step, experts[i], slots[i]);
    }
    if (!joined[0]) continue;  // the next step drops what is late, or the end does
    if (random() % 2) std::this_thread::yield();
    try {
      const auto join = [&] { layer.join(step, h.late_rows, late_slots.data()); };
      if (random() % 16) join();
      else std::async(std::launch::async, join).get();  // the layer that waits may run on another thread
      if (late_failed[0] >= 0) differ(step, "a late error that did not come");
    } catch (const ReadError& error) {
      if (error.expert != late_failed[0]) differ(step, error.what());
      continue;
    }
    same(late_slots, want_late_slots, step, "the slots of the late");
    for (size_t i = 0; i < size_t(row.late); i++) check_slot(step, experts[size_t(places[i])], late_slots[i]);
  }
  over = true;
  meddler.join();
  layer.reclaim();
  layer.prefetch(policy, guess(random, h.width, {}).data(), h.width, h.k);  // and leaves them to themselves
  same(slot_of, in.take<int32_t>(slot_of.size()), h.steps, "slot_of");
  same(owner, in.take<int32_t>(owner.size()), h.steps, "owner");
  same(used, in.take<int64_t>(used.size()), h.steps, "used");
  same(heat, in.take<double>(heat.size()), h.steps, "heat");
  const auto want_state = in.take<TableState>(1);
  if (std::memcmp(&state, want_state.data(), sizeof state)) differ(h.steps, "the table's state");
  same(uses, in.take<int64_t>(uses.size()), h.steps, "uses");
  same(reads, in.take<int64_t>(reads.size()), h.steps, "reads");
  same(last, in.take<int64_t>(last.size()), h.steps, "last");
  same(distances, in.take<int64_t>(distances.size()), h.steps, "distances");
  same(lates, in.take<int64_t>(lates.size()), h.steps, "lates");
  *end = in.at;
}

// Memory, offset and lengths that are all aligned are read without a bounce buffer: there is none here.
bool reads_straight(Access access, const char* path, const std::string& data) {
  access.bounce = 0;
  Bounce none;
  void* memory = nullptr;
  if (data.size() < 16384 || posix_memalign(&memory, 4096, 12288)) return false;
  char* at = static_cast<char*>(memory);
  const int fd = open(path, O_RDONLY | access.flags());
  const bool same = fill(access, none, fd, {{at, 4096}, {at + 4096, 8192}}, 4096) == 12288 &&
                    std::memcmp(at, data.data() + 4096, 12288) == 0;
  close(fd);
  std::free(memory);
  return same;
}

}  // namespace

int main(int count, char** args) {
  if (count != 3 && count != 5) return 2;
  std::ifstream file(args[1], std::ios::binary);
  Bytes in{{std::istreambuf_iterator<char>(file), {}}};
  Access access;  // with two numbers more: direct, past a bounce buffer of two blocks
  if (count == 5) access = {Access::direct, std::atoll(args[3]), std::atoll(args[4]), 2 * std::atoll(args[4])};
  if (count == 5 && !reads_straight(access, args[1], in.data))
    return std::fprintf(stderr, "aligned reads differ\n"), 1;
  std::vector<int64_t> read(2 + ReadLog::kDepths + ReadLog::kBuckets);
  const auto reader = std::make_shared<Reader>(3, "", access, ReadLog{read.data()});
  int blocks = 0;
  for (; in.left(); blocks++) {
    size_t end = 0, other = 0;
    std::thread beside(run, in, reader, args[2], &other);
    run(in, reader, args[2], &end);
    beside.join();
    in.at = end;
  }
  if (read[0] == 0 || read[1] < read[0]) return std::fprintf(stderr, "the reads do not add up\n"), 1;
  std::printf("%d blocks agree\n", blocks);
  if (!guesses_used) std::printf("and no guess was ever used\n");
}
