#!/usr/bin/env bash
# The steps of Dockerfile.local, each from a clean Debian with what the steps before it made.
set -euo pipefail

die() {
  echo "install_local.sh: $*" >&2
  exit 1
}

usage() {
  cat >&2 <<'EOF'
usage: install_local.sh python                           the interpreter
       install_local.sh wheels SOURCE WHEELS             download what is pinned
       install_local.sh tools WHEELS                     compilers, TensorFlow's headers
       install_local.sh product SOURCE DIST              compile nann's own wheel
       install_local.sh dependencies WHEELS TARGET       a virtual environment with what nann needs
       install_local.sh runtime WHEELS DIST TARGET       nann's own wheel into it
EOF
  exit 2
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -qq -y --no-install-recommends "$@" >/dev/null
  rm -rf /var/lib/apt/lists/*
}

# The one wheel of a project in a folder.
wheel_of() {
  local found=("$1"/"$2"-*.whl)
  [[ ${#found[@]} == 1 && -f ${found[0]} ]] || die "$1 has not one wheel of $2: ${found[*]}"
  echo "${found[0]}"
}

# pip out of its own wheel, into another environment: images that install need no pip of their own.
pip_into() {
  local wheels=$1 target=$2
  shift 2
  python3 "$(wheel_of "$wheels" pip)/pip" --python "$target/bin/python" "$1" \
    --quiet --no-index --find-links "$wheels" --no-cache-dir "${@:2}"
}

(($#)) || usage
step=$1
shift
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

case $step/$# in
  python/0)
    install_packages python3
    ;;
  wheels/2)
    source=$1 wheels=$2
    install_packages python3-venv
    python3 -m venv /tmp/pip
    mkdir -p "$wheels"
    # requirements.lock has more than those: it pins developers' tools too.
    cp "$source/requirements.in" "$wheels/requirements.txt"
    /tmp/pip/bin/pip download --quiet --dest "$wheels" --only-binary :all: -c "$source/requirements.lock" \
      -r "$wheels/requirements.txt" pip setuptools wheel cmake ninja
    rm -rf /tmp/pip
    ;;
  tools/1)
    wheels=$1
    install_packages g++ ccache
    python3 -m venv --without-pip /opt/build
    pip_into "$wheels" /opt/build install setuptools wheel cmake ninja
    # The build reads the headers and the library; it does not import TensorFlow.
    pip_into "$wheels" /opt/build install --no-deps --no-compile tensorflow pip
    ;;
  product/2)
    source=$1 dist=$2
    export CCACHE_DIR=/root/.cache/ccache
    /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$dist" "$source"
    wheel_of "$dist" tfserving_ext
    ;;
  dependencies/2)
    wheels=$1 target=$2
    python3 -m venv --without-pip "$target"
    # Byte code is made here: the server's root is read-only.
    pip_into "$wheels" "$target" install -r "$wheels/requirements.txt"
    ;;
  runtime/3)
    wheels=$1 dist=$2 target=$3
    pip_into "$wheels" "$target" install --no-deps "$(wheel_of "$dist" tfserving_ext)"
    "$target/bin/nann" --version
    ;;
  *)
    usage
    ;;
esac
