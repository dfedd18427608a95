#!/usr/bin/env bash
# Everything that judges the source without running it: format, clippy, licences and origins of dependencies,
# shell scripts, length of files, width of comments.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres
cd "$ROOT"

DENY_VERSION=0.20.2
MAX_LINES=600
MAX_COMMENT=120
# Packages that are not of the workspace, since what they need is in no lock file but theirs.
OUTSIDE=(fuzz/Cargo.toml tests/models/Cargo.toml)
failed=()
check() { # name command…
    local name="$1"
    shift
    if "$@"; then say "ok      $name"; else
        say "FAILED  $name"
        failed+=("$name")
    fi
}

tools() {
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        die "rustfmt or clippy is missing: run 'rustup component add rustfmt clippy'"
    fi
    if ! command -v shellcheck >/dev/null || ! command -v git >/dev/null; then
        as_admin env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
        as_admin env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends shellcheck git \
            </dev/null >/dev/null
    fi
    if [ "$(cargo deny --version 2>/dev/null || true)" != "cargo-deny $DENY_VERSION" ]; then
        say "building cargo-deny $DENY_VERSION (about a minute, once)"
        cargo install --quiet --locked cargo-deny --version "$DENY_VERSION" --debug >&2
    fi
}

clippy() {
    local manifest
    # A whole check compiles with clippy what it runs (.ci/run): all targets here, the packages outside where their tests are built.
    if [ "${RUSTC_WORKSPACE_WRAPPER:-}" = "$ROOT/scripts/rustc-with-clippy.sh" ]; then
        # shellcheck disable=SC2046  # two options, split on purpose
        cargo build --quiet --locked --workspace --all-targets $(cargo_features)
        return
    fi
    # shellcheck disable=SC2046  # two options, split on purpose
    cargo clippy --quiet --locked --workspace --all-targets $(cargo_features) -- -D warnings || return
    # In the workspace's folder: what they stand on has been looked at.
    for manifest in "${OUTSIDE[@]}"; do
        CARGO_TARGET_DIR="$TARGET" cargo clippy --quiet --locked --manifest-path "$manifest" --all-targets -- -D warnings || return
    done
}

deny() {
    local manifest
    for manifest in Cargo.toml "${OUTSIDE[@]}"; do
        cargo deny --log-level error --manifest-path "$manifest" --config "$ROOT/deny.toml" check --hide-inclusion-graph \
            licenses bans sources || return
    done
}

format() {
    local manifest
    cargo fmt --all --check || return
    for manifest in "${OUTSIDE[@]}"; do cargo fmt --manifest-path "$manifest" --check || return; done
}

# Known vulnerabilities need a database from the network; being offline is not a fault of the source.
advisories() {
    if timeout 60 cargo deny --log-level off fetch db >/dev/null 2>&1; then
        cargo deny --log-level error check --hide-inclusion-graph advisories
    else
        say "        the advisory database cannot be reached: known vulnerabilities were NOT checked"
    fi
}

sources() { git ls-files --cached --others --exclude-standard "$@"; }

shells() {
    local files
    mapfile -t files < <(sources 'scripts/*.sh' .ci/run)
    shellcheck -x -P SCRIPTDIR -- "${files[@]}"
}

short_files() {
    local file lines bad=0
    while read -r file; do
        [ -f "$file" ] || continue
        lines="$(wc -l <"$file")"
        if [ "$lines" -gt "$MAX_LINES" ]; then
            say "        $file has $lines lines; split it (limit $MAX_LINES)"
            bad=1
        fi
    # PostgreSQL reads a release, and the way from one to the next, from one file each.
    done < <(sources '*.rs' '*.sql' '*.sh' '*.py' ':!sql/releases' ':!sql/colcrypt--*--*.sql')
    return "$bad"
}

narrow_comments() {
    local wide
    # In characters, not bytes, whatever the locale.
    wide="$(sources '*.rs' | LC_ALL=C.UTF-8 xargs grep -nE '^ *//.*$' | LC_ALL=C.UTF-8 grep -E "^[^:]+:[0-9]+:.{$((MAX_COMMENT + 1)),}" || true)"
    [ -z "$wide" ] && return
    say "$wide"
    return 1
}

tools
check "rustfmt" format
check "clippy, warnings denied" clippy
check "licences, banned crates, sources" deny
check "known vulnerabilities" advisories
check "shellcheck" shells
check "no comment wider than $MAX_COMMENT columns" narrow_comments
check "no file over $MAX_LINES lines" short_files
[ "${#failed[@]}" = 0 ] || die "lint: ${failed[*]}"
