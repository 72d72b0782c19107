#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "tensorflow/core/common_runtime/device_factory.h"
#include "tensorflow/core/framework/device.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/public/session_options.h"
#include "tensorflow/core/public/version.h"
#include "tests/native/fake_memory.h"

namespace tensorflow {
namespace nann_ops {
namespace {

std::atomic<int64_t> kernels{0};

// Kernels of the accelerator: they have the CPU's kernel compute, and copy what it takes and gives.
class FakeKernel : public OpKernel {
 public:
  explicit FakeKernel(OpKernelConstruction* ctx) : OpKernel(ctx) {
    absl::Status status;
    kernel_ = CreateOpKernel(DEVICE_CPU, Cpu(), cpu_allocator(), ctx->def(), TF_GRAPH_DEF_VERSION,
                             &status);
    OP_REQUIRES_OK(ctx, status);
  }

  void Compute(OpKernelContext* ctx) override {
    std::vector<Tensor> tensors(ctx->num_inputs());
    std::vector<TensorValue> inputs;
    for (int i = 0; i < ctx->num_inputs(); ++i) {
      const Tensor& input = ctx->input(i);
      if (input_memory_types()[i] == HOST_MEMORY) {
        tensors[i] = input;
      } else {
        tensors[i] = Tensor(input.dtype(), input.shape());
        std::memcpy(Host(tensors[i]), OnAccelerator(input), input.TotalBytes());
      }
      inputs.emplace_back(&tensors[i]);
    }
    const std::vector<AllocatorAttributes> attributes(num_outputs());
    OpKernelContext::Params params;
    params.op_kernel = kernel_.get();
    params.device = Cpu();
    params.inputs = inputs;
    params.output_attr_array = attributes.data();
    params.runner = ctx->runner();
    OpKernelContext on_host(&params, num_outputs());
    kernel_->Compute(&on_host);
    ++kernels;
    OP_REQUIRES_OK(ctx, on_host.status());
    for (int i = 0; i < num_outputs(); ++i) {
      const Tensor& found = *on_host.mutable_output(i);
      if (output_memory_types()[i] == HOST_MEMORY) {
        ctx->set_output(i, found);
        continue;
      }
      Tensor* output = nullptr;
      OP_REQUIRES_OK(ctx, ctx->allocate_output(i, found.shape(), &output));
      std::memcpy(OnAccelerator(*output), Host(found), found.TotalBytes());
    }
  }

 private:
  static Device* Cpu() {
    static Device* const cpu =
        DeviceFactory::NewDevice("CPU", SessionOptions(), "/job:fake/replica:0/task:0").release();
    return cpu;
  }

  std::unique_ptr<OpKernel> kernel_;
};

// Gathers rows of a variable. What reads a variable has to run where it is.
class FakeResourceGather : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(ctx, LookupResource(ctx, HandleFromInput(ctx, 0), &variable));
    tf_shared_lock lock(*variable->mu());
    const Tensor &table = *variable->tensor(), &indices = ctx->input(1);
    TensorShape shape = indices.shape();
    for (int i = 1; i < table.dims(); ++i) shape.AddDim(table.dim_size(i));
    Tensor* output = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, shape, &output));
    const size_t bytes = table.dim_size(0) == 0 ? 0 : table.TotalBytes() / table.dim_size(0);
    for (int64_t i = 0; i < indices.NumElements(); ++i) {
      const void* const index = OnAccelerator(indices);
      const int64_t row = indices.dtype() == DT_INT64 ? static_cast<const int64_t*>(index)[i]
                                                      : static_cast<const int32_t*>(index)[i];
      OP_REQUIRES(ctx, row >= 0 && row < table.dim_size(0),
                  absl::InvalidArgumentError("an index is out of range"));
      std::memcpy(static_cast<char*>(OnAccelerator(*output)) + i * bytes,
                  static_cast<const char*>(OnAccelerator(table)) + row * bytes, bytes);
    }
    ++kernels;
  }
};

// As on a GPU, shapes, axes and the like stay with the host. What is not listed here runs on the CPU.
#define FAKE(op) \
  REGISTER_KERNEL_BUILDER(Name(op).Device(kFakeAccelerator).TypeConstraint<float>("T"), FakeKernel)
#define FAKE_BESIDE(op, ...) \
  REGISTER_KERNEL_BUILDER(   \
      Name(op).Device(kFakeAccelerator).TypeConstraint<float>("T").__VA_ARGS__, FakeKernel)

FAKE("MatMul");
FAKE("BatchMatMulV2");
FAKE("BiasAdd");
FAKE("AddV2");
FAKE("Sub");
FAKE("Mul");
FAKE("RealDiv");
FAKE("Maximum");
FAKE("Square");
FAKE("Sqrt");
FAKE("Rsqrt");
FAKE("Relu");
FAKE("Sigmoid");
FAKE("Tanh");
FAKE("Softmax");
FAKE("Pack");
FAKE("SelectV2");
FAKE_BESIDE("Sum", HostMemory("reduction_indices"));
FAKE_BESIDE("Mean", HostMemory("reduction_indices"));
FAKE_BESIDE("Max", HostMemory("reduction_indices"));
FAKE_BESIDE("Transpose", HostMemory("perm"));
FAKE_BESIDE("ConcatV2", HostMemory("axis"));
FAKE_BESIDE("Tile", HostMemory("multiples"));
FAKE_BESIDE("StridedSlice", HostMemory("begin").HostMemory("end").HostMemory("strides"));
REGISTER_KERNEL_BUILDER(
    Name("GatherV2").Device(kFakeAccelerator).TypeConstraint<float>("Tparams").HostMemory("axis"),
    FakeKernel);

REGISTER_KERNEL_BUILDER(Name("ResourceGather").Device(kFakeAccelerator).HostMemory("resource"),
                        FakeResourceGather);

}  // namespace
}  // namespace nann_ops
}  // namespace tensorflow

// Counts the kernels that ran on the accelerator.
extern "C" int64_t fake_accelerator_kernels() { return tensorflow::nann_ops::kernels; }
