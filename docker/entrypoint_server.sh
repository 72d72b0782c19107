#!/usr/bin/env bash
# Runs TensorFlow Serving; what `docker run IMAGE ...` adds comes last and wins.
set -euo pipefail

say() {
  echo "entrypoint_server.sh: $*" >&2
}

# The ops are preloaded into the server alone. A server that has them linked in, as Dockerfile.bazel makes it, sets this to
# nothing. The dynamic linker would only warn of a file that is not there.
preload=${NANN_PRELOAD-/opt/nann/libnann_serving.so}
if [[ -n $preload && ! -r $preload ]]; then
  say "NANN_PRELOAD is $preload, which cannot be read"
  exit 1
fi

# TensorFlow Serving's gRPC server refuses what exceeds these threads, and keeps nothing waiting; its own default, 4 a
# core, loses most requests of 8 clients on 2 cores. REST requests wait for a thread; they get as many.
threads=$((4 * $(nproc)))
((threads >= 64)) || threads=64

grpc_port=${GRPC_PORT:-8500} rest_port=${REST_PORT:-8501} name=${MODEL_NAME:-nann}
flags=("--port=$grpc_port" "--rest_api_port=$rest_port")
if [[ -n ${MODEL_CONFIG:-} ]]; then
  flags+=("--model_config_file=$MODEL_CONFIG")
else
  flags+=("--model_name=$name" "--model_base_path=${MODEL_BASE_PATH:-/models/nann}")
fi
flags+=(
  "--grpc_max_threads=${GRPC_MAX_THREADS:-$threads}"
  "--rest_api_num_threads=${REST_NUM_THREADS:-$threads}"
  "--tensorflow_session_config_file=${SESSION_CONFIG:-/etc/nann/session_config.pbtxt}"
  "--monitoring_config_file=${MONITORING_CONFIG:-/etc/nann/monitoring.config}"
)
[[ -z ${SSL_CONFIG:-} ]] || flags+=("--ssl_config_file=$SSL_CONFIG")

# Prints what the server takes for a flag: the last of its values, or DEFAULT where it is not given.
all=("${flags[@]}" "$@")
value() {
  local flag=$1 found=${2:-} word
  for word in "${all[@]}"; do
    case $word in
      "--$flag") found=true ;;
      "--$flag="*) found=${word#*=} ;;
    esac
  done
  # Both are true to the server.
  [[ $found != 1 ]] || found=true
  echo "$found"
}

# The server would end with the C++ of a failed check, or with "not found" for a file that is there but may not be read,
# such as a private key.
for flag in model_config_file tensorflow_session_config_file monitoring_config_file ssl_config_file \
  batching_parameters_file platform_config_file thread_pool_factory_config_file; do
  file=$(value "$flag")
  if [[ -n $file && $file != *://* && ! -r $file ]]; then
    say "--$flag is $file, which user $(id -u) cannot read"
    exit 1
  fi
done

# Batches join requests by the first dimension of every input, which those of a search have not: an export would fail to
# load. With parameters per model, only models that bring some are batched.
if [[ $(value enable_batching) == true ]]; then
  per_model=$(value enable_per_model_batching_parameters)
  if [[ -z $per_model ]]; then
    say "--enable_batching is followed by --enable_per_model_batching_parameters=true:" \
      "a search cannot be batched, and models without batching_params.pbtxt are then left alone"
    flags+=("--enable_per_model_batching_parameters=true")
  elif [[ $per_model != true ]]; then
    say "--enable_batching without --enable_per_model_batching_parameters=true:" \
      "no export of nann loads like this, its warm-up fails with 'must have equal 0th-dimension size'"
  fi
fi

# Other flags that are passed on, but do not what one may expect.
no_warm_up="the first requests take seconds, and a model that cannot answer is found by them, not while it loads"
[[ $(value enable_model_warmup true) == true ]] || say "with --enable_model_warmup=false $no_warm_up"
[[ -z $(value platform_config_file) ]] ||
  say "with --platform_config_file the server ignores the session configuration and the flags for threads, batching and" \
    "warm-up; unless the file has enable_model_warmup: true, $no_warm_up"
[[ $(value enable_serialization_as_tensor_content) != true ]] ||
  say "with --enable_serialization_as_tensor_content answers by REST hold wrong numbers; ask by gRPC alone"
session_config=$(value tensorflow_session_config_file)
if [[ -r $session_config ]]; then
  overwritten='(intra_op_parallelism_threads|inter_op_parallelism_threads|per_process_gpu_memory_fraction) *:'
  ! grep -qE "^[^#]*$overwritten" "$session_config" ||
    say "threads and the share of a GPU's memory in $session_config have no effect, the server overwrites them: set" \
      "--tensorflow_intra_op_parallelism, --tensorflow_inter_op_parallelism or --per_process_gpu_memory_fraction"
fi

served_port=$(value rest_api_port) config=$(value model_config_file) served_name=$(value model_name)
[[ -z $(value ssl_config_file) || $served_port == 0 ]] ||
  say "TLS is for gRPC alone: REST on port $served_port stays plain text, so publish port $(value port) alone"
# The health check runs beside the server, and knows the variables, not the flags.
[[ $served_port == "$rest_port" ]] ||
  say "the container's health check asks port $rest_port: set REST_PORT in the place of --rest_api_port=$served_port"
if [[ -n $config ]]; then
  [[ $config == *://* ]] || grep -qE "name *: *[\"']${name}[\"']" "$config" ||
    say "the container's health check asks for the model $name, which $config does not name: set MODEL_NAME to one of its"
elif [[ $served_name != "$name" ]]; then
  say "the container's health check asks for the model $name: set MODEL_NAME in the place of --model_name=$served_name"
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
