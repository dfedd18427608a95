#!/usr/bin/env bash
# Builds Debian packages of the extension for PostgreSQL $PG and of the `colcrypt` program, each with a list of what is in it
# (CycloneDX), and holds them to lintian. REVISION=1 is the number after the release's in their version; DEBFULLNAME and DEBEMAIL
# say who packages, otherwise the last commit does. PROFILE=debug packages the build that the tests use, which is not for others
# and is there in seconds.
# package.sh [FOLDER]   by default target/package
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres
cd "$ROOT"

CYCLONEDX_VERSION=0.5.9
# CycloneDX's own library, which has its schemas.
CYCLONEDX_SCHEMAS=11.12.0
DEBIAN_TOOLS=(debhelper dh-apparmor lintian apparmor dpkg-dev fakeroot)

version="$(workspace_version)"
revision="$version-${REVISION:-1}"
architecture="$(dpkg --print-architecture)"
out="${1:-$TARGET/package}"
tools="$TARGET/tools/packaging"
work="$TARGET/package-build"

install_debian_tools() {
    local missing=() package
    for package in "${DEBIAN_TOOLS[@]}"; do
        dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    say "installing ${missing[*]}"
    as_admin env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    as_admin env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" \
        </dev/null >&2
}

install_cyclonedx() {
    [ "$("$tools/bin/cargo-cyclonedx" cyclonedx --version 2>/dev/null)" = "cargo-cyclonedx-cyclonedx $CYCLONEDX_VERSION" ] && return
    say "building cargo-cyclonedx $CYCLONEDX_VERSION (about a minute, once)"
    CARGO_TARGET_DIR="$tools/build" cargo install --quiet --locked --debug --root "$tools" cargo-cyclonedx \
        --version "$CYCLONEDX_VERSION" >&2
    rm -rf "$tools/build"
}

install_cyclonedx_schemas() {
    [ -d "$tools/python/cyclonedx_python_lib-$CYCLONEDX_SCHEMAS.dist-info" ] && return
    "$ROOT/scripts/setup-python.sh"
    rm -rf "$tools/python"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-warn-conflicts --target "$tools/python" \
        "cyclonedx-python-lib[json-validation]==$CYCLONEDX_SCHEMAS" >&2
}

# The description for PGXN has what its specification asks for, and is of this release.
check_meta() {
    python3 - "$version" <<-'PYTHON'
		import json, os, sys
		meta = json.load(open("META.json"))
		for field in ("name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"):
		    if not meta.get(field):
		        sys.exit(f"error: META.json has no {field}, which PGXN asks for")
		extension = meta["provides"]["colcrypt"]
		if {meta["version"], extension["version"]} != {sys.argv[1]}:
		    sys.exit(f"error: META.json is of {meta['version']}, Cargo.toml of {sys.argv[1]}")
		for file in (extension["file"], extension["docfile"]):
		    if not os.path.exists(file):
		        sys.exit(f"error: META.json names {file}, which there is not")
	PYTHON
}

# In a copy, since cargo-cyclonedx writes beside each Cargo.toml.
bills_of_materials() {
    local copy="$work/sources" file
    mkdir -p "$copy"
    git ls-files --cached --others --exclude-standard -z | while IFS= read -r -d '' file; do
        if [ -f "$file" ]; then printf '%s\0' "$file"; fi
    done | xargs -0 cp --parents -t "$copy"
    # shellcheck disable=SC2046  # two options, split on purpose
    (cd "$copy" && "$tools/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --all \
        --no-build-deps $(cargo_features) >&2)
    mv "$copy/colcrypt.cdx.json" "$out/postgresql-$PG-colcrypt_${revision}_$architecture.cdx.json"
    mv "$copy/crates/cli/colcrypt-cli.cdx.json" "$out/colcrypt_${revision}_$architecture.cdx.json"
    PYTHONPATH="$tools/python" python3 - "$out/"*"_${revision}_$architecture.cdx.json" <<-'PYTHON'
		import json, sys
		from cyclonedx.schema import OutputFormat, SchemaVersion
		from cyclonedx.validation import make_schemabased_validator
		schema = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_5)
		for file in sys.argv[1:]:
		    fault = schema.validate_str(open(file).read())
		    if fault:
		        sys.exit(f"error: {file} is no CycloneDX 1.5: {fault}")
		    bill = json.load(open(file))
		    names = {component["name"] for component in bill["components"]}
		    unnamed = [c["name"] for c in bill["components"] if not c.get("version") or not c.get("licenses")]
		    if bill["bomFormat"] != "CycloneDX" or not {"aws-lc-rs", "colcrypt-core"} <= names or unnamed:
		        sys.exit(f"error: {file}: not whole ({bill['bomFormat']}, {len(names)} components, without a licence: {unnamed})")
	PYTHON
}

changelog() {
    local first
    first="$(git log --diff-filter=A --format=%aD -- sql/releases/colcrypt--0.1.0.sql | tail -n 1)"
    printf 'colcrypt (%s) unstable; urgency=medium\n\n  * Release %s. What is new is in changelog.gz beside this file.\n\n -- %s  %s\n\n' \
        "$revision" "$version" "$maintainer" "$(git log -1 --format=%aD)"
    printf 'colcrypt (0.1.0-1) unstable; urgency=medium\n\n  * First release.\n\n -- %s  %s\n' \
        "$maintainer" "${first:-Thu, 01 Jan 2026 00:00:00 +0000}"
}

# debian/ for this PostgreSQL.
lay_out_debian() {
    local file name
    mkdir -p debian/source
    for file in "$ROOT/packaging/debian/"* "$ROOT/packaging/debian/source/format"; do
        [ -f "$file" ] || continue
        name="${file#"$ROOT/packaging/debian/"}"
        sed "s|@PG@|$PG|g; s|@VERSION@|$revision|g; s|@MAINTAINER@|$maintainer|g" "$file" >"debian/${name/postgresql-PG/postgresql-$PG}"
    done
    chmod +x debian/rules
    changelog >debian/changelog
}

install_debian_tools
install_cyclonedx
install_cyclonedx_schemas
check_meta
apparmor_parser --skip-kernel-load --skip-cache packaging/usr.lib.colcrypt.agent >&2

maintainer="${DEBFULLNAME:-$(git log -1 --format=%an)} <${DEBEMAIL:-$(git log -1 --format=%ae)}>"
rm -rf "$work" "$out"
package="$work/colcrypt-$version"
mkdir -p "$out" "$package/built/"{pages,completions,systemd}
profile=()
case "${PROFILE:-release}" in
release) profile=(--release) ;;
debug) export DEB_BUILD_OPTIONS=noautodbgsym COMPRESSION=-z1 ;;
*) die "PROFILE=$PROFILE: release or debug" ;;
esac
scripts/build-extension.sh "${profile[@]}" "$package/built"
bills_of_materials

"$package/built/colcrypt" pages --out "$package/built/pages"
mv "$package/built/pages/colcrypt.bash" "$package/built/completions/colcrypt"
mv "$package/built/pages/_colcrypt" "$package/built/pages/colcrypt.fish" "$package/built/completions/"
cp packaging/agent packaging/usr.lib.colcrypt.agent "$package/built/"
cp packaging/postgresql@.service.conf "$package/built/systemd/colcrypt.conf"
cp -r packaging/examples "$package/built/"
cp CHANGELOG.md "$package/"
cd "$package"
lay_out_debian
for name in colcrypt "postgresql-$PG-colcrypt"; do
    (cd "$ROOT" && python3 scripts/licences.py "$out/${name}_${revision}_$architecture.cdx.json") >"debian/$name.copyright"
done
dpkg-buildpackage --build=binary --no-sign --no-check-builddeps >"$work/dpkg-buildpackage.log" 2>&1 || {
    tail -n 40 "$work/dpkg-buildpackage.log" >&2
    die "dpkg-buildpackage failed"
}
lintian --allow-root --fail-on error,warning "$work/"*.changes >&2 ||
    die "lintian found faults"

# What CloudNativePG mounts is the same files in other places; extension_control_path is new in PostgreSQL 18.
if [ "$PG" -ge 18 ]; then
    image="$out/image"
    mkdir -p "$image/"{lib,share,bin}
    cp "debian/postgresql-$PG-colcrypt/usr/lib/postgresql/$PG/lib/colcrypt.so" "$image/lib/"
    cp -r "debian/postgresql-$PG-colcrypt/usr/share/postgresql/$PG/extension" "$image/share/"
    cp debian/colcrypt/usr/bin/colcrypt "$image/bin/"
    cp "$ROOT/packaging/Containerfile" "$image/"
fi
mv "$work/"*.deb "$work/"*.changes "$work/"*.buildinfo "$out/"
rm -rf "$work"
say "in $out:"
ls -sh "$out" >&2
