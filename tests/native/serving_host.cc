// Stands for TensorFlow Serving's binary in the tests: it loads SavedModels and runs them as a model server does. It
// knows nothing of nann: the ops come by LD_PRELOAD alone. It takes its requests from a file:
//
//   LD_PRELOAD=.../libnann_serving.so tensorflow_model_server [--inter=N] [--intra=N] REQUESTS ANSWERS MODEL...
//
// REQUESTS and ANSWERS are TFRecord files. A request is a record "MODEL SIGNATURE COUNT", where MODEL counts the
// arguments from 0, and then COUNT records, each a NamedTensorProto, the signature's inputs. An answer is a record
// "COUNT", and then the outputs in the same form; or "-1 ERROR". When all requests are answered, the models are unloaded,
// and the program prints the files below their folders that are still mapped into its memory.
//
// With --model_base_path and --rest_api_port it serves instead, as far as an image's health check sees: it loads the
// newest version and tells every client that it is available. Other flags of the server are taken and ignored. Like the
// server it has --version, and exports the C API's TF_Version.

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/lib/io/record_reader.h"
#include "tensorflow/core/lib/io/record_writer.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/protobuf/named_tensor.pb.h"
#include "tensorflow/core/public/session.h"

namespace {

using tensorflow::NamedTensorProto;
using tensorflow::SavedModelBundle;
using tensorflow::Tensor;
using tensorflow::tstring;
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

// Reads the records of a file one after the other.
class Records {
 public:
  explicit Records(tensorflow::RandomAccessFile* file) : reader_(file) {}

  absl::Status Next(tstring* record) { return reader_.ReadRecord(&offset_, record); }

 private:
  tensorflow::io::RecordReader reader_;
  tensorflow::uint64 offset_ = 0;
};

absl::Status Load(const std::string& folder, int inter, int intra, SavedModelBundle* bundle) {
  tensorflow::SessionOptions options;
  options.config.set_inter_op_parallelism_threads(inter);
  options.config.set_intra_op_parallelism_threads(intra);
  return tensorflow::LoadSavedModel(options, tensorflow::RunOptions(), folder, {"serve"}, bundle);
}

// Runs a signature; the outputs are named as the signature names them.
absl::StatusOr<NamedTensors> Run(SavedModelBundle& bundle, const std::string& name,
                                 const NamedTensors& inputs) {
  const auto& signatures = bundle.GetSignatures();
  const auto signature = signatures.find(name);
  if (signature == signatures.end())
    return absl::NotFoundError(absl::StrCat("no signature ", name));
  NamedTensors feeds;
  for (const auto& [input, tensor] : inputs) {
    const auto info = signature->second.inputs().find(input);
    if (info == signature->second.inputs().end())
      return absl::InvalidArgumentError(absl::StrCat("no input ", input));
    feeds.emplace_back(info->second.name(), tensor);
  }
  std::vector<std::string> names, fetches;
  for (const auto& [output, info] : signature->second.outputs()) {
    names.push_back(output);
    fetches.push_back(info.name());
  }
  std::vector<Tensor> tensors;
  const absl::Status status = bundle.GetSession()->Run(feeds, fetches, {}, &tensors);
  if (!status.ok()) return status;
  NamedTensors outputs;
  for (size_t i = 0; i < tensors.size(); ++i) outputs.emplace_back(names[i], tensors[i]);
  return outputs;
}

absl::Status ReadInputs(Records& records, int count, NamedTensors* inputs) {
  for (int i = 0; i < count; ++i) {
    tstring record;
    if (absl::Status status = records.Next(&record); !status.ok()) return status;
    NamedTensorProto proto;
    Tensor tensor;
    if (!proto.ParseFromArray(record.data(), record.size()) || !tensor.FromProto(proto.tensor())) {
      return absl::DataLossError("a record is not a NamedTensorProto");
    }
    inputs->emplace_back(proto.name(), tensor);
  }
  return absl::OkStatus();
}

absl::Status WriteAnswer(const absl::StatusOr<NamedTensors>& outputs,
                         tensorflow::io::RecordWriter& writer) {
  if (!outputs.ok()) return writer.WriteRecord(absl::StrCat("-1 ", outputs.status().message()));
  absl::Status status = writer.WriteRecord(absl::StrCat(outputs->size()));
  for (const auto& [name, tensor] : *outputs) {
    NamedTensorProto proto;
    proto.set_name(name);
    tensor.AsProtoTensorContent(proto.mutable_tensor());
    status.Update(writer.WriteRecord(proto.SerializeAsString()));
  }
  return status;
}

absl::Status Answer(const std::string& requests, const std::string& answers,
                    std::vector<SavedModelBundle>& models) {
  std::unique_ptr<tensorflow::RandomAccessFile> in;
  std::unique_ptr<tensorflow::WritableFile> out;
  absl::Status status = tensorflow::Env::Default()->NewRandomAccessFile(requests, &in);
  status.Update(tensorflow::Env::Default()->NewWritableFile(answers, &out));
  if (!status.ok()) return status;
  Records records(in.get());
  tensorflow::io::RecordWriter writer(out.get());
  tstring head;
  while ((status = records.Next(&head)).ok()) {
    const std::vector<std::string> words = absl::StrSplit(absl::string_view(head), ' ');
    size_t model;
    int count;
    if (words.size() != 3 || !absl::SimpleAtoi(words[0], &model) || model >= models.size() ||
        !absl::SimpleAtoi(words[2], &count)) {
      return absl::DataLossError(absl::StrCat("a request begins with ", absl::string_view(head)));
    }
    NamedTensors inputs;
    if (status = ReadInputs(records, count, &inputs); !status.ok()) return status;
    status = WriteAnswer(Run(models[model], words[1], inputs), writer);
    if (!status.ok()) return status;
  }
  if (!absl::IsOutOfRange(status)) return status;  // Out of range is the end of the file.
  status = writer.Close();
  status.Update(out->Close());
  return status;
}

// Prints the files below `folders` that this process has mapped.
void PrintMapped(const std::vector<std::string>& folders) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    for (const std::string& folder : folders) {
      if (absl::StrContains(line, folder)) std::cout << "still mapped: " << line << "\n";
    }
  }
}

// Loads the newest version below `base`, and answers every HTTP request of `port` until the process ends.
absl::Status Serve(const std::string& base, int port) {
  std::vector<std::string> names;
  absl::Status status = tensorflow::Env::Default()->GetChildren(base, &names);
  if (!status.ok()) return status;
  int64_t newest = -1;
  for (const std::string& name : names) {
    if (int64_t version; absl::SimpleAtoi(name, &version)) newest = std::max(newest, version);
  }
  SavedModelBundle model;
  status = Load(absl::StrCat(base, "/", newest), 0, 0, &model);
  if (!status.ok()) return status;

  const std::string body = absl::StrCat("{\"model_version_status\": [{\"version\": \"", newest,
                                        "\", \"state\": \"AVAILABLE\"}]}\n");
  const std::string response =
      absl::StrCat("HTTP/1.0 200 OK\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  const int reuse = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener, 8) != 0) {
    return absl::UnavailableError(absl::StrCat("port ", port, ": ", strerror(errno)));
  }
  std::cout << "serving version " << newest << std::endl;
  while (true) {
    const int client = accept(listener, nullptr, nullptr);
    if (client < 0) continue;
    char request[4096];
    if (read(client, request, sizeof(request)) > 0 &&
        write(client, response.data(), response.size()) < 0) {
      std::cerr << "a client left\n";
    }
    close(client);
  }
}

int Fail(const absl::Status& status) {
  std::cerr << status.ToString() << "\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  // The loader is initialised before the C library (serving_host.cmake), which then knows no environment.
  // It lies behind the arguments.
  environ = argv + argc + 1;
  int inter = 0, intra = 0, port = 0;
  std::string base;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    const std::pair<absl::string_view, absl::string_view> flag =
        absl::StrSplit(argv[i], absl::MaxSplits('=', 1));
    if (flag.first == "--version") {
      std::cout << "TensorFlow Library: " << TF_Version() << "\n";
      return 0;
    }
    if (flag.first == "--model_base_path") base = std::string(flag.second);
    bool read = true;
    if (flag.first == "--inter") read = absl::SimpleAtoi(flag.second, &inter);
    if (flag.first == "--intra") read = absl::SimpleAtoi(flag.second, &intra);
    if (flag.first == "--rest_api_port") read = absl::SimpleAtoi(flag.second, &port);
    if (!read) return Fail(absl::InvalidArgumentError(argv[i]));
    if (!absl::StartsWith(flag.first, "--")) paths.emplace_back(argv[i]);
  }
  if (!base.empty()) return Fail(Serve(base, port));
  if (paths.size() < 3)
    return Fail(absl::InvalidArgumentError("wanted: REQUESTS ANSWERS MODEL..."));
  const std::vector<std::string> folders(paths.begin() + 2, paths.end());
  {
    std::vector<SavedModelBundle> models(folders.size());
    for (size_t i = 0; i < folders.size(); ++i) {
      if (absl::Status status = Load(folders[i], inter, intra, &models[i]); !status.ok())
        return Fail(status);
    }
    if (absl::Status status = Answer(paths[0], paths[1], models); !status.ok()) return Fail(status);
  }
  PrintMapped(folders);
  return 0;
}
