#!/usr/bin/env bash
# Unpacks Patroni with what its Python code needs, etcd and pgBackRest into target/tools/patroni: Debian's packages, which
# apt fetches by name and checks. Installed into the system they would start as services.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

PACKAGES=(patroni python3-etcd etcd-server pgbackrest)
PYTHON=/usr/bin/python3
tools="$ROOT/target/tools"
folder="$tools/patroni"
[ -e "$folder/done" ] && exit 0

mkdir -p "$tools"
work="$(mktemp -d "$tools/patroni.XXXXXX")"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/packed/partial"

# They are Debian's, and so is the Python that they were made for.
if [ ! -x "$PYTHON" ]; then
    as_admin env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    as_admin env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3 </dev/null >&2
fi

say "fetching ${PACKAGES[*]}"
# With what they depend on and this machine has not, into a folder of our own.
fetch() {
    apt-get -qq -y -o "Dir::Cache::archives=$work/packed" -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" \
        install --download-only --no-install-recommends "${PACKAGES[@]}" </dev/null >&2
}
# The lists may be older than what the archive has now.
if ! fetch; then
    if is_root || command -v sudo >/dev/null; then as_admin apt-get update -qq >&2; fi
    fetch || die "apt cannot fetch ${PACKAGES[*]}: run 'apt-get update'"
fi
for package in "$work/packed"/*.deb; do dpkg-deb --extract "$package" "$work/tree"; done
mkdir "$work/bin"
mv "$work/tree/usr/bin/etcd" "$work/tree/usr/bin/patroni" "$work/tree/usr/bin/pgbackrest" "$work/bin/"
mv "$work/tree/usr/lib/python3/dist-packages" "$work/python"
rm -rf "$work/tree" "$work/packed"
"$work/bin/etcd" --version >/dev/null || die "Debian's etcd does not run here"
"$work/bin/pgbackrest" version >/dev/null || die "Debian's pgBackRest does not run here"
PYTHONPATH="$work/python" "$PYTHON" -c 'import patroni.dcs.etcd3, psycopg2, psutil' || die "Debian's Patroni does not run here"

touch "$work/done"
chmod -R go+rX "$work"
rm -rf "$folder"
mv "$work" "$folder"
trap - EXIT
say "unpacked Patroni, etcd and pgBackRest into $folder"
