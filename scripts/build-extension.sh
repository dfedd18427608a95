#!/usr/bin/env bash
# Builds the extension and the `colcrypt` program with plain cargo, and lays what gets installed into a folder: colcrypt.so,
# colcrypt, and extension/ with the control file and all SQL.
# build-extension.sh [--release] FOLDER
# cargo-pgrx is not needed: the extension's SQL is written by hand, in the files that sql/ORDER lists.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres
cd "$ROOT"

lay_sql() { # folder
    local version file
    version="$(workspace_version)"
    mkdir -p "$1"
    sed "s/@CARGO_VERSION@/$version/g" colcrypt.control >"$1/colcrypt.control"
    while read -r file; do
        case "$file" in '' | '#'*) continue ;; esac
        cat "sql/$file"
        echo
    done <sql/ORDER >"$1/colcrypt--$version.sql"
    # Earlier releases and the ways from one to the next, so that what was installed then can be restored and updated.
    cp sql/releases/colcrypt--*.sql sql/colcrypt--*--*.sql "$1/"
}

build_library() { cargo build --release -p colcrypt --no-default-features --features "pg$PG" >&2; }

# Has our own crates built anew with this flag. cargo's RUSTC_WORKSPACE_WRAPPER adds it, so no dependency is built twice, and is one
# for all flags: symbols are named by its path, and a profile goes by symbols.
build_library_with() { # flag
    local wrapper="$TARGET/profiles/$PG/rustc"
    printf '#!/bin/sh\n# What runs while something is built is not what is trained.\n' >"$wrapper"
    printf 'case " $* " in *" build_script_build "*) exec "$@" ;; esac\nexec "$@" %q\n' "$1" >>"$wrapper"
    chmod +x "$wrapper"
    # shellcheck disable=SC2046  # options, split on purpose
    cargo clean --quiet --release $(printf -- '-p %s ' $(library_crates)) >&2
    RUSTC_WORKSPACE_WRAPPER="$wrapper" build_library
}

library_crates() {
    cargo tree -p colcrypt --no-default-features --features "pg$PG" -e normal --prefix none --format '{p}' |
        sed -n "s|^\([^ ]*\) .*(${ROOT}[/)].*|\1|p" | sort -u
}

# With a profile of what applications do (scripts/train.sh): a look-up runs through a third less of code, and on a server that does
# other things between two of them that is what it waits for. UNTRAINED=1 leaves it out.
build_trained_library() { # the process that builds the program
    local profiles="$TARGET/profiles/$PG" id
    need_profdata
    mkdir -p "$profiles"
    # Two at once would build with each other's flags.
    exec 9>"$TARGET/profiles/lock"
    flock 9
    id="$(training_id)"
    if [ ! -f "$profiles/$id" ]; then
        rm -rf "${profiles:?}"/*
        build_library_with "-Cprofile-generate"
        wait "$1"
        lay_sql "$profiles/extension"
        scripts/train.sh "$TARGET/release/libcolcrypt.so" "$TARGET/agent/colcrypt" "$profiles/extension" "$profiles/$id.new"
        mv "$profiles/$id.new" "$profiles/$id"
    fi
    # It is as it was for as long as the profile is.
    if [ ! -f "$profiles/built" ]; then
        build_library_with "-Cprofile-use=$profiles/$id"
        cp "$TARGET/release/libcolcrypt.so" "$profiles/built.new"
        mv "$profiles/built.new" "$profiles/built"
    fi
    if [ "$id" != "$(training_id)" ]; then
        rm "$profiles/built"
        die "the sources were changed while they were built: build again"
    fi
}

if [ "${1:-}" = --release ]; then
    shift
    program=agent
    # Side by side: each has long stretches in which one compiler runs alone.
    cargo build --profile agent -p colcrypt-cli >&2 &
    building=$!
    if [ -n "${UNTRAINED:-}" ]; then
        build_library
        library="$TARGET/release/libcolcrypt.so"
    else
        build_trained_library "$building"
        library="$TARGET/profiles/$PG/built"
    fi
    wait "$building"
else
    library="$TARGET/debug/libcolcrypt.so" program=debug
    # shellcheck disable=SC2046  # options, split on purpose
    cargo build --workspace $(cargo_features) >&2
fi
folder="$1"
lay_sql "$folder/extension"
cp "$library" "$folder/colcrypt.so"
cp "$TARGET/$program/colcrypt" "$folder/colcrypt"
