#include "fetch_rows.h"

#include <algorithm>

#include "mlx/scheduler.h"

namespace moe {
namespace {

// One step of one layer, as it waits in a stream's queue.
struct RowsJob {
  std::shared_ptr<Bound> bound;
  int64_t epoch, step;
  int count, k;

  void run(const int* chosen, int64_t stride, int* slots) const {
    ModelStreams& streams = *bound->streams;
    const int all = count * k;
    std::fill(slots, slots + all, 0);  // what is queued behind a failed step must find slot numbers that exist
    if (streams.fault.failed(epoch)) throw std::runtime_error(streams.text(*streams.fault.first()));
    std::vector<int> experts(static_cast<size_t>(all));
    for (int i = 0; i < all; i++) experts[i] = chosen[i * stride];
    try {
      bound->layer->rows(step, experts.data(), count, k, slots);
    } catch (const ReadError& error) {
      streams.fault.raise(epoch, step, error);
      throw std::runtime_error(streams.text(error));
    }
  }
};

class FetchRows : public mx::Primitive {
 public:
  FetchRows(mx::Stream s, RowsJob job) : Primitive(s), job_(std::move(job)) {}

  void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
    out[0].set_data(mx::allocator::malloc(out[0].nbytes()));
    // The output's memory must outlive the task even if nobody takes it.
    mx::scheduler::enqueue(stream(), [job = job_, chosen = in[0].data<int>(), stride = in[0].strides().back(),
                                      slots = out[0].data<int>(), kept = out[0].data_shared_ptr()] {
      job.run(chosen, stride, slots);
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("moe-mlx: the fetch runs on a CPU stream");
  }

  const char* name() const override { return kFetch; }

 private:
  RowsJob job_;
};

}  // namespace

mx::array fetch_rows(const std::shared_ptr<Bound>& bound, int64_t step, const mx::array& chosen,
                     const std::optional<mx::array>& after) {
  if (chosen.ndim() == 0 || chosen.size() == 0) throw std::invalid_argument("moe-mlx: no rows of experts");
  const auto stream = fetch_stream(*bound->streams);
  const int k = chosen.shape(-1), count = int(chosen.size()) / k;
  const auto type = chosen.dtype() == mx::int32 ? mx::int32 : mx::uint32;
  // On the model's own stream, so that one array crosses, in one row.
  std::vector<mx::array> inputs{mx::reshape(mx::astype(chosen, type), {-1})};
  if (after && !after->is_available()) inputs.push_back(*after);
  RowsJob job{bound, bound->streams->fault.epoch(), step, count, k};
  return mx::array(chosen.shape(), type, std::make_shared<FetchRows>(stream, std::move(job)), std::move(inputs));
}

}  // namespace moe
