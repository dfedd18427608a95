"""Runs the fuzz targets that fuzz.sh built, in turns, with a line of progress and a table at the end.

    fuzz.py FOLDER_OF_PROGRAMS MINUTES [TARGET …]

All targets have the same share of the time, in turns of a minute at most, as many at once as there are processors (or FUZZ_JOBS).
Each turn begins with all seeds (fuzz/seeds/TARGET) and with what former runs found worth keeping (target/fuzz/corpus/TARGET). An input
that a target fails for is kept in target/fuzz/findings/TARGET. Ends with 1 if there was one.
"""

import os
import pathlib
import re
import resource
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
STATE = ROOT / "target" / "fuzz"
# Seconds. A turn costs a second or so of reading the corpus.
LONGEST_TURN = 60
# A target that failed so often is not run any more.
MOST_FINDINGS = 3
STATUS = re.compile(r"^#(\d+)\s.*cov: (\d+) ft: (\d+) corp: (\d+)/")
EDGES = re.compile(r"PC tables? \((\d+) PCs\)")
# Lines that tell a person nothing of a finding.
DULL = ("#", "\t", "0x", "\\", "Base64", "stat::", "INFO", "WARNING", "NOTE", " ", "MS:")
OPTIONS = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=4096", "-reload=0", "-verbosity=1", "-print_final_stats=1"]


class Target:
    """What is known of one target."""

    def __init__(self, name, program):
        self.name, self.program = name, program
        self.runs = self.edges = self.all_edges = self.features = self.corpus = 0
        self.turn_runs = 0
        self.seconds = 0.0
        self.findings = []
        self.corpus_folder = STATE / "corpus" / name
        self.findings_folder = STATE / "findings" / name
        for folder in (self.corpus_folder, self.findings_folder):
            folder.mkdir(parents=True, exist_ok=True)

    def turn(self, seconds):
        """Fuzzes for so long, or until something is found. Returns the seconds that it was held up for before their end."""
        began = time.monotonic()
        known = set(self.findings_folder.iterdir())
        command = [self.program, *OPTIONS, f"-max_total_time={max(1, round(seconds))}",
                   f"-artifact_prefix={self.findings_folder}/", self.corpus_folder, ROOT / "fuzz" / "seeds" / self.name]
        tail = []
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace") as fuzzer:
            for line in fuzzer.stderr:
                self.read(line)
                if not line.startswith(DULL):
                    tail = [*tail[-40:], line]
        self.runs += self.turn_runs
        self.turn_runs = 0
        took = time.monotonic() - began
        self.seconds += took
        if fuzzer.returncode != 0:
            inputs = sorted(set(self.findings_folder.iterdir()) - known)
            if inputs and all(self.was_held_up(file) for file in inputs):
                return seconds - took
            inputs = inputs or ["no input: see above"]
            self.findings += inputs
            say("".join(tail))
            say(f"FOUND   {self.name}: {inputs[0]}")
        return 0

    def was_held_up(self, file):
        """Whether an input that took too long takes no time: the machine, or this process, had stood still."""
        if not file.name.startswith("timeout-"):
            return False
        again = subprocess.run([self.program, *OPTIONS, file], capture_output=True, check=False)
        if again.returncode == 0:
            file.unlink()
        return again.returncode == 0

    def read(self, line):
        """A line of libFuzzer's."""
        status = STATUS.match(line)
        if status:
            runs, edges, features, corpus = map(int, status.groups())
            self.turn_runs, self.edges = runs, max(self.edges, edges)
            self.features, self.corpus = max(self.features, features), corpus
        elif all_edges := EDGES.search(line):
            self.all_edges = int(all_edges[1])


def say(text):
    """A line of its own, past the line of progress."""
    print(("\r\033[K" if sys.stdout.isatty() else "") + text, flush=True)


def progress(targets, began, seconds, running):
    """One line: kept up to date at a terminal, every half minute elsewhere."""
    runs = sum(target.runs + target.turn_runs for target in targets)
    found = sum(len(target.findings) for target in targets)
    names = ", ".join(sorted(running))
    line = f"[{time.monotonic() - began:4.0f}/{seconds:.0f} s] {runs:,} runs, {found} findings; now {names}"
    if sys.stdout.isatty():
        print("\r\033[K" + line, end="", flush=True)
    else:
        print(line, flush=True)


def table(targets):
    """What came of it."""
    rows = [("target", "runs", "runs/s", "edges", "features", "inputs", "findings")]
    for target in targets:
        edges = f"{target.edges:,}/{target.all_edges:,}"
        rate = f"{target.runs / max(target.seconds, 0.1):,.0f}"
        rows.append((target.name, f"{target.runs:,}", rate, edges, f"{target.features:,}", f"{target.corpus:,}", str(len(target.findings))))
    runs, found = sum(target.runs for target in targets), sum(len(target.findings) for target in targets)
    rows.append(("all", f"{runs:,}", "", "", "", "", str(found)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]))


def main():
    """All targets in turns."""
    programs, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2]) * 60
    names = sys.argv[3:] or sorted(file.stem for file in (ROOT / "fuzz" / "targets").glob("*.rs"))
    targets = [Target(name, programs / f"fuzz-{name}") for name in names]
    for target in targets:
        if not target.program.exists():
            sys.exit(f"there is no target {target.name}: fuzz/targets has {', '.join(names)}")
    jobs = min(int(os.environ.get("FUZZ_JOBS", os.cpu_count() or 1)), len(targets))
    share = seconds * jobs / len(targets)
    rounds = max(1, -(-share // LONGEST_TURN))
    waiting = [target for _ in range(int(rounds)) for target in targets]
    lock, running, began = threading.Lock(), set(), time.monotonic()

    def work():
        while True:
            with lock:
                # One that runs now is not run twice at once: both would write its corpus.
                target = next((target for target in waiting if target.name not in running), None)
                if target is None:
                    return
                waiting.remove(target)
                running.add(target.name)
            left = share / rounds
            while left >= 1 and len(target.findings) < MOST_FINDINGS:
                left = target.turn(left)
            with lock:
                running.discard(target.name)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    told = 0.0
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.2)
        if time.monotonic() - told >= (1 if sys.stdout.isatty() else 30):
            told = time.monotonic()
            progress(targets, began, seconds, running)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    say(f"fuzzed for {time.monotonic() - began:.0f} s, {jobs} at once: {(used.ru_utime + used.ru_stime) / 60:.1f} minutes of processor")
    table(targets)
    found = [(target, finding) for target in targets for finding in target.findings]
    for target, finding in found:
        say(f"again with: {target.program} {finding}")
    sys.exit(1 if found else 0)


main()
