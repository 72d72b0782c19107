#!/usr/bin/env bash
# usage: try_server.sh [SECONDS]
# Succeeds where the image's server takes nann's ops and the image's model becomes available, its warm-up answered, within
# SECONDS, 600 by default. The Dockerfile runs it, so that an image which cannot serve is not built.
set -euo pipefail

seconds=${1:-600}

LD_PRELOAD=${NANN_PRELOAD-/opt/nann/libnann_serving.so} tensorflow_model_server --version

log=$(mktemp)
# By default the server tries a model that fails for minutes again, and says why only then.
entrypoint_server.sh --max_num_load_retries=0 >"$log" 2>&1 &
server=$!
end=$((SECONDS + seconds))
until said=$(healthcheck 2>&1); do
  if ! kill -0 "$server" 2>/dev/null || ((SECONDS >= end)); then
    cat "$log" >&2
    echo "try_server.sh: the model is not available: $said" >&2
    kill "$server" 2>/dev/null || true
    exit 1
  fi
  sleep 1
done
kill "$server"
wait "$server" || true
rm "$log"
echo "try_server.sh: the server has loaded the model in ${MODEL_BASE_PATH:-/models/nann}"
