// A fake accelerator, which shows what a GPU would do to placement and copies on a machine that has
// none: a device that TensorFlow prefers to the CPU, with memory that the host cannot touch. Loading the
// library adds it, before TensorFlow has listed its devices:
//
//   tf.load_op_library("libfake_accelerator.so")
//
// NANN_FAKE_COPIES=late lets each copy arrive a moment after the call that asks for it. Its kernels
// are in fake_kernels.cc, its memory in fake_memory.cc.

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/core/common_runtime/device_factory.h"
#include "tensorflow/core/common_runtime/local_device.h"
#include "tensorflow/core/framework/device.h"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/threadpool.h"
#include "tensorflow/core/public/session_options.h"
#include "tests/native/fake_memory.h"

namespace tensorflow {
namespace nann_ops {
namespace {

constexpr int kPriority = 220;  // A GPU has 210, the CPU 70.
constexpr int kLateMicros = 300;

class FakeContext : public DeviceContext {
 public:
  FakeContext() {
    const char* copies = std::getenv("NANN_FAKE_COPIES");
    if (copies != nullptr && std::string(copies) == "late") {
      late_ = std::make_unique<thread::ThreadPool>(Env::Default(), "fake_copies", 4);
    }
  }

  void CopyCPUTensorToDevice(const Tensor* cpu_tensor, Device* device, Tensor* device_tensor,
                             StatusCallback done, bool sync_dst_compute) const override {
    Copy(*cpu_tensor, false, *device_tensor, true, std::move(done));
  }

  void CopyDeviceTensorToCPU(const Tensor* device_tensor, absl::string_view tensor_name,
                             Device* device, Tensor* cpu_tensor, StatusCallback done) override {
    Copy(*device_tensor, true, *cpu_tensor, false, std::move(done));
  }

  void CopyTensorInSameDevice(const Tensor* input_tensor, Device* device, Tensor* output_tensor,
                              StatusCallback done) const override {
    Copy(*input_tensor, true, *output_tensor, true, std::move(done));
  }

 private:
  // Takes the tensors as values, which keep their memory until the copy is made.
  void Copy(Tensor from, bool from_here, Tensor to, bool to_here, StatusCallback done) const {
    const auto copy = [from, from_here, to, to_here, done = std::move(done)] {
      if (from.TotalBytes() > 0) {
        std::memcpy(to_here ? OnAccelerator(to) : Host(to),
                    from_here ? OnAccelerator(from) : Host(from), from.TotalBytes());
      }
      done(absl::OkStatus());
    };
    if (late_ == nullptr) return copy();
    late_->Schedule([copy] {
      Env::Default()->SleepForMicroseconds(kLateMicros);
      copy();
    });
  }

  std::unique_ptr<thread::ThreadPool> late_;
};

class FakeAccelerator : public LocalDevice {
 public:
  FakeAccelerator(const SessionOptions& options, const std::string& name)
      : LocalDevice(options,
                    BuildDeviceAttributes(name, DeviceType(kFakeAccelerator), Bytes(1 << 30), {})),
        context_(new FakeContext) {
    info_.default_context = context_;
    set_tensorflow_accelerator_device_info(&info_);
  }
  ~FakeAccelerator() override { context_->Unref(); }

  Allocator* GetAllocator(AllocatorAttributes attributes) override {
    return attributes.on_host() ? cpu_allocator() : FakeMemory();
  }

  absl::Status Sync() override { return absl::OkStatus(); }

  absl::Status TryGetDeviceContext(DeviceContext** context) override {
    context_->Ref();
    *context = context_;
    return absl::OkStatus();
  }

  absl::Status MakeTensorFromProto(const TensorProto& proto, const AllocatorAttributes attributes,
                                   Tensor* tensor) override {
    Tensor parsed(proto.dtype());
    if (!parsed.FromProto(cpu_allocator(), proto)) {
      return absl::InvalidArgumentError("a constant cannot be parsed");
    }
    if (attributes.on_host()) {
      *tensor = parsed;
      return absl::OkStatus();
    }
    *tensor = Tensor(GetAllocator(attributes), parsed.dtype(), parsed.shape());
    return context_->CopyCPUTensorToDeviceSync(&parsed, this, tensor);
  }

  void CopyTensorInSameDevice(const Tensor* input_tensor, Tensor* output_tensor,
                              const DeviceContext* device_context, StatusCallback done) override {
    context_->CopyTensorInSameDevice(input_tensor, this, output_tensor, std::move(done));
  }

 private:
  FakeContext* const context_;
  AcceleratorDeviceInfo info_;
};

class FakeFactory : public DeviceFactory {
 public:
  absl::Status ListPhysicalDevices(std::vector<std::string>* devices) override {
    devices->push_back(std::string("/physical_device:") + kFakeAccelerator + ":0");
    return absl::OkStatus();
  }

  absl::Status CreateDevices(const SessionOptions& options, const std::string& name_prefix,
                             std::vector<std::unique_ptr<Device>>* devices) override {
    devices->push_back(std::make_unique<FakeAccelerator>(
        options, name_prefix + "/device:" + kFakeAccelerator + ":0"));
    return absl::OkStatus();
  }
};

REGISTER_LOCAL_DEVICE_FACTORY(kFakeAccelerator, FakeFactory, kPriority);

}  // namespace
}  // namespace nann_ops
}  // namespace tensorflow
