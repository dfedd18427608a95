#!/usr/bin/env bash
# Unpacks Prometheus with promtool, and the exporters of PostgreSQL and of SQL, into target/tools/prometheus: Debian's
# packages, which apt fetches by name and checks. Installed into the system they would start as services.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

PACKAGES=(prometheus prometheus-postgres-exporter prometheus-sql-exporter)
tools="$ROOT/target/tools"
folder="$tools/prometheus"
[ -e "$folder/done" ] && exit 0

mkdir -p "$tools"
work="$(mktemp -d "$tools/prometheus.XXXXXX")"
trap 'rm -rf "$work"' EXIT
mkdir "$work/packed" "$work/tree"

say "fetching ${PACKAGES[*]}"
fetch() { (cd "$work/packed" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "${PACKAGES[@]}" >&2); }
# The lists may be older than what the archive has now.
if ! fetch; then
    if is_root || command -v sudo >/dev/null; then as_admin apt-get update -qq >&2; fi
    fetch || die "apt cannot fetch ${PACKAGES[*]}: run 'apt-get update'"
fi
for package in "$work/packed"/*.deb; do dpkg-deb --extract "$package" "$work/tree"; done
mkdir "$work/bin"
for program in prometheus promtool prometheus-postgres-exporter prometheus-sql-exporter; do
    mv "$work/tree/usr/bin/$program" "$work/bin/"
done
rm -rf "$work/tree" "$work/packed"
"$work/bin/promtool" --version >/dev/null 2>&1 || die "Debian's promtool does not run here"

touch "$work/done"
chmod -R go+rX "$work"
rm -rf "$folder"
mv "$work" "$folder"
trap - EXIT
say "unpacked Prometheus and its exporters into $folder"
