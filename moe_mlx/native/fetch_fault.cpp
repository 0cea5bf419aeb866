#include "fetch_fault.h"

#include "mlx/scheduler.h"

namespace moe {
namespace {

class FailedBy : public mx::Primitive {
 public:
  FailedBy(mx::Stream s, std::shared_ptr<ModelStreams> streams, int64_t epoch)
      : Primitive(s), streams_(std::move(streams)), epoch_(epoch) {}

  void eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>& out) override {
    out[0].set_data(mx::allocator::malloc(out[0].nbytes()));
    mx::scheduler::enqueue(stream(), [streams = streams_, epoch = epoch_, found = out[0].data<int>(),
                                      kept = out[0].data_shared_ptr()] { *found = streams->fault.failed(epoch); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("moe-mlx: faults are looked at on a CPU stream");
  }

  const char* name() const override { return kFetch; }

 private:
  std::shared_ptr<ModelStreams> streams_;
  int64_t epoch_;
};

}  // namespace

mx::array failed_by(const std::shared_ptr<ModelStreams>& streams, const mx::array& after) {
  return mx::array({1}, mx::int32, std::make_shared<FailedBy>(fetch_stream(*streams), streams, streams->fault.epoch()),
                   {after});
}

}  // namespace moe
