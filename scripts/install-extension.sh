#!/usr/bin/env bash
# Builds the extension and the `colcrypt` program with plain cargo, and installs them into PostgreSQL $PG.
# install-extension.sh [--release]
# cargo-pgrx is not needed: the extension's SQL is written by hand, in the files that sql/ORDER lists.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres
cd "$ROOT"

# shellcheck disable=SC2046  # two options, split on purpose
if [ "${1:-}" = --release ]; then
    library=release program=agent
    # Side by side: each has long stretches in which one compiler runs alone.
    cargo build --release -p colcrypt --no-default-features --features "pg$PG" >&2 &
    cargo build --profile agent -p colcrypt-cli >&2
    wait $!
else
    library=debug program=debug
    cargo build --workspace $(cargo_features) >&2
fi

version="$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)"
staging="$(mktemp -d)"
trap 'rm -rf "$staging"' EXIT

sed "s/@CARGO_VERSION@/$version/g" colcrypt.control >"$staging/colcrypt.control"
while read -r file; do
    case "$file" in '' | '#'*) continue ;; esac
    cat "sql/$file"
    echo
done <sql/ORDER >"$staging/colcrypt.sql"
cp "$TARGET/$library/libcolcrypt.so" "$staging/colcrypt.so"
cp "$TARGET/$program/colcrypt" "$staging/colcrypt"

# A running server has the library mapped: overwriting it in place would crash it, a rename does not.
install_file() { # mode source destination
    cmp -s "$2" "$3" && return
    local to=()
    if [ ! -w "$(dirname "$3")" ]; then to=(as_admin); fi
    "${to[@]}" install -m "$1" "$2" "$3.new"
    "${to[@]}" mv -f "$3.new" "$3"
    say "installed $3"
}
extension="$("$PG_CONFIG" --sharedir)/extension"
install_file 0755 "$staging/colcrypt.so" "$("$PG_CONFIG" --pkglibdir)/colcrypt.so"
install_file 0755 "$staging/colcrypt" "$BINDIR/colcrypt"
install_file 0644 "$staging/colcrypt.control" "$extension/colcrypt.control"
install_file 0644 "$staging/colcrypt.sql" "$extension/colcrypt--$version.sql"
# Earlier releases and the ways from one to the next, so that what was installed then can be restored and updated.
for file in sql/releases/colcrypt--*.sql sql/colcrypt--*--*.sql; do
    install_file 0644 "$file" "$extension/$(basename "$file")"
done
