#!/usr/bin/env bash
# Builds the extension and the `colcrypt` program, and installs them into PostgreSQL $PG.
# install-extension.sh [--release]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres

staging="$(mktemp -d)"
trap 'rm -rf "$staging"' EXIT
"$ROOT/scripts/build-extension.sh" "$@" "$staging"

# A running server has the library mapped: overwriting it in place would crash it, a rename does not.
install_file() { # mode source destination
    cmp -s "$2" "$3" && return
    local to=()
    if [ ! -w "$(dirname "$3")" ]; then to=(as_admin); fi
    "${to[@]}" install -m "$1" "$2" "$3.new"
    "${to[@]}" mv -f "$3.new" "$3"
    say "installed $3"
}
install_file 0755 "$staging/colcrypt.so" "$("$PG_CONFIG" --pkglibdir)/colcrypt.so"
install_file 0755 "$staging/colcrypt" "$BINDIR/colcrypt"
for file in "$staging/extension/"*; do
    install_file 0644 "$file" "$("$PG_CONFIG" --sharedir)/extension/$(basename "$file")"
done
