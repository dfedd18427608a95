"""Builds tests with cargo, runs them with a line of progress each, and ends with the slowest ten.

    run_tests.py CARGO_TEST_ARGUMENTS… [-- TEST_ARGUMENTS…]

Each test program runs as `cargo test` would run it: in its package's folder, one after the other, but for those that leave the
processors idle: these run beside each other. Most tests wait for servers, so more of them run at once than there are processors;
COLCRYPT_TEST_THREADS or --test-threads chooses how many.
What passed without a part of itself, because the server was built without what it needs, is named at the end.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

# They wait for credentials to run out and for calls to time out.
IDLE = ("kms", "providers")
RESULT = re.compile(r"^test (.+?) \.\.\. (ok|FAILED|ignored)(?: <([0-9.]+)s>)?")
SLOWEST = 10


def build(arguments):
    """Compiles the tests. Yields each program with its package's folder and a name for people."""
    command = ["cargo", "test", "--no-run", "--message-format=json-render-diagnostics", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cargo:
        found = []
        for line in cargo.stdout:
            message = json.loads(line)
            if message.get("reason") == "compiler-artifact" and message.get("executable") and message["profile"]["test"]:
                folder = os.path.dirname(message["manifest_path"])
                found.append((message["executable"], folder, message["target"]["name"]))
    if cargo.returncode != 0:
        sys.exit(cargo.returncode)
    return found


def count(program, folder, arguments):
    """How many tests a program would run."""
    listed = subprocess.run(
        [program, "--list", "--format=terse", *(a for a in arguments if a != "--nocapture")],
        cwd=folder, capture_output=True, text=True, check=False,
    )
    return sum(line.endswith(": test") for line in listed.stdout.splitlines())


def tell_left_out(lines):
    """Says which tests went without what the server lacks, and how many for each lack."""
    tests = {}
    for line in lines:
        test, lack = line.rstrip("\n").split(": ", 1)
        tests.setdefault(lack, set()).add(test)
    for lack, which in sorted(tests.items()):
        print(f"left out: {lack}, so {len(which)} of the tests did without it:")
        for test in sorted(which):
            print(f"  {test}")


def run(program, folder, name, arguments, times, left_out, is_alone=True):
    """Runs a program, whose tests append what they left out to a file; returns whether all of them passed.

    What one says that does not run alone is printed in one piece at its end, but for a line for each test."""
    total, done, said = count(program, folder, arguments), 0, []
    if total == 0:
        return True
    print(f"running {total} tests of {name}", flush=True)
    began = time.monotonic()
    # Times of single tests are an unstable option of the test harness; the programs themselves are built as ever.
    environment = {**os.environ, "RUSTC_BOOTSTRAP": "1", "COLCRYPT_LEFT_OUT": left_out}
    command = [program, "-Zunstable-options", "--report-time", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, errors="replace") as tests:
        for line in tests.stdout:
            result = RESULT.match(line)
            if result:
                done += 1
                if result[3]:
                    times.append((float(result[3]), f"{name} {result[1]}"))
                print(f"[{done:>4}/{total}] {line}", end="", flush=True)
            elif is_alone:
                print(line, end="", flush=True)
            else:
                said.append(line)
    print("".join(said), end="", flush=True)
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return tests.returncode == 0


def run_all(programs, *rest):
    """Runs programs; the names of those that failed."""
    idle = [program for program in programs if program[2] in IDLE]
    if len(idle) == 1:
        idle = []
    outcomes = [(program[2], run(*program, *rest)) for program in programs if program not in idle]
    with ThreadPoolExecutor(len(IDLE)) as pool:
        tasks = [(program[2], pool.submit(run, *program, *rest, is_alone=False)) for program in idle]
    outcomes += [(name, task.result()) for name, task in tasks]
    return [name for name, passed in outcomes if not passed]


def main():
    """Runs all programs, and tells at the end which failed."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    for_cargo, for_tests = arguments[:split], arguments[split + 1:]
    # As cargo has it, a word among its own arguments is a filter.
    words, rest = [], iter(for_cargo)
    options = []
    for argument in rest:
        if argument in ("--test", "--features", "--package", "-p", "--bin", "--example", "--bench", "--exclude", "--jobs", "-j"):
            options += [argument, next(rest, "")]
        elif argument.startswith("-"):
            options.append(argument)
        else:
            words.append(argument)
    for_tests = words + [argument for argument in for_tests if argument != "--"]
    if not any(argument.startswith("--test-threads") for argument in for_tests):
        default = str(2 * (os.cpu_count() or 2))
        for_tests.append("--test-threads=" + os.environ.get("COLCRYPT_TEST_THREADS", default))
    times = []
    with tempfile.NamedTemporaryFile("r", suffix=".left-out") as left_out:
        failed = run_all(build(options), for_tests, times, left_out.name)
        lines = left_out.readlines()
    times.sort(reverse=True)
    if len(times) > SLOWEST:
        print("slowest:")
        for seconds, name in times[:SLOWEST]:
            print(f"  {seconds:6.1f} s  {name}")
    tell_left_out(lines)
    if failed:
        print("failed: " + ", ".join(failed))
        sys.exit(1)


main()
