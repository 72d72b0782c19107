#include <algorithm>

#include "custom_ops/core/item_keys.h"
#include "custom_ops/kernels/index_resource.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tensorflow {
namespace nann_ops {
namespace {

// Returns an open index that has keys.
absl::StatusOr<std::shared_ptr<const OpenIndex>> KeyedIndex(OpKernelContext* ctx) {
  auto index = IndexOf(ctx);
  if (index.ok() && (*index)->keys() == nullptr) {
    return absl::InvalidArgumentError(
        "the index has no keys: its ids are numbers; build it from ids that are strings, or with "
        "`nann index --keys`");
  }
  return index;
}

class IndexKeysOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    auto index = KeyedIndex(ctx);
    OP_REQUIRES_OK(ctx, index.status());
    const Tensor& ids = ctx->input(1);
    Tensor* keys = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, ids.shape(), &keys));
    const int64_t* const numbers = ids.flat<int64_t>().data();
    const std::shared_ptr<const nann::Catalogue> catalogue = (*index)->catalogue();
    const nann::AddedKeys* const added = catalogue->added_keys();
    for (int64_t i = 0; i < ids.NumElements(); ++i) {
      absl::string_view key = (*index)->KeyOf(numbers[i]);
      if (key.empty() && added != nullptr) key = added->Key(numbers[i]);
      keys->flat<tstring>()(i) = key;
    }
  }
};

class IndexNumbersOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    auto index = KeyedIndex(ctx);
    OP_REQUIRES_OK(ctx, index.status());
    const Tensor& keys = ctx->input(1);
    Tensor* ids = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, keys.shape(), &ids));
    const tstring* const texts = keys.flat<tstring>().data();
    int64_t* const numbers = ids->flat<int64_t>().data();
    (*index)->keys()->Numbers(absl::MakeConstSpan(texts, keys.NumElements()), numbers);
    const std::shared_ptr<const nann::Catalogue> catalogue = (*index)->catalogue();
    const nann::AddedKeys* const added = catalogue->added_keys();
    if (added == nullptr) return;
    for (int64_t i = 0; i < keys.NumElements(); ++i) {
      if (numbers[i] == nann::ItemKeys::kNoItem) numbers[i] = added->Number(texts[i]);
    }
  }
};

REGISTER_KERNEL_BUILDER(Name("Nann>IndexKeys").Device(DEVICE_CPU), IndexKeysOp);
REGISTER_KERNEL_BUILDER(Name("Nann>IndexNumbers").Device(DEVICE_CPU), IndexNumbersOp);

}  // namespace
}  // namespace nann_ops
}  // namespace tensorflow
