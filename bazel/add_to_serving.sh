#!/usr/bin/env bash
# Links this project's ops into a checkout of TensorFlow Serving; --help says how.
set -euo pipefail

readonly SERVER=tensorflow_serving/model_servers
readonly BUILDOZER=${BUILDOZER:-buildozer}

usage() {
  cat <<EOF
Usage: bazel/add_to_serving.sh SERVING [TARGET...]

Makes the ops a part of TensorFlow Serving's model server. In SERVING, a checkout of its sources, this
  - appends a local_repository "nann" to WORKSPACE, and
  - adds each TARGET (by default @nann//:nann_ops, all of them) to the deps of //$SERVER:server_lib.
Nothing else there changes, and a second run changes nothing. Then, in SERVING:

  bazel build -c opt //$SERVER:tensorflow_model_server

Needs buildozer on the PATH, or named by the environment variable BUILDOZER.
EOF
}

fail() {
  echo "add_to_serving.sh: $*" >&2
  exit 1
}

targets=()
serving=
for argument in "$@"; do
  case $argument in
    -h | --help) usage && exit ;;
    -*) fail "unknown option $argument; --help lists what there is" ;;
    *) if [[ -z $serving ]]; then serving=$argument; else targets+=("$argument"); fi ;;
  esac
done
[[ -n $serving ]] || { usage >&2 && exit 2; }
[[ ${#targets[@]} -gt 0 ]] || targets=(@nann//:nann_ops)
for target in "${targets[@]}"; do
  [[ $target == @nann//* ]] || fail "the target $target is not of this project; one is @nann//:nann_ops"
done

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly here
# All is checked before anything changes.
for file in WORKSPACE "$SERVER/BUILD"; do
  [[ -f $serving/$file ]] || fail "$serving has no $file: it is no checkout of TensorFlow Serving's sources"
done
command -v "$BUILDOZER" >/dev/null || fail "$BUILDOZER is not there; install buildozer, or name it by BUILDOZER=..."
"$BUILDOZER" -root_dir "$serving" 'print name' "//$SERVER:server_lib" >/dev/null ||
  fail "$serving/$SERVER/BUILD has no server_lib to depend on the ops"

readonly path_line="    path = \"$here\","
if grep -qF 'name = "nann"' "$serving/WORKSPACE"; then
  grep -qxF "$path_line" "$serving/WORKSPACE" ||
    fail "$serving/WORKSPACE has a repository nann at another path than $here; remove it"
  echo "WORKSPACE: unchanged"
else
  printf '\nlocal_repository(\n    name = "nann",\n%s\n)\n' "$path_line" >>"$serving/WORKSPACE"
  echo "WORKSPACE: local_repository nann at $here"
fi

# buildozer's status 3 says that the file was as wanted.
status=0
"$BUILDOZER" -root_dir "$serving" "add deps ${targets[*]}" "//$SERVER:server_lib" || status=$?
case $status in
  0) echo "$SERVER/BUILD: server_lib depends on ${targets[*]}" ;;
  3) echo "$SERVER/BUILD: unchanged" ;;
  *) fail "buildozer failed with status $status" ;;
esac
