#!/usr/bin/env bash
# Runs the local server; what `docker run IMAGE ...` adds comes last and wins.
set -euo pipefail

# The server takes a folder or a file of models, not both; a file that was asked for is meant.
models=(--model_name "${MODEL_NAME:-nann}" --model_base_path "${MODEL_BASE_PATH:-/models/nann}")
[[ " $*" != *" --model"[_-]"config"[_-]"file"* ]] || models=()
[[ -z ${MODEL_CONFIG:-} ]] || models=(--model_config_file "$MODEL_CONFIG")
tls=()
[[ -z ${SSL_CONFIG:-} ]] || tls=(--ssl_config_file "$SSL_CONFIG")

# All addresses: inside a container 127.0.0.1 is the container's own, where no published port and no other container
# arrives. Who may reach it is decided outside, by -p and networks.
# exec: the server gets SIGTERM itself.
exec nann serve --host 0.0.0.0 \
  --port "${GRPC_PORT:-8500}" --rest_api_port "${REST_PORT:-8501}" "${models[@]}" "${tls[@]}" \
  --monitoring_config_file "${MONITORING_CONFIG:-/etc/nann/monitoring.config}" "$@"
