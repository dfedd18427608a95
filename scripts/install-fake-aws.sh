#!/usr/bin/env bash
# Builds the server that stands in for AWS in the tests, into target/tools/fake-aws: a package of its own with its
# own lock file, since what it is made of (AGPL) must not get into a build of colcrypt. Two minutes once, then at once.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"

# A caller's flags, such as those of a coverage run, would only build it anew.
cd "$root/tests/fake-aws"
env -u RUSTFLAGS cargo build --quiet --locked --target-dir "$root/target/tools/fake-aws"
