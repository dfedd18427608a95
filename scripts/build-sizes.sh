#!/usr/bin/env bash
# What the colcrypt program costs to build with one provider, with the escrow's ceremony, and with all: a row of Markdown each. Cold, optimised but
# without whole-program optimisation, in a directory of its own. The time is the processors', so that other work on the
# machine and the number of processors change it little.
# build-sizes.sh [FEATURE…]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

kinds=("$@")
if [ $# = 0 ]; then kinds=(file escrow pkcs11 kmip vault-transit gcp-kms azure-keyvault aws-kms default); fi
target="$(mktemp -d)"
trap 'rm -rf "$target"' EXIT
export CARGO_PROFILE_AGENT_STRIP=symbols
export CARGO_TARGET_DIR="$target"

echo "| provider | crates | CPU seconds | MB |"
echo "| --- | --- | --- | --- |"
for kind in "${kinds[@]}"; do
    build=(-p colcrypt-cli --no-default-features --features "$kind" --locked)
    crates="$(cargo tree "${build[@]}" -e normal --prefix none | awk '{ print $1 }' | sort -u | wc -l)"
    rm -rf "$target/agent"
    TIMEFORMAT="%U %S"
    used="$({ time cargo build --quiet --profile agent "${build[@]}" >&2; } 2>&1 | tail -n 1)"
    seconds="$(awk '{ printf "%.0f", $1 + $2 }' <<<"$used")"
    size="$(stat -c %s "$target/agent/colcrypt")"
    echo "| \`$kind\` | $crates | $seconds | $((size / 1000000)).$((size / 100000 % 10)) |"
done
