"""Record what the calibration of a target needs: replicates of variants whose true slow-down is known.

Each replicate is one run of scripts/benchmark.py against scripts/serve_slowed.py, just as a sweep makes it. They lie in
<out>/<scenario>/replicate-<r>/; those that are there from the same spec are kept, so that a stopped calibration goes on
where it was. calibration.json appears when all are there. Takes the machine for itself.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.files import read_json, write_json
from diffsweep.sweep.options import add_spec_option, read_spec
from diffsweep.sweep.outcomes import Outcome, outcome_of
from diffsweep.sweep.workflow import die_with_parent

STAGE = "calibrate"
SPEC = "spec.json"
# A disturbed host: another process takes a core for a while, then leaves it for a while (seconds, uniform).
BURST_S = (1.0, 4.0)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` is run
    options = parse_options()
    spec = read_spec(STAGE, options.spec)
    keep_only_this(spec, options.out)
    todo = [
        (scenario, number)
        for scenario, number in in_turn(spec["scenarios"])
        if not is_there(options.out, scenario, number)
    ]
    started_s, failures = time.monotonic(), []
    for done, (scenario, number) in enumerate(todo, start=1):
        with disturbed_host(seed=number) if scenario["disturbed"] else undisturbed():
            outcome = record(spec, scenario, number, options)
        if not outcome.ok:
            failures.append(f"{scenario['name']}, replicate {number}: {outcome.reason}")
            print(f"calibrate: {failures[-1]}", flush=True)
        if done % 5 == 0 or done == len(todo):
            left_s = (time.monotonic() - started_s) / done * (len(todo) - done)
            print(f"calibrate: {done} of {len(todo)} replicates, {left_s / 60:.0f} min left", flush=True)
    outcome = Outcome("failed", failures[0], STAGE) if failures else Outcome("ok", None, STAGE)
    write_json(options.out / "calibration.json", {"outcome": outcome.as_dict(), "spec": spec, "failures": failures})


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spec_option(parser, "what to record")
    parser.add_argument("--limits", required=True, type=Path, help="the time limits of a replicate, a JSON file")
    parser.add_argument("--artifact", required=True, type=Path, help="the baseline's artifact folder")
    parser.add_argument("--out", required=True, type=Path, help="the calibration's folder")
    return parser.parse_args()


def keep_only_this(spec: Mapping, out: Path) -> None:
    """Remove what was recorded by another protocol. More scenarios, or more replicates of one, only add to it."""
    try:
        same = read_json(out / SPEC)["replicate"] == spec["replicate"]
    except (FileNotFoundError, ValueError, KeyError):
        same = False
    if not same:
        shutil.rmtree(out, ignore_errors=True)
    write_json(out / SPEC, spec)


def in_turn(scenarios: list[Mapping]) -> Iterator[tuple[Mapping, int]]:
    """Every replicate of every scenario, evenly mixed, so that whatever drifts meets all of them."""
    places = (
        ((number - 0.5) / scenario["replicates"], order, scenario, number)
        for order, scenario in enumerate(scenarios)
        for number in range(1, scenario["replicates"] + 1)
    )
    return ((scenario, number) for _, _, scenario, number in sorted(places, key=lambda place: place[:2]))


def folder_of(out: Path, scenario: Mapping, number: int) -> Path:
    return out / scenario["name"] / f"replicate-{number}"


def is_there(out: Path, scenario: Mapping, number: int) -> bool:
    try:
        return outcome_of(read_json(folder_of(out, scenario, number) / "replicate.json")).ok
    except (FileNotFoundError, ValueError, KeyError):
        return False


def record(spec: Mapping, scenario: Mapping, number: int, options: argparse.Namespace) -> Outcome:
    """Measure one replicate. Ends the program when the measuring program itself does not work."""
    replicate = dict(spec["replicate"], replicate=number)
    replicate["variant"] = {**replicate["variant"], "slowdown": scenario["slowdown"]}
    folder = folder_of(options.out, scenario, number)
    program = [sys.executable, str(PROJECT / "scripts" / "benchmark.py"), "--spec", json.dumps(replicate)]
    program += ["--spec", f"@{options.limits}", "--server", str(PROJECT / "scripts" / "serve_slowed.py")]
    artifacts = ["--artifact", str(options.artifact), "--baseline-artifact", str(options.artifact)]
    done = subprocess.run([*program, *artifacts, "--out", str(folder)], stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"calibrate: scripts/benchmark.py ended with {done.returncode}; see above")
    return outcome_of(read_json(folder / "replicate.json"))


@contextmanager
def undisturbed() -> Iterator[None]:
    yield


@contextmanager
def disturbed_host(seed: int) -> Iterator[None]:
    """A process that keeps a core busy in bursts while the block runs."""
    parent, child = os.getpid(), os.fork()
    if child == 0:
        die_with_parent(parent)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        disturb(random.Random(seed))
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def disturb(rng: random.Random) -> None:
    while True:
        until_s = time.monotonic() + rng.uniform(*BURST_S)
        while time.monotonic() < until_s:
            pass
        time.sleep(rng.uniform(*BURST_S))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
