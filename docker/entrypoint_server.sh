#!/usr/bin/env bash
# Runs TensorFlow Serving; what `docker run IMAGE ...` adds comes last and wins.
set -euo pipefail

# The ops are preloaded into the server alone. A server that has them linked in, as Dockerfile.bazel makes it, sets this to
# nothing. The dynamic linker would only warn of a file that is not there.
preload=${NANN_PRELOAD-/opt/nann/libnann_serving.so}
if [[ -n $preload && ! -r $preload ]]; then
  echo "entrypoint_server.sh: NANN_PRELOAD is $preload, which cannot be read" >&2
  exit 1
fi

# TensorFlow Serving's gRPC server refuses what exceeds these threads, and keeps nothing waiting; its own default, 4 a
# core, loses most requests of 8 clients on 2 cores. REST requests wait for a thread; they get as many.
threads=$((4 * $(nproc)))
((threads >= 64)) || threads=64

flags=(
  "--port=${GRPC_PORT:-8500}" "--rest_api_port=${REST_PORT:-8501}"
  "--model_name=${MODEL_NAME:-nann}" "--model_base_path=${MODEL_BASE_PATH:-/models/nann}"
  "--grpc_max_threads=${GRPC_MAX_THREADS:-$threads}"
  "--rest_api_num_threads=${REST_NUM_THREADS:-$threads}"
  "--tensorflow_session_config_file=${SESSION_CONFIG:-/etc/nann/session_config.pbtxt}"
  "--monitoring_config_file=${MONITORING_CONFIG:-/etc/nann/monitoring.config}"
)

# The last of a flag wins. Batches join requests by the first dimension of every input, which those of a search have not:
# an export would fail to load. With parameters per model, only models that bring some are batched.
batching=false per_model=
for argument in "$@"; do
  case $argument in
    --enable_batching | --enable_batching=true | --enable_batching=1) batching=true ;;
    --enable_batching=*) batching=false ;;
    --enable_per_model_batching_parameters) per_model=true ;;
    --enable_per_model_batching_parameters=*) per_model=${argument#*=} ;;
    --enable_model_warmup=false | --enable_model_warmup=0)
      echo "entrypoint_server.sh: with $argument the first requests take seconds, and a model that cannot answer is" \
        "found by them, not while it loads" >&2
      ;;
  esac
done
if $batching && [[ -z $per_model ]]; then
  echo "entrypoint_server.sh: --enable_batching is followed by --enable_per_model_batching_parameters=true:" \
    "a search cannot be batched, and models without batching_params.pbtxt are then left alone" >&2
  flags+=("--enable_per_model_batching_parameters=true")
elif $batching && [[ $per_model != true && $per_model != 1 ]]; then
  echo "entrypoint_server.sh: --enable_batching without --enable_per_model_batching_parameters=true:" \
    "no export of nann loads like this, its warm-up fails with 'must have equal 0th-dimension size'" >&2
fi

# TensorFlow Serving listens on all addresses, as a container must: 127.0.0.1 is the container's own, where no published
# port arrives. It answers an unknown flag with its usage text and goes on: read the first lines of its log.
env "LD_PRELOAD=$preload" tensorflow_model_server "${flags[@]}" "$@" &
server=$!
# As process 1 of its container the server would ignore SIGTERM, for which it has no handler. So it is not: this script
# is, and passes the signal on. The signal ends `wait` before the server has ended.
trap 'kill -TERM "$server" 2>/dev/null || true' TERM INT
status=0
wait "$server" || status=$?
while kill -0 "$server" 2>/dev/null; do
  wait "$server" || status=$?
done
exit "$status"
