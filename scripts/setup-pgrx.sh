#!/usr/bin/env bash
# What `cargo pgrx test` and `cargo pgrx run` need on top of setup.sh: cargo-pgrx of the very version the crate uses.
# Nothing else here needs it, because building it takes minutes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres

PGRX_VERSION=0.18.1

if [ "$(cargo pgrx --version 2>/dev/null || true)" != "cargo-pgrx $PGRX_VERSION" ]; then
    say "building cargo-pgrx $PGRX_VERSION (a few minutes, once)"
    # An optimised build takes twice as long and saves nothing: the tool only copies files and calls cargo.
    cargo install --quiet --locked cargo-pgrx --version "$PGRX_VERSION" --debug >&2
fi

configure_pgrx "$(pgrx_home)"

# `cargo pgrx run` starts a server with PostgreSQL's own defaults, which preload nothing. Make its data directory
# first, with what colcrypt needs; root cannot run that server anyway.
data="$(pgrx_home)/data-$PG"
if ! is_root && [ ! -e "$data" ]; then
    say "making the data directory that 'cargo pgrx run pg$PG' will use"
    "$BINDIR/initdb" -D "$data" -U "$(id -un)" --no-sync >/dev/null
    cat >>"$data/postgresql.conf" <<-CONF
		shared_preload_libraries = 'colcrypt'
		colcrypt.agent_path = '$TARGET/debug/colcrypt'
	CONF
fi
