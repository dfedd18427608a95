#!/usr/bin/env bash
# Python with pip and the package `cryptography`: for the independent reader and the key server's wheel, so for tests only.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

ready() { python3 -c 'import cryptography' 2>/dev/null && python3 -m pip --version >/dev/null 2>&1; }
ready && exit 0

say "installing python3, python3-pip, python3-cryptography"
if ! is_root && ! command -v sudo >/dev/null; then
    die "not root and no sudo: have an administrator run 'apt-get install python3-pip python3-cryptography'"
fi
as_admin env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
as_admin env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    python3 python3-pip python3-cryptography </dev/null >&2
ready || die "the python3 in PATH ($(command -v python3)) has no package cryptography: pip install cryptography"
