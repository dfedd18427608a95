#!/usr/bin/env bash
# The tests on every supported PostgreSQL, one after the other, with a line for each at the end.
# test-all.sh full    15 with everything, the others with all that runs a server
# test-all.sh smoke   16, 17 and 18, or those in $SMOKE_ON, with the tests below
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
unset RUST_BACKTRACE

what="${1:-}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
FIGURES=()
failed=()

# on VERSION COMMAND…: runs it for that PostgreSQL and counts.
on() {
    local version="$1" status=0
    shift
    say "== PostgreSQL $version"
    for_postgres "$version" "$@" 2>&1 | tee "$log" || status=$?
    FIGURES+=("$(figures "$version")")
    [ "$status" = 0 ] || failed+=("$version")
}

figures() { # version; reads the log
    awk -v version="$1" '
        /^test result:/ { passed += $4; failed += $6; ignored += $8 }
        /^left out:/ { sub(/^left out: /, ""); sub(/, so /, " ("); sub(/ of the tests.*/, " tests)"); lacks = lacks "; " $0 }
        END { printf "PostgreSQL %s: %d passed, %d failed, %d ignored%s\n", version, passed, failed, ignored, lacks }' "$log"
}

# Building and testing, by one PostgreSQL's own settings.
integration() { # [test.sh arguments]
    scripts/install-extension.sh
    scripts/test.sh integration "$@"
}
export -f integration

# What depends on the server's version, and little else: each name stands for a part of us that calls PostgreSQL where its
# releases differ, or hooks into it.
SMOKE=(
    # What only newer servers have; what older ones must refuse. Asynchronous reads.
    server::newer:: server::reading::
    # The script of CREATE EXTENSION, what its functions are declared for, updates from earlier releases.
    server::extension:: server::releases::
    # Planner and parser: statements on access views made statements on the table, with INSERT, UPDATE, DELETE, RETURNING.
    columns::access_rewrite:: columns::access_write::
    # COPY into a view, through our own utility hook and the server's COPY.
    columns::access_copy::
    # The utility hook: renamings are followed before and after the server has done them.
    columns::renamed::
    # Types by their own send and receive functions; enforced columns.
    columns::values::every_type_comes_back columns::enforced::
    # Conditions on terms in plans, whose hook and nodes differ; indexes made concurrently, and what a random query has with them and without.
    columns::search::plans:: columns::search::rechecks:: columns::readers:: columns::search::differential:: columns::search::build:: columns::search::copies::code_that columns::search::keyless:: columns::search::rests::
    # Rows that leave for another partition, as the heap marks them; who may see terms compared.
    columns::search::attacks::a_partitions columns::search::guesses::
    # Executor and parallel workers, plans that are kept.
    creation::parallel_workers effect::a_suspension_reaches_parallel wiped::parallel_workers
    # Workers and the heap: rows written in place with their indexes, a migration there and back.
    jobs::rewriting:: jobs::moving:: migration::in_place::there_and_back
    # Replication, logical and physical; pg_dump.
    server::copies::a_subscriber server::replicas::
    # Relations held by OID against swaps (security), rows that are out of reach: planner hook and table access methods (faults).
    swapped:: out_of_reach::
    # Broker, slab and shared memory at the death of processes.
    broker:: slab::many
)

# All at once, since what is built for one is built again when pgrx is told of another.
for version in 15 16 17 18; do for_postgres "$version" scripts/setup.sh; done

case "$what" in
full)
    on 15 make test PG=15
    for version in 16 17 18; do
        on "$version" make test-pgrx test-integration "PG=$version"
    done
    ;;
smoke)
    for version in ${SMOKE_ON:-16 17 18}; do
        on "$version" bash -euo pipefail -c 'integration "$@"' smoke --test sql --test security --test faults -- "${SMOKE[@]}"
    done
    ;;
*) die "usage: test-all.sh full|smoke" ;;
esac

printf '%s\n' "${FIGURES[@]}"
[ "${#failed[@]}" = 0 ] || die "failed on PostgreSQL ${failed[*]}"
