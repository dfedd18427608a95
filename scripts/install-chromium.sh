#!/usr/bin/env bash
# Chromium without a window, and fonts to look at: for the test that sees a report as its reader does, so for tests only.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

missing=()
command -v chromium-headless-shell >/dev/null || missing+=(chromium-headless-shell)
[ -d /usr/share/fonts/truetype/liberation ] || missing+=(fonts-liberation)
[ "${#missing[@]}" = 0 ] && exit 0

say "installing ${missing[*]}"
if ! is_root && ! command -v sudo >/dev/null; then
    die "not root and no sudo: have an administrator run 'apt-get install ${missing[*]}'"
fi
as_admin env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
as_admin env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >&2
chromium-headless-shell --version >&2
