#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "custom_ops/core/metric_scorer.h"
#include "custom_ops/kernels/search_call.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tensorflow {
namespace nann_ops {
namespace {

// A user whose scorer is a metric of its query and the items' embeddings.
class QueryScorer : public Scorer {
 public:
  QueryScorer(const nann::IndexView& index, nann::Metric metric, absl::Span<const float> query)
      : scorer_(index, metric, query) {}

  absl::Status Score(absl::Span<const int32_t> items, absl::Span<float> scores) override {
    scorer_.Score(items, scores);
    return absl::OkStatus();
  }

 private:
  const nann::MetricScorer scorer_;
};

class MetricSearchCall : public SearchCall {
 public:
  MetricSearchCall(OpKernelContext* ctx, nann::Metric metric) : SearchCall(ctx), metric_(metric) {}

 protected:
  absl::Status PrepareScorers() override {
    queries_ = ctx()->input(kFirstOwnInput);
    if (queries_.shape() == TensorShape({batch(), index().dim()})) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("queries has shape ",
                                                   queries_.shape().DebugString(), ", it must be [",
                                                   batch(), ",", index().dim(), "]"));
  }

  std::unique_ptr<Scorer> MakeScorer(int64_t user, Worker& worker) override {
    const size_t dim = queries_.dim_size(1);
    const float* query = queries_.flat<float>().data() + user * dim;
    return std::make_unique<QueryScorer>(index(), metric_, absl::MakeConstSpan(query, dim));
  }

 private:
  const nann::Metric metric_;
  Tensor queries_;
};

class MetricSearchOp : public AsyncOpKernel {
 public:
  explicit MetricSearchOp(OpKernelConstruction* ctx) : AsyncOpKernel(ctx) {
    std::string metric;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("metric", &metric));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("algorithm", &algorithm_));
    metric_ = metric == "dot"  ? nann::Metric::kDot
              : metric == "l2" ? nann::Metric::kL2
                               : nann::Metric::kCosine;
  }

  void ComputeAsync(OpKernelContext* ctx, DoneCallback done) override {
    auto call = std::make_unique<MetricSearchCall>(ctx, metric_);
    OP_REQUIRES_OK_ASYNC(ctx, call->Prepare(algorithm_), done);
    SearchCall::Start(std::move(call), std::move(done));
  }

 private:
  std::string algorithm_;
  nann::Metric metric_;
};

REGISTER_KERNEL_BUILDER(Name("Nann>MetricSearch").Device(DEVICE_CPU), MetricSearchOp);

}  // namespace
}  // namespace nann_ops
}  // namespace tensorflow
