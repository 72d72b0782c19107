// libnann_serving.so: brings the ops into a stock TensorFlow Serving, which has no flag for op libraries.
//
//   LD_PRELOAD=/opt/nann/libnann_serving.so tensorflow_model_server ...
//
// The dynamic linker loads this file into the server before `main`. It asks the server for the release of its TensorFlow
// and opens the library of the ops that was built for that release, libnann_serving-2.20.so for 2.20, from the folder
// that it was loaded from itself. Where the pair does not fit, it says so in one sentence and ends the process: a server
// without the ops would fail later, at a model's first request.
//
// In a program without TensorFlow it does nothing, so LD_PRELOAD may be set for a whole container, whose entry point is a
// shell. For the same reason it needs nothing but the C library.

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

namespace {

constexpr char kServer[] = "tensorflow_model_server";

// Only the constructor below writes to them.
char folder[4096];
char library[sizeof(folder) + 64];

[[noreturn]] void Refuse(const char* version, const char* reason) {
  dprintf(STDERR_FILENO,
          "libnann_serving.so: the ops cannot be added to this server (TensorFlow %s): %s. Take "
          "the files that were built for this release of TensorFlow Serving.\n",
          version, reason);
  _exit(1);
}

// Sets `folder` to the folder of this file, with a slash at its end.
bool FindFolder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&FindFolder), &info) == 0 || info.dli_fname == nullptr)
    return false;
  const char* slash = strrchr(info.dli_fname, '/');
  const size_t length = slash == nullptr ? 0 : slash - info.dli_fname + 1;
  if (length >= sizeof(folder)) return false;
  memcpy(folder, info.dli_fname, length);
  return true;
}

__attribute__((constructor)) void AddOps() {
  const auto version_of = reinterpret_cast<const char* (*)()>(dlsym(RTLD_DEFAULT, "TF_Version"));
  if (version_of == nullptr) {
    if (strcmp(program_invocation_short_name, kServer) == 0) {
      Refuse("of an unknown version", "it exports none of the symbols of TensorFlow");
    }
    return;
  }
  // "2.20.0" or "2.20.0-rc1": the release is all that comes before the second dot.
  const char* version = version_of();
  const char* dot = strchr(version, '.');
  const char* end = dot == nullptr ? nullptr : strchr(dot + 1, '.');
  if (end == nullptr || end - version > 16)
    Refuse(version, "its version is not of the form 2.20.0");
  if (!FindFolder()) Refuse(version, "the path of libnann_serving.so is not known");
  snprintf(library, sizeof(library), "%slibnann_serving-%.*s.so", folder,
           static_cast<int>(end - version), version);
  // RTLD_NOW: a symbol that the server lacks is found now, not by the first request that needs it.
  if (dlopen(library, RTLD_NOW | RTLD_LOCAL) == nullptr) Refuse(version, dlerror());
}

}  // namespace
