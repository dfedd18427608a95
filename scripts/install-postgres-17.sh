#!/usr/bin/env bash
# Unpacks PostgreSQL 17 into target/tools/pg17 on a Debian that has none of its own: the packages of Debian 13, fetched
# by name with apt, which checks them against Debian's keys. Nothing of them is installed into the system.
# They need a newer libc than Debian 12 has, so libc and the other libraries come along, and each program is told to use
# them: it runs by its own path, as any other, with no chroot and nothing in the environment.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "$PG" = 17 ] || die "PG=$PG: this is for 17"

RELEASE=trixie
# The server, what pgrx reads, and the libraries that its programs name, and those name in turn. Not llvm, which has 120
# MB and only compiles expressions.
PACKAGES=(postgresql-17 postgresql-client-17 postgresql-server-dev-17 libpq5 libc6 libgcc-s1 libstdc++6
    libaudit1 libbrotli1 libbsd0 libcap-ng0 libcap2 libcom-err2 libcrypt1 libedit2 libffi8 libgmp10 libgnutls30t64 libgssapi-krb5-2
    libhogweed6t64 libicu76 libidn2-0 libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 libldap2 liblz4-1 liblzma5
    libmd0 libnettle8t64 libp11-kit0 libpam0g libreadline8t64 libsasl2-2 libselinux1 libpcre2-8-0 libssl3t64 libsystemd0 libtasn1-6
    libtinfo6 libunistring5 libuuid1 libxml2 libxslt1.1 libzstd1 zlib1g)

dir="$(private_copy)"
[ -x "$dir$(system_pg_config)" ] && exit 0
[ "$(uname -m)" = x86_64 ] || die "PostgreSQL 17 is unpacked for x86_64; install it and set PG_CONFIG"

work="$dir.new"
rm -rf "$work"
mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial" "$work/packed" "$work/tree"
trap 'rm -rf "$work"' EXIT

# From where this machine's own Debian comes.
# shellcheck disable=SC2016  # apt expands it
repository="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sort | uniq -c |
    sort -rn | awk 'NR == 1 { print $2 }')"
[ -n "$repository" ] || die "apt knows no Debian: run 'apt-get update'"
printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$repository" "$RELEASE" >"$work/apt/sources.list"
: >"$work/apt/status"
own_apt() {
    apt-get -qq -o "Dir::Etc::SourceList=$work/apt/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State=$work/apt" \
        -o "Dir::State::Lists=$work/apt/lists" -o "Dir::State::Status=$work/apt/status" -o "Dir::Cache=$work/apt" \
        -o Acquire::Languages=none -o APT::Sandbox::User="$(id -un)" "$@"
}
say "fetching PostgreSQL 17 of Debian $RELEASE"
own_apt update >&2
(cd "$work/packed" && own_apt download "${PACKAGES[@]}" >&2)
for package in "$work/packed"/*.deb; do dpkg-deb --extract "$package" "$work/tree"; done
# A compiler that is there and cannot be loaded is an error; one that is not there is not asked.
rm "$work/tree/usr/lib/postgresql/17/lib/llvmjit.so"

libraries="usr/lib/x86_64-linux-gnu"
loader="$(cd "$work/tree" && find . -name ld-linux-x86-64.so.2 -path '*lib*' | sort | head -n 1)"
[ -n "$loader" ] || die "the package libc6 brought no loader"
for program in "$work/tree/usr/lib/postgresql/17/bin/"*; do
    [ "$(head -c 4 "$program" | tail -c 3)" = ELF ] || continue
    # In a form that counts for the libraries' own libraries, too, and for those that the server loads later.
    patchelf --set-interpreter "$dir/${loader#./}" --force-rpath --set-rpath "$dir/$libraries" "$program"
done
chmod -R u+rwX,go+rX "$work/tree"
rm -rf "$dir"
mv "$work/tree" "$dir"

# By the loader's own account, so that a library that is missing is named here and not in a test.
missing="$(for file in "$dir/usr/lib/postgresql/17/bin/"* "$dir/usr/lib/postgresql/17/lib/"*.so; do
    "$dir/${loader#./}" --library-path "$dir/$libraries" --list "$file" 2>/dev/null | awk -v file="$(basename "$file")" '/not found/ { print file ": " $1 }'
done)"
if [ -n "$missing" ]; then
    rm -rf "$dir"
    die "libraries are missing:"$'\n'"$missing"
fi
