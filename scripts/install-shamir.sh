#!/usr/bin/env bash
# Installs shamir-mnemonic, SLIP-39's reference implementation, which reads our shares in tests as we read its, into
# target/tools/shamir: pinned by version and hash, from PyPI through pip, by root or by a normal user, and only once.
set -euo pipefail

requirements='shamir-mnemonic==0.3.0 --hash=sha256:188c6b5bd00d5e756e12e2b186c3cb7c98ff7ff44df608d4c1d2077f6b6e730f'

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
tools="$root/target/tools"
package="$tools/shamir"

if [ "$(cat "$package/requirements.txt" 2>/dev/null)" = "$requirements" ]; then
    exit 0
fi

mkdir -p "$tools"
# Beside its destination, so that the last step is a rename and a run cut short leaves nothing half made.
work="$(mktemp -d "$tools/shamir.XXXXXX")"
trap 'rm -rf "$work"' EXIT

printf '%s\n' "$requirements" >"$work/requirements.txt"
python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
    --platform any --implementation py --abi none --require-hashes --target "$work" --requirement "$work/requirements.txt"
PYTHONPATH="$work" python3 -c 'import shamir_mnemonic'

chmod -R go+rX "$work"
rm -rf "$package"
mv "$work" "$package"
trap - EXIT
echo "installed shamir-mnemonic as $package" >&2
