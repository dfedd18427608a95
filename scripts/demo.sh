#!/usr/bin/env bash
# `make demo`: sets up, builds, starts the private cluster and runs the demo on it. Arguments go to the demo.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
trap stages EXIT

start_cluster() {
    local settings
    settings="$(scripts/cluster.sh start)" || return
    eval "$settings"
    export PGHOST PGPORT PGUSER PGDATABASE
}

cd "$ROOT"
stage "set-up" scripts/setup.sh
stage "build and install" scripts/install-extension.sh
stage "cluster" start_cluster
root_key="$(state_dir)/cluster-$PG/root.key"
stage "demo" "$TARGET/debug/demo" --root-key "$root_key" "$@"
