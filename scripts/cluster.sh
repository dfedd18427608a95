#!/usr/bin/env bash
# A private cluster with the extension ready in database "demo", for looking around and for `make demo`.
# cluster.sh start   start it if it is not running; prints shell assignments on stdout, all else on stderr
# cluster.sh psql    start it and open psql on it; further arguments go to psql
# cluster.sh stop    stop it; its data stays
# cluster.sh remove  stop it and delete its data
# It listens on a socket only, in a directory closed to other users: that is what makes "trust" acceptable.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

use_postgres
BASE="$(state_dir)/cluster-$PG"
DATA="$BASE/data"
KEY="$BASE/root.key"
STAMP="$BASE/extension.sum"
SOCKET="$(socket_dir "run-$PG")"
PORT=54$PG

psql_in() {
    local db="$1"
    shift
    as_server "$BINDIR/psql" -X -q -v ON_ERROR_STOP=1 -h "$SOCKET" -p "$PORT" -U postgres -d "$db" "$@" >&2
}
running() { as_server "$BINDIR/pg_ctl" -D "$DATA" status >/dev/null 2>&1; }
stop() {
    running || return 0
    as_server "$BINDIR/pg_ctl" -D "$DATA" -m fast -w stop >/dev/null
    say "stopped the cluster in $BASE"
}
remove() {
    stop
    rm -rf "$BASE"
}

sum_of() { cat "$@" | cksum | tr -d '\n'; }
library_sum() { sum_of "$("$PG_CONFIG" --pkglibdir)/colcrypt.so" "$BINDIR/colcrypt"; }
sql_sum() { sum_of "$("$PG_CONFIG" --sharedir)"/extension/colcrypt--*.sql; }

create() {
    say "creating a cluster in $BASE"
    rm -rf "$BASE"
    mkdir -p "$BASE"
    if is_root; then chown postgres "$BASE"; fi
    as_server "$BINDIR/initdb" -D "$DATA" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null
    # Nothing here outlives the machine, so it may skip fsync; the rest lets 200,000 rows move without a checkpoint.
    as_server tee -a "$DATA/postgresql.conf" >/dev/null <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$SOCKET'
		port = $PORT
		shared_preload_libraries = 'colcrypt'
		fsync = off
		synchronous_commit = off
		full_page_writes = off
		shared_buffers = 256MB
		max_wal_size = 4GB
		checkpoint_timeout = 30min
		wal_level = replica
		log_line_prefix = '%m [%p] %b '
	CONF
    # The root of trust of this cluster. The extension never makes one by itself, so this step does.
    local said
    said="$(as_server "$BINDIR/colcrypt" keygen --out "$KEY" 2>&1)" || die "$said"
    sql_sum >"$STAMP.sql"
}

start() {
    [ -f "$("$PG_CONFIG" --pkglibdir)/colcrypt.so" ] || die "the extension is not installed: run 'make install PG=$PG'"
    if [ -f "$STAMP.sql" ] && [ "$(cat "$STAMP.sql")" != "$(sql_sum)" ]; then
        say "the extension's SQL has changed since this cluster was made: making a new one"
        remove
    fi
    if running && [ "$(cat "$STAMP" 2>/dev/null)" != "$(library_sum)" ]; then
        say "the extension was rebuilt since this cluster started: restarting"
        stop
    fi
    if [ ! -f "$DATA/PG_VERSION" ] || [ ! -f "$KEY" ] || [ ! -f "$STAMP.sql" ]; then create; fi
    if ! running; then
        library_sum >"$STAMP"
        if ! as_server "$BINDIR/pg_ctl" -D "$DATA" -l "$BASE/server.log" -w -t 60 start >/dev/null; then
            tail -n 20 "$BASE/server.log" >&2
            die "the server did not start; its log is $BASE/server.log"
        fi
    fi
    if ! as_server "$BINDIR/psql" -X -h "$SOCKET" -p "$PORT" -U postgres -d demo -c '' >/dev/null 2>&1; then
        psql_in postgres -c 'CREATE DATABASE demo'
    fi
    psql_in demo -c 'SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS colcrypt'
    say "cluster ready; log: $BASE/server.log, root key file: $KEY"
}

assignments() {
    printf 'PGHOST=%q\nPGPORT=%q\nPGUSER=postgres\nPGDATABASE=demo\n' "$SOCKET" "$PORT"
}

command="${1:-}"
shift || true
case "$command" in
start)
    start
    assignments
    ;;
psql)
    start
    exec env PGHOST="$SOCKET" PGPORT="$PORT" PGUSER=postgres PGDATABASE="${PGDATABASE:-demo}" "$BINDIR/psql" "$@"
    ;;
stop) stop ;;
remove) remove ;;
*) die "usage: cluster.sh start|psql|stop|remove" ;;
esac
