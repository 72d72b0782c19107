#!/usr/bin/env bash
# usage: smoke.sh [HOST]
# Asks a running server everything that the compose file promises: status, a search by gRPC, metrics, and, where
# PROMETHEUS is HOST:PORT, that Prometheus reads them. The model must take the original's request, as those of
# `nann train` do.
set -euo pipefail

export HOST=${1:-127.0.0.1}
grpc=$HOST:${GRPC_PORT:-8500}
here=$(dirname "$(readlink -f "$0")")

"$here/healthcheck"
echo "status    a version is available"
nann smoke "$grpc" --name "${MODEL_NAME:-nann}"
"$here/healthcheck" /monitoring/prometheus/metrics '# TYPE'
echo "metrics   at /monitoring/prometheus/metrics"

if [[ -n ${PROMETHEUS:-} ]]; then
  # Prometheus answers {"result":[{..., "value":[TIME,"1"]}]} once it has read the target.
  for ((tries = 30; tries > 0; tries--)); do
    if HOST=${PROMETHEUS%:*} REST_PORT=${PROMETHEUS##*:} \
      "$here/healthcheck" '/api/v1/query?query=up%7Bjob%3D%22nann%22%7D' ',"1"]' 2>/dev/null; then
      echo "smoke     passed, Prometheus reads the server"
      exit
    fi
    sleep 2
  done
  echo "smoke.sh: Prometheus at $PROMETHEUS has not read the server's metrics within a minute" >&2
  exit 1
fi
echo "smoke     passed"
