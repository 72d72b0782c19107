#!/usr/bin/env bash
# usage: build_server.sh SERVING_DIR OUT
# Inside TensorFlow Serving's devel image: adds nann's ops to the model server, builds it and puts it at OUT.
# DEVICE is cpu or gpu; BAZEL_OPTIONS are more options for Bazel.
set -euo pipefail

die() {
  echo "build_server.sh: $*" >&2
  exit 1
}

(($# == 2)) || die "got $# arguments, wanted SERVING_DIR OUT"
serving=$1 out=$2
nann=$(cd "$(dirname "$0")/.." && pwd)
target=tensorflow_serving/model_servers:tensorflow_model_server

[[ -f $serving/tensorflow_serving/model_servers/BUILD ]] || die "$serving has not TensorFlow Serving's sources"
for tool in bazel buildozer; do
  command -v "$tool" >/dev/null || die "$tool is not on the PATH"
done
buildozer --version >/dev/null ||
  die "buildozer does not run on $(uname -m): the Dockerfile's is for amd64, as TensorFlow Serving's devel images are;" \
    "build with --platform linux/amd64, or put another buildozer on the PATH"

options=(--config=release --verbose_failures)
case ${DEVICE:-cpu} in
  cpu) ;;
  gpu)
    options+=(--config=cuda_clang --copt=-fPIC)
    # A builder has no driver: the linker gets CUDA's stub of it. CUDA_STUBS is for the tests.
    stubs=${CUDA_STUBS:-/usr/local/cuda/lib64/stubs}
    [[ -f $stubs/libcuda.so ]] || die "$stubs/libcuda.so is missing: this is not a GPU devel image"
    ln -sf "$stubs/libcuda.so" "$stubs/libcuda.so.1"
    export LD_LIBRARY_PATH=$stubs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    ;;
  *) die "DEVICE is '$DEVICE', allowed are cpu and gpu" ;;
esac
read -ra more <<<"${BAZEL_OPTIONS:-}"

"$nann/bazel/add_to_serving.sh" "$serving"
cd "$serving"
bazel build "${options[@]}" "${more[@]}" "$target"
install -D -m 755 "bazel-bin/${target/://}" "$out"
"$out" --version
