#!/usr/bin/env bash
# Installs the packages on an empty Debian as docs/install.md says, has a first value encrypted and read within two minutes,
# updates a database of the first release, upgrades, removes and purges them.
# PG=15 is tried on Debian 12, PG=17 on Debian 13. PACKAGES=FOLDER takes packages that are there instead of building them;
# PROFILE=debug tries those of the build that the tests use.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
case "$PG" in
15) suite=bookworm ;;
17) suite=trixie ;;
*) die "PG=$PG: no Debian has it; packages are tried for 15 (Debian 12) and 17 (Debian 13)" ;;
esac
is_root || die "an empty Debian is made and entered by root: run 'sudo make test-package'"

if ! command -v mmdebstrap >/dev/null; then
    env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends mmdebstrap </dev/null >&2
fi

packages="${PACKAGES:-}"
if [ -z "$packages" ]; then
    packages="$TARGET/package"
    stage "make package" scripts/package.sh "$packages"
fi

# Not on /tmp, which may be mounted without devices.
debian="$(mktemp -d /var/tmp/colcrypt-debian.XXXXXX)"
trap 'rm -rf --one-file-system "$debian"' EXIT
chmod 0755 "$debian"
stage "an empty $suite" mmdebstrap --quiet --mode=root --variant=minbase "$suite" "$debian/root"
cp /etc/resolv.conf "$debian/root/etc/resolv.conf"
# What a person answers; apt's own user cannot read root's folder; nothing that is only recommended; and, as in Debian's own
# container images, no wait for the disk after each file.
cat >"$debian/root/etc/apt/apt.conf.d/test" <<-'APT'
	APT::Get::Assume-Yes "true";
	APT::Sandbox::User "root";
	APT::Install-Recommends "false";
	Dpkg::Options { "--force-unsafe-io"; };
APT

test="$debian/root/root/test"
mkdir -p "$test/packages" "$test/upgrade"
cp "$packages/"*.deb "$test/packages/"
rm -f "$test/packages/"*-dbgsym_*.deb
cp docs/install.md README.md scripts/test-package-inside.sh "$test/"
for package in "$test/packages/colcrypt_"*.deb "$test/packages/postgresql-$PG-colcrypt_"*.deb; do
    # The same with a higher version, in whose scripts it stands, too.
    dpkg-deb --raw-extract "$package" "$debian/later"
    version="$(dpkg-deb --field "$package" Version)"
    sed -i "s/$version/$version.1/" "$debian/later/DEBIAN/"{control,postinst}
    dpkg-deb --build --root-owner-group -z1 "$debian/later" "$test/upgrade/$(basename "$package")" >&2
    rm -rf "$debian/later"
    dpkg-deb --contents "$package" | awk '$1 !~ /^d/ { print substr($6, 2) }' >"$package.list"
done
# What is started there ends with it.
stage "install, upgrade, purge" unshare --mount --pid --ipc --uts --fork --kill-child --root="$debian/root" --wd=/root/test --mount-proc \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root bash ./test-package-inside.sh "$PG"
stages
