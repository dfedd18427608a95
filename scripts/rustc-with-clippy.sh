#!/usr/bin/env bash
# cargo's RUSTC_WORKSPACE_WRAPPER for a whole check: clippy's driver is the compiler with more lints, so it compiles our crates for the
# tests and judges them at once. `cargo clippy` would first go through every dependency by itself, ten minutes of a slow machine.
exec clippy-driver "$@" -D warnings
