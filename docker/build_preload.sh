#!/usr/bin/env bash
# The steps of the Dockerfile's builder: the ops for a stock TensorFlow Serving, in minutes.
set -euo pipefail

usage() {
  cat >&2 <<'EOF'
usage: build_preload.sh tools VERSION     a compiler, and the headers of TensorFlow VERSION
       build_preload.sh ops SOURCE OUT    compile the ops and put the files to preload into OUT
CMAKE_OPTIONS are more options for CMake.
EOF
  exit 2
}

(($#)) || usage
step=$1
shift
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

case $step/$# in
  tools/1)
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends ca-certificates ccache g++ python3-venv >/dev/null
    rm -rf /var/lib/apt/lists/*
    python3 -m venv /opt/build
    # TensorFlow Serving and the wheel of the same version are built from the same sources, so the wheel's headers fit.
    # Nothing imports it, so it comes alone.
    /opt/build/bin/pip install --quiet --no-deps --no-compile "tensorflow==$1" cmake ninja
    ;;
  ops/2)
    source=$1 out=$2
    export CCACHE_DIR=/root/.cache/ccache
    read -ra options <<<"${CMAKE_OPTIONS:-}"
    /opt/build/bin/cmake -S "$source" -B /tmp/build -G Ninja -DCMAKE_MAKE_PROGRAM=/opt/build/bin/ninja \
      -DPython3_EXECUTABLE=/opt/build/bin/python "${options[@]}"
    /opt/build/bin/cmake --build /tmp/build --target nann_serving
    mkdir -p "$out"
    cp /tmp/build/serving/*.so "$out"
    ;;
  *)
    usage
    ;;
esac
