#ifndef CUSTOM_OPS_KERNELS_SCORER_DEVICES_H_
#define CUSTOM_OPS_KERNELS_SCORER_DEVICES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tensorflow {
namespace nann_ops {

// Says where the functions of a scorer run, and instantiates them there.
//
// A search runs on the CPU. Beside an accelerator, TensorFlow may have put the scorer's variables
// there, as searches need not be where their inputs are (search_ops.cc). A scorer runs where its
// variables are, but for ops that have no kernel there, and on the devices that it names. What the
// search gives it and takes from it is copied.
//
// Where all of that is the device of the search, as on every machine without an accelerator, the
// functions are instantiated for this device alone, and a call costs less.
class ScorerDevices {
 public:
  // `num_users` is the number of user tensors, `captured` are the tensors that the scorer captured.
  ScorerDevices(FunctionLibraryRuntime* library, int num_users, const OpInputList& captured);

  // kPrepare is a function (user..., captured...) -> prepared..., whose results stay where the scorer
  // runs; kScore is one (user..., prepared..., items, captured...) -> scores, which takes them there.
  enum Part { kPrepare, kScore };

  // Instantiates a function of `definitions`; if these are null, of the library.
  absl::Status Instantiate(Part part, const NameAttrList& function,
                           const FunctionLibraryDefinition* definitions,
                           FunctionLibraryRuntime::Handle* handle) const;

 private:
  using Devices = std::vector<std::string>;

  // Returns the devices of a function's arguments and results.
  Devices Inputs(Part part, const OpDef& signature) const;
  Devices Outputs(Part part, const OpDef& signature) const;
  // Returns the device on which a prepared tensor of this type is kept.
  const std::string& Kept(DataType dtype) const;

  FunctionLibraryRuntime* const library_;
  const int num_users_;
  const std::string search_;  // The device of the search.
  std::string scorer_;  // That of the scorer's variables, if it is another one; else `search_`.
  Devices captured_;    // The device of each captured tensor or variable.
};

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_KERNELS_SCORER_DEVICES_H_
