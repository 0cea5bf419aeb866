#include "fetch.h"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "mlx/scheduler.h"

namespace moe {
namespace {

// Where a row lies; MLX keeps the buffer alive until the work after ours on the stream.
struct View {
  const void* data = nullptr;
  int64_t stride = 1;
  mx::Dtype::Val type = mx::Dtype::Val::float32;

  explicit View(const mx::array& a) : data(a.data<char>()), stride(a.strides().back()), type(a.dtype().val()) {}

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
  int width;    // of the scores
  bool has[5];  // scores, raw, weigh, weights, the next layer's
  std::weak_ptr<Bound> next;
  Policy next_policy;
  int next_width, next_count;

  void run(const std::vector<View>& views, int k, int* experts, int* slots) const {
    Runtime& runtime = *bound->runtime;
    // Work that is queued behind a failed step still runs: it must find slot numbers that exist.
    std::fill(experts, experts + k, 0);
    std::fill(slots, slots + k, 0);
    if (runtime.fault.failed(epoch)) throw std::runtime_error(runtime.text(*runtime.fault.first()));
    const std::vector<int> exact = views[0].ints(k);
    const int widths[5] = {width, width, width, k, next_width};
    std::vector<float> rows[5];
    size_t view = 1;
    for (int i = 0; i < 5; i++)
      if (has[i]) rows[i] = views[view++].floats(widths[i]);
    const auto row = [&](int i) { return has[i] ? rows[i].data() : nullptr; };
    try {
      bound->layer->decode(step, policy, {row(0), row(1), row(2), row(3), exact.data(), k, width}, experts, slots);
    } catch (const ReadError& error) {
      runtime.fault.raise(epoch, error);
      throw std::runtime_error(runtime.text(error));
    }
    // Only now: this layer's own misses are in, and the disk is free while the layer computes.
    const auto coming = has[4] ? next.lock() : nullptr;
    if (coming) coming->layer->look_ahead(next_policy, rows[4].data(), next_width, next_count);
  }
};

class Fetch : public mx::Primitive {
 public:
  Fetch(mx::Stream s, Job job) : Primitive(s), job_(std::move(job)) {}

  void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
    for (auto& o : out) o.set_data(mx::allocator::malloc(o.nbytes()));
    const size_t read = 1 + size_t(std::count(job_.has, job_.has + 5, true));  // what comes after is only waited for
    std::vector<View> views(in.begin(), in.begin() + read);
    const int k = int(out[0].size());
    int* experts = out[0].data<int>();
    int* slots = out[1].data<int>();
    // The outputs' memory must outlive the task even if nobody takes them.
    mx::scheduler::enqueue(stream(), [job = job_, views, k, experts, slots, a = out[0].data_shared_ptr(),
                                      b = out[1].data_shared_ptr()] { job.run(views, k, experts, slots); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("moe-mlx: the fetch runs on a CPU stream");
  }

  const char* name() const override { return "MoeFetch"; }

 private:
  Job job_;
};

std::mutex registry_mutex;
int64_t last_id = 0;

std::map<int64_t, std::weak_ptr<Runtime>>& registry() {
  static auto* known = new std::map<int64_t, std::weak_ptr<Runtime>>;  // outlives every stream
  return *known;
}

int64_t next_id() {
  std::lock_guard lock(registry_mutex);
  return ++last_id;
}

const std::string kTag = " [moe-mlx fault ";

mx::array as_row(const mx::array& a, int n, const char* name) {
  if (a.ndim() == 0 || a.size() != size_t(n) || a.shape(-1) != n)
    throw std::invalid_argument(std::string("moe-mlx: ") + name + " is not one row of " + std::to_string(n));
  const auto type = a.dtype();
  return type == mx::float32 || type == mx::float16 || type == mx::bfloat16 ? a : mx::astype(a, mx::float32);
}

}  // namespace

Runtime::Runtime() : id(next_id()) {}

std::shared_ptr<Runtime> Runtime::make() {
  auto made = std::make_shared<Runtime>();
  std::lock_guard lock(registry_mutex);
  registry()[made->id] = made;
  return made;
}

void Runtime::ran_on(mx::Stream stream) {
  std::lock_guard lock(mutex_);
  for (auto& known : streams_)
    if (known == stream) return;
  streams_.push_back(stream);
}

void Runtime::drain() {
  std::vector<mx::Stream> streams;
  {
    std::lock_guard lock(mutex_);
    streams = streams_;
  }
  for (auto& stream : streams) {
    for (bool clean = false; !clean;) {  // what is still queued may throw again after an error has been taken out
      try {
        mx::synchronize(stream);
        clean = true;
      } catch (const std::exception&) {
      }
    }
  }
}

void Runtime::delivered() {
  fault.delivered();
  // An error that MLX throws while it queues work can leave its count of active tasks one too high (dispatch in
  // mlx/backend/cpu/encoder.h); with two too many an evaluation waits for them for ever (wait_for_one in mlx/scheduler.h).
  if (mx::scheduler::n_active_tasks() > 0)
    mx::scheduler::notify_task_completion(mx::default_stream(mx::Device::cpu));
}

std::shared_ptr<Runtime> Runtime::of_error(const std::string& text) {
  const size_t at = text.rfind(kTag);
  if (at == std::string::npos) return nullptr;
  std::lock_guard lock(registry_mutex);
  auto found = registry().find(std::atoll(text.c_str() + at + kTag.size()));
  return found == registry().end() ? nullptr : found->second.lock();
}

std::string Runtime::text(const ReadError& error) const { return error.what() + kTag + std::to_string(id) + "]"; }

std::vector<mx::array> decode(const std::shared_ptr<Bound>& bound, int64_t step, const Policy& policy,
                              const mx::array& exact, const Router& router, const Outlook& outlook,
                              const std::optional<mx::array>& after) {
  const auto stream = mx::default_stream(mx::Device::cpu);
  bound->runtime->ran_on(stream);
  const auto type = exact.dtype() == mx::int32 ? mx::int32 : mx::uint32;
  std::vector<mx::array> inputs{exact.dtype() == type ? exact : mx::astype(exact, type)};
  const int n = router.scores ? router.scores->shape(-1) : 0, k = int(exact.size());
  if (exact.ndim() == 0 || exact.shape(-1) != k) throw std::invalid_argument("moe-mlx: indices are not one row");
  if (router.scores) inputs.push_back(as_row(*router.scores, n, "scores"));
  if (router.raw) inputs.push_back(as_row(*router.raw, n, "raw"));
  if (router.weigh) inputs.push_back(as_row(*router.weigh, n, "weigh"));
  if (router.weights) inputs.push_back(as_row(*router.weights, k, "weights"));
  const int m = outlook.scores ? outlook.scores->shape(-1) : 0;
  if (outlook.scores) inputs.push_back(as_row(*outlook.scores, m, "outlook"));
  if (after && !after->is_available()) inputs.push_back(*after);
  Job job{bound, bound->runtime->fault.epoch(), step, policy, n,
          {bool(router.scores), bool(router.raw), bool(router.weigh), bool(router.weights), bool(outlook.scores)},
          outlook.next, outlook.policy, m, outlook.count};
  auto primitive = std::make_shared<Fetch>(stream, std::move(job));
  return mx::array::make_arrays({exact.shape(), exact.shape()}, {type, type}, primitive, inputs);
}

}  // namespace moe
