#include "custom_ops/kernels/scorer_devices.h"

#include <set>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tensorflow/core/framework/device.h"
#include "tensorflow/core/framework/resource_handle.h"
#include "tensorflow/core/util/device_name_utils.h"

namespace tensorflow {
namespace nann_ops {
namespace {

bool Names(const std::string& device, const std::string& full_name) {
  DeviceNameUtils::ParsedName named, full;
  return DeviceNameUtils::ParseFullName(device, &named) &&
         DeviceNameUtils::ParseFullName(full_name, &full) &&
         DeviceNameUtils::IsSpecification(named, full);
}

// Adds the functions that a node calls.
void AddCalled(const NodeDef& node, std::vector<std::string>* functions) {
  functions->push_back(node.op());
  for (const auto& [name, value] : node.attr()) {
    if (value.has_func()) functions->push_back(value.func().name());
    for (const NameAttrList& function : value.list().func()) functions->push_back(function.name());
  }
}

// Whether a function, or one that it calls, names another device.
bool NamesOthers(const std::string& function, const std::string& device,
                 const FunctionLibraryDefinition& definitions) {
  std::vector<std::string> left{function};
  std::set<std::string> known;
  while (!left.empty()) {
    const std::string name = std::move(left.back());
    left.pop_back();
    const FunctionDef* const found = definitions.Find(name);
    if (found == nullptr || !known.insert(name).second) continue;
    for (const NodeDef& node : found->node_def()) {
      if (!node.device().empty() && !Names(node.device(), device)) return true;
      AddCalled(node, &left);
    }
  }
  return false;
}

// Tells on which devices the ops of a function were put.
std::string Described(const std::vector<GraphDef>& parts) {
  std::vector<std::string> described;
  for (const GraphDef& part : parts) {
    std::set<std::string> ops;
    std::string device;
    for (const NodeDef& node : part.node()) {
      if (!node.device().empty()) device = node.device();
      if (!absl::StartsWith(node.op(), "_") && node.op() != "NoOp") ops.insert(node.op());
    }
    if (!ops.empty())
      described.push_back(absl::StrCat(device, " (", absl::StrJoin(ops, ", "), ")"));
  }
  return absl::StrJoin(described, " and ");
}

}  // namespace

ScorerDevices::ScorerDevices(FunctionLibraryRuntime* library, int num_users,
                             const OpInputList& captured)
    : library_(library),
      num_users_(num_users),
      search_(library->device()->name()),
      scorer_(search_) {
  for (const Tensor& tensor : captured) {
    const bool resource = tensor.dtype() == DT_RESOURCE && tensor.NumElements() == 1;
    captured_.push_back(resource ? tensor.flat<ResourceHandle>()(0).device() : search_);
    if (captured_.back() != search_) scorer_ = captured_.back();
  }
}

const std::string& ScorerDevices::Kept(DataType dtype) const {
  // TensorFlow leaves integers of 32 bits with the host: most of them are shapes.
  return DataTypeAlwaysOnHost(dtype) || dtype == DT_INT32 ? search_ : scorer_;
}

ScorerDevices::Devices ScorerDevices::Inputs(Part part, const OpDef& signature) const {
  Devices devices;
  const int given = signature.input_arg_size() - static_cast<int>(captured_.size());
  const int items = part == kScore ? given - 1 : given;
  for (int i = 0; i < given; ++i) {
    const bool prepared = i >= num_users_ && i < items;
    devices.push_back(prepared ? Kept(signature.input_arg(i).type()) : search_);
  }
  devices.insert(devices.end(), captured_.begin(), captured_.end());
  return devices;
}

ScorerDevices::Devices ScorerDevices::Outputs(Part part, const OpDef& signature) const {
  Devices devices;
  for (const auto& output : signature.output_arg()) {
    devices.push_back(part == kPrepare ? Kept(output.type()) : search_);
  }
  return devices;
}

absl::Status ScorerDevices::Instantiate(Part part, const NameAttrList& function,
                                        const FunctionLibraryDefinition* definitions,
                                        FunctionLibraryRuntime::Handle* handle) const {
  const AttrSlice attributes(&function.attr());
  FunctionLibraryRuntime::InstantiateOptions options;
  options.lib_def = definitions;
  if (definitions == nullptr) definitions = library_->GetFunctionLibraryDefinition();
  const FunctionDef* const definition = definitions->Find(function.name());
  if (definition == nullptr ||
      (scorer_ == search_ && !NamesOthers(function.name(), search_, *definitions))) {
    return library_->Instantiate(function.name(), attributes, options, handle);
  }
  options.is_multi_device_function = true;
  options.target = scorer_;
  options.input_devices = Inputs(part, definition->signature());
  options.output_devices = Outputs(part, definition->signature());
  // An op without a kernel for its device runs on the CPU.
  options.allow_soft_placement = true;
  options.config_proto.set_allow_soft_placement(true);
  GraphCollector placed;
  options.graph_collector = &placed;
  TF_RETURN_IF_ERROR(library_->Instantiate(function.name(), attributes, options, handle));
  mutex_lock lock(placed.mu);
  LOG(INFO) << absl::StrCat("The function ", function.name(), " of a scorer runs on ",
                            Described(placed.partitioned_graphs));
  return absl::OkStatus();
}

}  // namespace nann_ops
}  // namespace tensorflow
