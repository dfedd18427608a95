#!/usr/bin/env bash
# cargo's RUSTC_WORKSPACE_WRAPPER for a whole check: clippy's driver is the compiler with more lints, so it compiles our crates for the
# tests and judges them at once. `cargo clippy` would first go through every dependency by itself, ten minutes of a slow machine.
for argument in "$@"; do
    case "$argument" in
    # Bindings differ: what the oldest headers want, others call needless. It is judged once, for 15.
    'feature="pg16"' | 'feature="pg17"' | 'feature="pg18"') exec clippy-driver "$@" -A warnings ;;
    esac
done
exec clippy-driver "$@" -D warnings
