#!/usr/bin/env bash
# Installs PyKMIP, the KMIP server that the tests run against, and what it needs into target/tools/pykmip: pinned by
# version and hash, from PyPI through pip, by root or by a normal user, and only once. Wheels without machine code,
# so the same everywhere; the package `cryptography` is the system's (setup-python.sh).
set -euo pipefail

requirements='certifi==2026.10.18 --hash=sha256:73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62
charset_normalizer==3.5.2 --hash=sha256:b6b751274acb69d77b3323d6b7dbaa3c7fdfc1eb829b7eb61d262f32e1af9685
idna==3.20 --hash=sha256:ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c
PyKMIP==0.11.0 --hash=sha256:ad69c0773e1ebbd20aead1ceead47627d6121aa11263c80b7130d5671998a96d
requests==2.34.2 --hash=sha256:2a0d60c172f83ac6ab31e4554906c0f3b3588d37b5cb939b1c061f4907e278e0
six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274
SQLAlchemy==2.0.58 --hash=sha256:cc1b78ba0ed1f32156d1582f94ca4aca74633e4dcdde3eb1562dd4742493f594
typing_extensions==4.16.0 --hash=sha256:481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8
urllib3==2.8.0 --hash=sha256:0cf3cae568d36aa9576b28dfb35f11328f1cb974ca7647d9475ebb86c75ac6e3'

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
tools="$root/target/tools"
package="$tools/pykmip"

if [ "$(cat "$package/requirements.txt" 2>/dev/null)" = "$requirements" ]; then
    exit 0
fi

mkdir -p "$tools"
# Beside its destination, so that the last step is a rename and a run cut short leaves nothing half made.
work="$(mktemp -d "$tools/pykmip.XXXXXX")"
trap 'rm -rf "$work"' EXIT

printf '%s\n' "$requirements" >"$work/requirements.txt"
python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
    --platform any --implementation py --abi none --require-hashes --target "$work" --requirement "$work/requirements.txt"
PYTHONPATH="$work" python3 -c 'import kmip.services.server.session'

chmod -R go+rX "$work"
rm -rf "$package"
mv "$work" "$package"
trap - EXIT
echo "installed PyKMIP as $package" >&2
