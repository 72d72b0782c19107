#!/usr/bin/env bash
# Runs TensorFlow Serving; what `docker run IMAGE ...` adds comes last and wins.
set -euo pipefail

flags=(
  "--port=${GRPC_PORT:-8500}" "--rest_api_port=${REST_PORT:-8501}"
  "--model_name=${MODEL_NAME:-nann}" "--model_base_path=${MODEL_BASE_PATH:-/models/nann}"
  "--tensorflow_session_config_file=${SESSION_CONFIG:-/etc/nann/session_config.pbtxt}"
  "--monitoring_config_file=${MONITORING_CONFIG:-/etc/nann/monitoring.config}"
  # Without it a scorer that was exported for XLA runs uncompiled (docs/adr/0010).
  "--xla_cpu_compilation_enabled=true"
)
case ${NANN_DEVICE:-cpu} in
  cpu) ;;
  gpu) flags+=("--xla_gpu_compilation_enabled=true") ;;
  *)
    echo "entrypoint_server.sh: NANN_DEVICE is '$NANN_DEVICE', allowed are cpu and gpu" >&2
    exit 1
    ;;
esac

# TensorFlow Serving listens on all addresses, as a container must: 127.0.0.1 is the container's own, where no published
# port arrives. It answers an unknown flag with its usage text and goes on: read the first lines of its log.
# exec: the server gets SIGTERM itself.
exec tensorflow_model_server "${flags[@]}" "$@"
