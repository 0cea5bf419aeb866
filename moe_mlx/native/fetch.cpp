#include "fetch.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <unordered_set>

#include "mlx/scheduler.h"

namespace moe {
namespace {

// The rows of a step, in this order; each is there or not.
enum Row { kExact, kScores, kRaw, kWeigh, kWeights, kShares, kNextScores, kRows };

// Where a row lies; MLX keeps the buffer alive until the work after ours on the stream.
struct View {
  const void* data = nullptr;
  int64_t stride = 1;
  mx::Dtype::Val type = mx::Dtype::Val::float32;

  explicit View(const mx::array& a) : data(a.data<char>()), stride(a.strides().back()), type(a.dtype().val()) {}
  // Of a packed row, whose words are float32's and int32's bits alike.
  View(const mx::array& packed, int64_t from)
      : data(packed.data<uint32_t>() + from * packed.strides().back()), stride(packed.strides().back()) {}

  template <typename T>
  void copy(float* to, int n) const {
    for (int i = 0; i < n; i++) to[i] = static_cast<float>(static_cast<const T*>(data)[i * stride]);
  }

  std::vector<float> floats(int n) const {
    std::vector<float> out(n);
    if (type == mx::Dtype::Val::float16) copy<mx::float16_t>(out.data(), n);
    else if (type == mx::Dtype::Val::bfloat16) copy<mx::bfloat16_t>(out.data(), n);
    else copy<float>(out.data(), n);
    return out;
  }

  std::vector<int> ints(int n) const {
    std::vector<int> out(n);
    for (int i = 0; i < n; i++) out[i] = static_cast<const int*>(data)[i * stride];
    return out;
  }
};

// One step of one layer, as it waits in a stream's queue.
struct Job {
  std::shared_ptr<Bound> bound;
  int64_t epoch, step;
  Policy policy;
  int width;         // of the scores
  int sizes[kRows];  // 0: there is no such row
  bool packed;       // they come as one row
  std::weak_ptr<Bound> next;
  Policy next_policy;
  int next_guesses;
  LateStep late;
  Row shares = kShares;  // which row holds them: often one that is there anyway

  // The results in one array: k chosen and their slots; k and `rows` where experts may be late; `earlier_rows`.
  int width_of_results() const {
    const int k = sizes[kExact];
    return 2 * k + (late.light.rows ? k + late.light.rows : 0) + (late.earlier ? late.earlier_rows : 0);
  }

  std::vector<int> parts() const {  // where each of them ends but the last
    const int k = sizes[kExact];
    std::vector<int> ends{k};
    if (late.light.rows) ends.insert(ends.end(), {2 * k, 3 * k});
    if (late.earlier) ends.push_back(late.light.rows ? 3 * k + late.light.rows : 2 * k);
    return ends;
  }

  std::vector<View> views(const std::vector<mx::array>& in) const {
    std::vector<View> found;
    int64_t from = 0;
    for (int i = 0; i < kRows; i++) {
      if (!sizes[i]) continue;
      found.push_back(packed ? View(in[0], from) : View(in[found.size()]));
      from += sizes[i];
    }
    return found;
  }

  void run(const std::vector<View>& views, int* results) const {
    const int k = sizes[kExact];
    Taken taken{results, results + k};
    int* next_part = results + 2 * k;
    if (late.light.rows) taken.here = next_part, taken.places = next_part + k, next_part += k + late.light.rows;
    if (late.earlier) taken.late_slots = next_part;
    ModelStreams& streams = *bound->streams;
    // Work that is queued behind a failed step still runs: it must find slot numbers that exist.
    std::fill(results, results + width_of_results(), 0);
    if (streams.fault.failed(epoch)) throw std::runtime_error(streams.text(*streams.fault.first()));
    const std::vector<int> exact = views[0].ints(k);
    std::vector<float> rows[kRows];
    size_t view = 1;
    for (int i = 1; i < kRows; i++)
      if (sizes[i]) rows[i] = views[view++].floats(sizes[i]);
    const auto row = [&](Row which) { return sizes[which] ? rows[which].data() : nullptr; };
    const Token token{row(kScores), row(kRaw), row(kWeigh), row(kWeights), row(shares), exact.data(), k, width};
    try {
      bound->layer->decode(step, policy, token,
                           {late.light, late.earlier ? late.earlier->layer.get() : nullptr, late.earlier_rows}, taken);
    } catch (const ReadError& error) {
      streams.fault.raise(epoch, step, error);
      throw std::runtime_error(streams.text(error));
    }
    // Only now: this layer's own misses are in, and the disk is free while the layer computes.
    const auto there = sizes[kNextScores] ? next.lock() : nullptr;
    if (there) there->layer->prefetch(next_policy, rows[kNextScores].data(), sizes[kNextScores], next_guesses);
  }
};

class Fetch : public mx::Primitive {
 public:
  Fetch(mx::Stream s, Job job) : Primitive(s), job_(std::move(job)) {}

  void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
    out[0].set_data(mx::allocator::malloc(out[0].nbytes()));
    // The output's memory must outlive the task even if nobody takes it.
    mx::scheduler::enqueue(stream(), [job = job_, views = job_.views(in), results = out[0].data<int>(),
                                      kept = out[0].data_shared_ptr()] { job.run(views, results); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("moe-mlx: the fetch runs on a CPU stream");
  }

  const char* name() const override { return kFetch; }

 private:
  Job job_;
};

std::mutex registry_mutex;
int64_t last_id = 0;

std::map<int64_t, std::weak_ptr<ModelStreams>>& registry() {
  static auto* known = new std::map<int64_t, std::weak_ptr<ModelStreams>>;  // outlives every stream
  return *known;
}

int64_t next_id() {
  std::lock_guard lock(registry_mutex);
  return ++last_id;
}

// Queued steps of one stream that may each throw once.
constexpr int kMostErrors = 4096;

const std::string kTag = " [moe-mlx fault ";

mx::array as_row(const mx::array& a, int n, const char* name) {
  if (a.ndim() == 0 || a.size() != size_t(n) || a.shape(-1) != n)
    throw std::invalid_argument(std::string("moe-mlx: ") + name + " is not one row of " + std::to_string(n));
  const auto type = a.dtype();
  return type == mx::float32 || type == mx::float16 || type == mx::bfloat16 ? a : mx::astype(a, mx::float32);
}

// One row of words on the model's own stream, so that one array crosses. Integer words: a copy changes none of them.
mx::array pack(const std::vector<mx::array>& rows) {
  std::vector<mx::array> words;
  for (auto& row : rows) {
    const bool whole = row.dtype() == mx::int32 || row.dtype() == mx::uint32;
    words.push_back(mx::reshape(mx::view(whole ? row : mx::astype(row, mx::float32), mx::uint32), {-1}));
  }
  return words.size() == 1 ? words[0] : mx::concatenate(words, 0);
}

// A stream for the fetches alone, of this thread; what a Mac has in the CPU's default stream.
mx::Stream stream_of_its_own() {
  thread_local const mx::Stream own = mx::new_stream(mx::Device::cpu);
  return own;
}

}  // namespace

ModelStreams::ModelStreams() : id(next_id()) {}

std::shared_ptr<ModelStreams> ModelStreams::make() {
  auto made = std::make_shared<ModelStreams>();
  std::lock_guard lock(registry_mutex);
  registry()[made->id] = made;
  return made;
}

void ModelStreams::ran_on(mx::Stream stream) {
  std::lock_guard lock(mutex_);
  for (auto& known : streams_)
    if (known == stream) return;
  streams_.push_back(stream);
}

void ModelStreams::drain() {
  std::vector<mx::Stream> streams;
  {
    std::lock_guard lock(mutex_);
    streams = streams_;
  }
  for (auto& stream : streams) {
    // What is still queued may throw again after an error has been taken out; a device that is lost throws for ever.
    for (int tries = 0; tries < kMostErrors; tries++) {
      try {
        mx::synchronize(stream);
        break;
      } catch (const std::exception&) {
      }
    }
  }
}

void ModelStreams::delivered() {
  fault.delivered();
  // An error that MLX throws while it queues work can leave its count of active tasks one too high (dispatch in
  // mlx/backend/cpu/encoder.h); with two too many an evaluation waits for them for ever (wait_for_one in mlx/scheduler.h).
  if (mx::scheduler::n_active_tasks() > 0)
    mx::scheduler::notify_task_completion(mx::default_stream(mx::Device::cpu));
}

std::shared_ptr<ModelStreams> ModelStreams::of_error(const std::string& text) {
  const size_t at = text.rfind(kTag);
  if (at == std::string::npos) return nullptr;
  std::lock_guard lock(registry_mutex);
  auto found = registry().find(std::atoll(text.c_str() + at + kTag.size()));
  return found == registry().end() ? nullptr : found->second.lock();
}

std::string ModelStreams::text(const ReadError& error) const { return error.what() + kTag + std::to_string(id) + "]"; }

mx::Stream fetch_stream(ModelStreams& streams) {
  const auto stream = streams.apart ? stream_of_its_own() : mx::default_stream(mx::Device::cpu);
  streams.ran_on(stream);
  streams.ran_on(mx::default_stream(mx::default_device()));
  return stream;
}

std::vector<mx::array> decode(const std::shared_ptr<Bound>& bound, int64_t step, const Policy& policy,
                              const mx::array& exact, const Router& router, const NextLayer& next,
                              const LateStep& late, const std::optional<mx::array>& after) {
  const auto model = mx::default_stream(mx::default_device());
  const auto stream = fetch_stream(*bound->streams);
  const auto type = exact.dtype() == mx::int32 ? mx::int32 : mx::uint32;
  const int n = router.scores ? router.scores->shape(-1) : router.raw ? router.raw->shape(-1) : 0, k = int(exact.size());
  if (exact.ndim() == 0 || exact.shape(-1) != k) throw std::invalid_argument("moe-mlx: indices are not one row");
  const int m = next.scores ? next.scores->shape(-1) : 0;
  Job job{bound, bound->streams->fault.epoch(), step, policy, n, {k}, stream != model, next.bound, next.policy,
          next.guesses, late};
  std::vector<mx::array> inputs{exact.dtype() == type ? exact : mx::astype(exact, type)};
  const auto add = [&](Row place, const std::optional<mx::array>& row, int size, const char* name) {
    if (!row) return;
    inputs.push_back(as_row(*row, size, name));
    job.sizes[place] = size;
  };
  add(kScores, router.scores, n, "scores");
  add(kRaw, router.raw, n, "raw");
  add(kWeigh, router.weigh, n, "weigh");
  add(kWeights, router.weights, k, "weights");
  const auto same = [&](const std::optional<mx::array>& row) { return row && router.shares->id() == row->id(); };
  if (router.shares && same(router.weigh)) job.shares = kWeigh;
  else if (router.shares && same(router.scores)) job.shares = kScores;
  else add(kShares, router.shares, n, "shares");
  add(kNextScores, next.scores, m, "the next layer's scores");
  if (job.packed) inputs = {pack(inputs)};
  if (after && !after->is_available()) inputs.push_back(*after);
  auto shape = exact.shape();
  shape.back() = job.width_of_results();
  const auto parts = job.parts();
  auto primitive = std::make_shared<Fetch>(stream, std::move(job));
  // One array back, and one operation of the model's that waits for it.
  return mx::split(mx::array(std::move(shape), type, primitive, std::move(inputs)), {parts.begin(), parts.end()}, -1);
}

Crossings crossings(const std::vector<mx::array>& outputs) {
  Crossings found;
  std::vector<mx::array> left = outputs;
  std::unordered_set<std::uintptr_t> seen, sent;
  while (!left.empty()) {
    const mx::array a = left.back();
    left.pop_back();
    if (!a.has_primitive() || a.status() != mx::array::Status::unscheduled || !seen.insert(a.id()).second) continue;
    for (auto& sibling : a.siblings()) seen.insert(sibling.id());
    const auto stream = a.primitive().stream();
    bool awaits = false;
    for (auto& input : a.inputs()) {
      left.push_back(input);
      if (!input.has_primitive() || input.status() != mx::array::Status::unscheduled) continue;
      if (input.primitive().stream() == stream) continue;
      if (std::string(a.primitive().name()) == kFetch) found.sent += sent.insert(input.id()).second;
      else awaits = true;
    }
    found.awaited += awaits;
  }
  return found;
}

}  // namespace moe
