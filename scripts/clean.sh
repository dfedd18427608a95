#!/usr/bin/env bash
# Removes everything built and every private cluster of this checkout. Installed extension files stay.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

for PG in 15 16 17 18; do
    [ -d "target/cluster-$PG" ] || [ -d "/var/tmp/colcrypt-$(checkout_id)/cluster-$PG" ] || continue
    PG=$PG scripts/cluster.sh remove || say "could not remove the cluster of PostgreSQL $PG"
done
rm -rf target "/var/tmp/colcrypt-$(checkout_id)" "/tmp/colcrypt-$(checkout_id)"
