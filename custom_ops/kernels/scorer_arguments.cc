#include "custom_ops/kernels/scorer_arguments.h"

#include "tensorflow/core/framework/resource_handle.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"

namespace tensorflow {
namespace nann_ops {
namespace {

nann_passes::Extents Extents(const TensorShape& shape) {
  const auto sizes = shape.dim_sizes();
  return nann_passes::Extents(sizes.begin(), sizes.end());
}

nann_passes::Argument Captured(OpKernelContext* ctx, const Tensor& tensor) {
  nann_passes::Argument argument{nann_passes::kModel, tensor.dtype(), Extents(tensor.shape())};
  if (tensor.dtype() != DT_RESOURCE) return argument;
  argument.shape.clear();
  argument.shaped = false;
  if (tensor.NumElements() != 1) return argument;
  const ResourceHandle& handle = tensor.flat<ResourceHandle>()(0);
  core::RefCountPtr<Var> variable;
  TensorShape declared;
  if (LookupResource(ctx, handle, &variable).ok()) {
    tf_shared_lock lock(*variable->mu());
    argument.variable_dtype = variable->tensor()->dtype();
    argument.shape = Extents(variable->tensor()->shape());
    argument.shaped = true;
  } else if (handle.dtypes_and_shapes().size() == 1 &&  // The variable is on another device.
             handle.dtypes_and_shapes()[0].shape.AsTensorShape(&declared)) {
    argument.variable_dtype = handle.dtypes_and_shapes()[0].dtype;
    argument.shape = Extents(declared);
    argument.shaped = true;
  }
  return argument;
}

}  // namespace

std::vector<nann_passes::Argument> ScorerArguments(
    OpKernelContext* ctx, absl::Span<const std::pair<DataType, PartialTensorShape>> user,
    int64_t dim, const OpInputList& captured) {
  std::vector<nann_passes::Argument> arguments;
  for (const auto& [dtype, shape] : user) {
    nann_passes::Argument argument{nann_passes::kUser, dtype, {1}, shape.dims() > 0};
    for (int i = 1; i < shape.dims(); ++i) {
      argument.shape.push_back(shape.dim_size(i));
    }
    arguments.push_back(std::move(argument));
  }
  arguments.push_back({nann_passes::kItem, DT_FLOAT, {1, nann_passes::kItems, dim}});
  for (const Tensor& tensor : captured) arguments.push_back(Captured(ctx, tensor));
  return arguments;
}

}  // namespace nann_ops
}  // namespace tensorflow
