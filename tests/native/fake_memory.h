#ifndef TESTS_NATIVE_FAKE_MEMORY_H_
#define TESTS_NATIVE_FAKE_MEMORY_H_

#include "tensorflow/core/framework/allocator.h"
#include "tensorflow/core/framework/tensor.h"

namespace tensorflow {
namespace nann_ops {

// The accelerator's type of device.
inline constexpr char kFakeAccelerator[] = "FAKE";

// The memory of the fake accelerator. The host cannot touch it: the process ends with a message that
// says so. Its pages are mapped a second time, where the accelerator itself reads and writes them.
Allocator* FakeMemory();

// Returns where the accelerator finds the contents of a tensor in its memory.
void* OnAccelerator(const Tensor& tensor);

// Returns where the host finds the contents of a tensor in its own memory. Tensors are values, which
// share their contents: a const one can be written.
inline void* Host(const Tensor& tensor) { return const_cast<char*>(tensor.tensor_data().data()); }

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // TESTS_NATIVE_FAKE_MEMORY_H_
