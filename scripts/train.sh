#!/usr/bin/env bash
# Has an instrumented library do what applications do, and merges what it wrote down into a profile: how often each branch was
# taken. By it the compiler lays out the release, so that what a look-up runs through lies together and what it never does, elsewhere.
# train.sh LIBRARY PROGRAM EXTENSION_FOLDER PROFILE
# The server is a copy, so that nothing of the machine's own is replaced.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres
library="$1" program="$2" extension="$3" profile="$4"

work="$(mktemp -d "$(state_dir)/train.XXXXXX")"
tree="$(dirname "$BINDIR")" share="$("$PG_CONFIG" --sharedir)" packages="$("$PG_CONFIG" --pkglibdir)"
bin="$work$BINDIR"
# Each process writes its counts where the server may: its own user may not into every checkout.
from_copy() { as_server env LD_LIBRARY_PATH="$work/libraries" LLVM_PROFILE_FILE="$work/counts/%m.profraw" "$@"; }
stop() {
    if [ -f "$work/data/postmaster.pid" ]; then from_copy "$bin/pg_ctl" -D "$work/data" -m fast -w stop >/dev/null || true; fi
    rm -rf "$work"
}
trap stop EXIT

for directory in "$tree" "$share"; do
    if [ -d "$work$directory" ]; then continue; fi
    mkdir -p "$work$(dirname "$directory")"
    cp -RL "$directory" "$work$directory"
done
# What a copy does not find beside itself, as programs of a wheel do not.
mkdir "$work/libraries"
for name in initdb pg_ctl postgres psql pgbench; do
    if ldd "$bin/$name" | grep -q 'not found'; then
        ldd "$BINDIR/$name" | sed -n 's|.* => \(/[^ ]*\) .*|\1|p' | grep -Ev '^/(usr/)?lib' | xargs -r cp -Lt "$work/libraries"
    fi
done
install -m 0755 "$library" "$work$packages/colcrypt.so"
install -m 0755 "$program" "$bin/colcrypt"
cp "$extension"/* "$work$share/extension/"
cp -r "$ROOT/scripts/training" "$work/training"
mkdir "$work/counts"
if is_root; then chown -R postgres "$work"; fi
chmod -R u+rwX,go-rwx "$work"

socket="$(socket_dir train)"
from_copy "$bin/colcrypt" keygen --out "$work/root.key" >/dev/null
from_copy "$bin/initdb" -D "$work/data" -U postgres --no-sync -A trust >/dev/null
from_copy "$bin/pg_ctl" -D "$work/data" -l "$work/log" -w start >/dev/null \
    -o "-c listen_addresses='' -c unix_socket_directories='$socket' -c port=5433 -c fsync=off -c shared_preload_libraries=colcrypt" \
    -o "-c colcrypt.job_share=100" || {
    tail -n 20 "$work/log" >&2
    die "the server for the training does not start"
}
asked=(-h "$socket" -p 5433 -U postgres)
run_sql() { from_copy env -C "$work" "$bin/psql" "${asked[@]}" -Xqo /dev/null "${@:2}" -f "training/$1"; }
jobs() { from_copy "$bin/psql" "${asked[@]}" -XAtc "SELECT count(*) FROM colcrypt.job WHERE phase $1"; }
wait_for_jobs() {
    local open since=$SECONDS
    while open="$(jobs "NOT IN ('done', 'failed', 'cancelled')")" && [ "$open" != 0 ]; do
        if [ $((SECONDS - since)) -gt 300 ]; then die "a job of the training does not end"; fi
        sleep 0.2
    done
    if [ "$open" != 0 ] || [ "$(jobs "<> 'done'")" != 0 ]; then
        tail -n 20 "$work/log" >&2
        die "a job of the training has failed, or its server has ended"
    fi
}
run_sql tables.sql -v "key_file=$work/root.key"
wait_for_jobs
run_sql bulk.sql
wait_for_jobs
# What is taken seldom beside other things counts as never: so there are few rows, and many statements of one.
for script in find read write; do
    from_copy env -C "$work" "$bin/pgbench" "${asked[@]}" -n -M prepared -t 20000 -f "training/$script.pgbench" >"$work/pgbench.log" 2>&1 ||
        { tail -n 5 "$work/pgbench.log" >&2; die "training/$script.pgbench failed"; }
done
# Counts are written when a process ends.
from_copy "$bin/pg_ctl" -D "$work/data" -m fast -w stop >/dev/null
"$(profdata)" merge -o "$profile" "$work/counts"/*.profraw
