#!/usr/bin/env bash
# Installs what the suites' applications stand on, the drivers psycopg 2 and 3, asyncpg and node-postgres, and Django,
# SQLAlchemy, Sequelize, Knex and Drizzle, into target/tools/drivers: pinned by version and hash, from PyPI and npm, by
# root or by a normal user, and only once. Java and its driver are Debian's, and so is pgbouncer, which is unpacked only:
# installed it would start as a service.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# The driver's C part comes for each Python; pip takes the one that fits.
requirements='asgiref==3.13.0 --hash=sha256:f9596a2434512686473d50f96ff6207fbba49ae1a785dfac614df4aeb085674d
asyncpg==0.32.0 --hash=sha256:968c570c5913b7ce0995953d7239bd2367142d1af4359f87699f7a6ca75c4382 --hash=sha256:54851411bee2aa51a30d0911524201fbb05f82cc0f7c248b140203db637c723d --hash=sha256:4cec40b66a36b14921c155db78631cd96ed00e225fdf38dd5532e9aef350a498 --hash=sha256:63417b8f7369c54f6754c1fbd5a2968fbe632ff55bfbedd56a0177b6a96bd251
django==5.2.19 --hash=sha256:5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00
psycopg==3.3.9 --hash=sha256:d2d7d04a1ce6dab4f5b27316bea3b52585cafa2f2d631e5b09dd69823f5c26f6
psycopg-binary==3.3.9 --hash=sha256:0953c1b94c73f97efce5b8fb1dad85cf5e4085b94902e439e27e6805ebc8be99 --hash=sha256:a99f0b9a19ed7a56bf5d6776456b8f15f5364db8853b0f5d184db394a45c391d --hash=sha256:180e4a99904d7a77f826fbb6dd16834bb3313675d8a6f055e39742fda00c33dc --hash=sha256:4992acd5a7479013d52615b8c23fdce9bc22f3cacbfb1007fa474e6b5ebe94c7
psycopg2-binary==2.9.13 --hash=sha256:930e7e58b33a4f9c39e7532d7a40147925cf3372baed4229cbebe0cf3ba9ce6b --hash=sha256:e3861eba31f8ea8663fd876166b032fd89179e42aa63764d6feb281f13f9eb60 --hash=sha256:f04ada42bcd537adbaf8b7f3140237a204e452a88d0c1831cfce69f7d2e59f4e --hash=sha256:190c18b97d9ef72f2e88c451b6588af90d6bd7bf54cb94b963280dc86a2c7076
sqlalchemy==2.1.9 --hash=sha256:449fed5c2caa3b278cc57499d09db001fb3f28dc7f18affc48142aee4dcc0cdf
sqlparse==0.6.1 --hash=sha256:3be5a72d04c873d690d7c6dedd33d6fae2ef82759881ceec02fc2efd0cba564f
typing_extensions==4.16.0 --hash=sha256:481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8'

tools="$ROOT/target/tools"
drivers="$tools/drivers"
locked="$ROOT/tests/drivers"
stamp="$(printf '%s\n' "$requirements" pgbouncer && cat "$locked/package-lock.json" && python3 --version)"

missing=()
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
# A program in one source file is compiled as it is run, which the runtime alone does not do.
command -v javac >/dev/null || missing+=(default-jdk-headless)
[ -e /usr/share/java/postgresql.jar ] || missing+=(libpostgresql-jdbc-java)
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    if ! is_root && ! command -v sudo >/dev/null; then
        die "not root and no sudo: have an administrator run 'apt-get install ${missing[*]}'"
    fi
    as_admin env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    as_admin env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" \
        </dev/null >&2
fi

if [ "$(cat "$drivers/stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

mkdir -p "$tools"
# Beside its destination, so that the last step is a rename and a run cut short leaves nothing half made.
work="$(mktemp -d "$tools/drivers.XXXXXX")"
trap 'rm -rf "$work"' EXIT

printf '%s\n' "$requirements" >"$work/requirements.txt"
python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
    --require-hashes --target "$work/python" --requirement "$work/requirements.txt" >&2
PYTHONPATH="$work/python" python3 -c 'import psycopg; assert psycopg.pq.__impl__ == "binary"; import asyncpg, django, psycopg2, sqlalchemy'

cp "$locked/package.json" "$locked/package-lock.json" "$work/"
npm ci --prefix "$work" --loglevel error --ignore-scripts --no-audit --no-fund --cache "$work/cache" >&2
rm -rf "$work/cache"
NODE_PATH="$work/node_modules" node -e 'require("pg"); require("sequelize"); require("knex"); require("drizzle-orm/node-postgres")'

mkdir "$work/packed" "$work/pgbouncer"
(cd "$work/packed" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download pgbouncer libevent-2.1-7 libc-ares2 >&2) ||
    die "apt cannot fetch pgbouncer: run 'apt-get update'"
for package in "$work/packed"/*.deb; do dpkg-deb --extract "$package" "$work/pgbouncer"; done
rm -rf "$work/packed"

printf '%s\n' "$stamp" >"$work/stamp"
chmod -R go+rX "$work"
rm -rf "$drivers"
mv "$work" "$drivers"
trap - EXIT
say "installed psycopg, asyncpg, node-postgres, Django, SQLAlchemy, Sequelize, Knex, Drizzle and pgbouncer in $drivers"
