"""A repository of the headers and the library of the TensorFlow wheel that is installed."""

# Asks for the folder without importing TensorFlow, which takes seconds; CMakeLists.txt does the same.
_FIND = """
import importlib.util, sys
spec = importlib.util.find_spec("tensorflow")
sys.exit("no TensorFlow") if spec is None else print(spec.submodule_search_locations[0], end="")
"""

# The defines are those of CMakeLists.txt. The core of the search depends on `absl` alone: in Bazel's sandbox it then
# finds no header of TensorFlow.
_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "framework",
    srcs = ["libtensorflow_framework.so.2"],
)

cc_library(
    name = "absl",
    hdrs = glob(["include/absl/**"]),
    defines = [
        "_GLIBCXX_USE_CXX11_ABI=1",
        "EIGEN_MAX_ALIGN_BYTES=64",
    ],
    includes = ["include"],
    deps = [":framework"],
)

cc_library(
    name = "tensorflow",
    hdrs = glob(
        ["include/**"],
        exclude = ["include/absl/**"],
    ),
    includes = ["include"],
    deps = [":absl"],
)
"""

def _python(repository_ctx):
    """PYTHON_BIN_PATH, as TensorFlow's own builds name it; else this checkout's environment; else python3."""
    named = repository_ctx.os.environ.get("PYTHON_BIN_PATH")
    if named:
        return named
    ours = repository_ctx.path(Label("//:WORKSPACE")).dirname.get_child(".venv").get_child("bin").get_child("python")
    return str(ours) if ours.exists else "python3"

def _tensorflow_wheel_impl(repository_ctx):
    python = _python(repository_ctx)
    found = repository_ctx.execute([python, "-c", _FIND])
    if found.return_code != 0:
        fail("%s finds no TensorFlow (%s). Run `make setup`, or name a Python that has the wheel by PYTHON_BIN_PATH." %
             (python, found.stderr.strip()))
    folder = repository_ctx.path(found.stdout)
    for name in ["include", "libtensorflow_framework.so.2"]:
        if not folder.get_child(name).exists:
            fail("The TensorFlow of %s lacks %s: it is no Linux wheel." % (python, folder.get_child(name)))
        repository_ctx.symlink(folder.get_child(name), name)
    repository_ctx.file("BUILD", _BUILD)

tensorflow_wheel = repository_rule(
    implementation = _tensorflow_wheel_impl,
    doc = "Finds the installed wheel; `:absl` and `:tensorflow` are its targets.",
    configure = True,
    environ = ["PYTHON_BIN_PATH"],
    local = True,
)
