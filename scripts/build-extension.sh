#!/usr/bin/env bash
# Builds the extension and the `colcrypt` program with plain cargo, and lays what gets installed into a folder: colcrypt.so,
# colcrypt, and extension/ with the control file and all SQL.
# build-extension.sh [--release] FOLDER
# cargo-pgrx is not needed: the extension's SQL is written by hand, in the files that sql/ORDER lists.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres
cd "$ROOT"

# shellcheck disable=SC2046  # two options, split on purpose
if [ "${1:-}" = --release ]; then
    shift
    library=release program=agent
    # Side by side: each has long stretches in which one compiler runs alone.
    cargo build --release -p colcrypt --no-default-features --features "pg$PG" >&2 &
    cargo build --profile agent -p colcrypt-cli >&2
    wait $!
else
    library=debug program=debug
    cargo build --workspace $(cargo_features) >&2
fi
folder="$1"

version="$(workspace_version)"
mkdir -p "$folder/extension"
sed "s/@CARGO_VERSION@/$version/g" colcrypt.control >"$folder/extension/colcrypt.control"
while read -r file; do
    case "$file" in '' | '#'*) continue ;; esac
    cat "sql/$file"
    echo
done <sql/ORDER >"$folder/extension/colcrypt--$version.sql"
# Earlier releases and the ways from one to the next, so that what was installed then can be restored and updated.
cp sql/releases/colcrypt--*.sql sql/colcrypt--*--*.sql "$folder/extension/"
cp "$TARGET/$library/libcolcrypt.so" "$folder/colcrypt.so"
cp "$TARGET/$program/colcrypt" "$folder/colcrypt"
