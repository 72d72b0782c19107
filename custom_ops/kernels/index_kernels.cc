#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "custom_ops/kernels/index_resource.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_op_kernel.h"
#include "tensorflow/core/framework/tensor_types.h"

namespace tensorflow {
namespace nann_ops {
namespace {

class IndexOpenOp : public OpKernel {
 public:
  explicit IndexOpenOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dim", &dim_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("validate", &options_.validate));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("features", &options_.features));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("attributes", &options_.attributes));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("keys", &options_.keys));
    DataType dtype;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dtype", &dtype));
    options_.type = dtype == DT_INT8   ? nann::TableType::kInt8
                    : dtype == DT_HALF ? nann::TableType::kFloat16
                                       : nann::TableType::kFloat32;
  }

  void Compute(OpKernelContext* ctx) override {
    core::RefCountPtr<IndexResource> resource;
    OP_REQUIRES_OK(ctx, LookupOrCreateResource<IndexResource>(ctx, HandleFromInput(ctx, 0),
                                                              &resource, [](IndexResource** made) {
                                                                *made = new IndexResource;
                                                                return absl::OkStatus();
                                                              }));
    const Tensor& files = ctx->input(1);
    OP_REQUIRES(ctx, TensorShapeUtils::IsVector(files.shape()),
                absl::InvalidArgumentError(
                    absl::StrCat("files has shape ", files.shape().DebugString(), ", not [f]")));
    std::vector<std::string> paths;
    for (int64_t i = 0; i < files.NumElements(); ++i) paths.push_back(files.vec<tstring>()(i));
    OpenIndex::Options options = options_;
    // Read when the index is opened, so that the same SavedModel is served with updates and without.
    if (const char* const deltas = std::getenv("NANN_DELTAS")) options.deltas = deltas;
    auto index = OpenIndex::Map(ctx->env(), paths, dim_, options);
    OP_REQUIRES_OK(ctx, index.status());
    resource->Set(*std::move(index));
  }

 private:
  int64_t dim_;
  OpenIndex::Options options_;
};

// A buffer that lets a tensor view mapped memory. It keeps the index open and frees no memory itself.
class MappedBuffer : public TensorBuffer {
 public:
  MappedBuffer(const void* data, size_t size, std::shared_ptr<const OpenIndex> index)
      : TensorBuffer(const_cast<void*>(data)), size_(size), index_(std::move(index)) {}
  size_t size() const override { return size_; }
  TensorBuffer* root_buffer() override { return this; }
  // A buffer that owns its memory could be forwarded to another op and written; the mapping is
  // read-only.
  bool OwnsMemory() const override { return false; }
  void FillAllocationDescription(AllocationDescription* description) const override {
    description->set_allocator_name("nann_index");
  }

 private:
  const size_t size_;
  const std::shared_ptr<const OpenIndex> index_;
};

class IndexItemsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    auto index = IndexOf(ctx);
    OP_REQUIRES_OK(ctx, index.status());
    const nann::IndexView& view = (*index)->view();
    const TensorShape shape({view.num_items()});
    if (view.num_items() == 0) return ctx->set_output(0, Tensor(DT_INT64, shape));
    core::RefCountPtr<TensorBuffer> buffer(new MappedBuffer(
        view.item_ids().data(), view.num_items() * sizeof(int64_t), *std::move(index)));
    ctx->set_output(0, Tensor(DT_INT64, shape, buffer.get()));
  }
};

class IndexColumnOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    auto index = IndexOf(ctx);
    OP_REQUIRES_OK(ctx, index.status());
    const Tensor& column = ctx->input(1);
    OP_REQUIRES(ctx, column.dims() == 0,
                absl::InvalidArgumentError(
                    absl::StrCat("column has shape ", column.shape().DebugString(), ", not []")));
    const auto cap = (*index)->AsBuilt()->CapBy(column.scalar<tstring>()(), 1, 1);
    OP_REQUIRES_OK(ctx, cap.status());
    const int64_t size = (*index)->view().num_items();
    Tensor *values = nullptr, *present = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({size}), &values));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, TensorShape({size}), &present));
    for (int64_t item = 0; item < size; ++item) {
      const std::optional<int64_t> value = cap->Value(item);
      values->vec<int64_t>()(item) = value.value_or(0);
      present->vec<bool>()(item) = value.has_value();
    }
  }
};

class IndexFilterOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    auto index = IndexOf(ctx);
    OP_REQUIRES_OK(ctx, index.status());
    const Tensor& filter = ctx->input(1);
    OP_REQUIRES(ctx, filter.dims() == 0,
                absl::InvalidArgumentError(
                    absl::StrCat("filter has shape ", filter.shape().DebugString(), ", not []")));
    auto passing = (*index)->AsBuilt()->Passing(filter.scalar<tstring>()());
    OP_REQUIRES_OK(ctx, passing.status());
    std::vector<int32_t> items;
    if ((*passing)->indexed != nullptr) {
      (*passing)->indexed->AppendTo(items);
    } else {
      items.resize((*index)->view().num_items());
      std::iota(items.begin(), items.end(), 0);
    }
    Tensor* output = nullptr;
    OP_REQUIRES_OK(
        ctx, ctx->allocate_output(0, TensorShape({static_cast<int64_t>(items.size())}), &output));
    std::copy(items.begin(), items.end(), output->flat<int32_t>().data());
  }
};

class IndexGatherOp : public OpKernel {
 public:
  explicit IndexGatherOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dim", &dim_));
  }

  void Compute(OpKernelContext* ctx) override {
    auto index = IndexOf(ctx);
    OP_REQUIRES_OK(ctx, index.status());
    const nann::IndexView& view = (*index)->view();
    OP_REQUIRES(ctx, view.dim() == dim_,
                absl::InvalidArgumentError(absl::StrCat("the index has embeddings of width ",
                                                        view.dim(), ", dim is ", dim_)));
    const Tensor& items = ctx->input(1);
    OP_REQUIRES(ctx, items.dims() == 1,
                absl::InvalidArgumentError(
                    absl::StrCat("items has shape ", items.shape().DebugString(), ", not [m]")));
    const int64_t count = items.NumElements();
    const int32_t* rows = items.flat<int32_t>().data();
    for (int64_t i = 0; i < count; ++i) {
      OP_REQUIRES(ctx, rows[i] >= 0 && rows[i] < view.num_items(),
                  absl::InvalidArgumentError(absl::StrCat("items[", i, "] is ", rows[i],
                                                          ", allowed are the item indices 0 to ",
                                                          view.num_items() - 1)));
    }
    Tensor* embeddings = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({count, dim_}), &embeddings));
    nann::ItemRows(view).Gather(absl::MakeConstSpan(rows, count), embeddings->flat<float>().data());
  }

 private:
  int64_t dim_;
};

class IndexRowsOp : public OpKernel {
 public:
  explicit IndexRowsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dim", &dim_));
  }

  void Compute(OpKernelContext* ctx) override {
    auto index = IndexOf(ctx);
    OP_REQUIRES_OK(ctx, index.status());
    const std::shared_ptr<const nann::Catalogue> catalogue = (*index)->catalogue();
    OP_REQUIRES(ctx, catalogue->rows().dim() == dim_,
                absl::InvalidArgumentError(absl::StrCat(
                    "the index has rows of width ", catalogue->rows().dim(), ", dim is ", dim_)));
    const Tensor& ids = ctx->input(1);
    OP_REQUIRES(ctx, ids.dims() == 1,
                absl::InvalidArgumentError(
                    absl::StrCat("item_ids has shape ", ids.shape().DebugString(), ", not [m]")));
    const int64_t count = ids.NumElements();
    Tensor *rows = nullptr, *known = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({count, dim_}), &rows));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, TensorShape({count}), &known));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = ids.vec<int64_t>()(i);
      int32_t item = catalogue->FindFresh(id);
      if (item < 0) item = catalogue->FindIndexed(id);
      float* const row = rows->flat<float>().data() + i * dim_;
      known->vec<bool>()(i) = item >= 0;
      if (item >= 0) {
        catalogue->rows().Gather({&item, 1}, row);
      } else {
        std::fill_n(row, dim_, 0.0f);
      }
    }
  }

 private:
  int64_t dim_;
};

REGISTER_KERNEL_BUILDER(Name("Nann>IndexHandle").Device(DEVICE_CPU),
                        ResourceHandleOp<IndexResource>);
REGISTER_KERNEL_BUILDER(Name("Nann>IndexOpen").Device(DEVICE_CPU), IndexOpenOp);
REGISTER_KERNEL_BUILDER(Name("Nann>IndexItems").Device(DEVICE_CPU), IndexItemsOp);
REGISTER_KERNEL_BUILDER(Name("Nann>IndexRows").Device(DEVICE_CPU), IndexRowsOp);
REGISTER_KERNEL_BUILDER(Name("Nann>IndexColumn").Device(DEVICE_CPU), IndexColumnOp);
REGISTER_KERNEL_BUILDER(Name("Nann>IndexFilter").Device(DEVICE_CPU), IndexFilterOp);
REGISTER_KERNEL_BUILDER(Name("Nann>IndexGather").Device(DEVICE_CPU), IndexGatherOp);

}  // namespace
}  // namespace nann_ops
}  // namespace tensorflow
