#!/usr/bin/env bash
# usage: check.sh image|serving|compose
# Says what a build of an image would fail for, before it begins; MODEL_DIR is as in the Dockerfiles.
set -euo pipefail

die() {
  echo "check.sh: $*" >&2
  exit 1
}

what=${1:-}
[[ $what =~ ^(image|serving|compose)$ ]] || die "got '$what', wanted image, serving or compose"
root=$(cd "$(dirname "$0")/.." && pwd)
model=${MODEL_DIR:-demo/models/nann}
oldest=2.3.0 # The first that knows `name:` at the top of a file.

[[ $model != /* ]] || die "MODEL_DIR is $model; a build takes folders inside the repository, such as demo/models/nann"
[[ -d $root/$model ]] ||
  die "there is no folder $model: 'make demo' makes the demo's, MODEL_DIR=... names another inside the repository"
compgen -G "$root/$model/[0-9]*/saved_model.pb" >/dev/null ||
  die "$model holds no version such as $model/1/saved_model.pb: 'make demo' makes the demo's, MODEL_DIR=... names another"

command -v docker >/dev/null || die "docker is not on the PATH; 'nann serve $model' serves without"
docker buildx version >/dev/null 2>&1 || die "docker has no BuildKit (docker buildx), which comes with Docker 23"
if [[ $what == serving ]]; then
  machine=$(docker version --format '{{.Server.Arch}}')
  [[ $machine == amd64 ]] ||
    die "docker builds for $machine: TensorFlow Serving's images are for amd64 alone; 'make image' builds for $machine"
fi
if [[ $what == compose ]]; then
  found=$(docker compose version --short 2>/dev/null) ||
    die "docker has no Compose 2; docker/compose.yaml needs $oldest or newer, docker-compose 1 does not read it"
  found=${found#v}
  [[ $(printf '%s\n' "$oldest" "$found" | sort -V | head -n 1) == "$oldest" ]] ||
    die "Docker Compose is $found, docker/compose.yaml needs $oldest or newer"
fi
