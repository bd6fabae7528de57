"""What the default sweep costs from a fresh clone: wall time, its share of useful time, memory, a second call.

    python tests/benchmarks/default_sweep.py --clone FOLDER [--out results/published/timings.csv]

It runs the README's command, environments and conversions included, and takes most of an hour; nothing else may run.
FOLDER keeps the clone with its results, which scripts/publish.py can publish.
"""

import argparse
import csv
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))

from figures import RATIO, Figure, conclude  # noqa: E402

from diffsweep.measure.monitor import available_bytes  # noqa: E402
from diffsweep.sweep.files import read_json  # noqa: E402

LOOK_S = 2.0  # between looks at the machine's free memory: a read of /proc/meminfo, which no request notices


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """(seconds, the most memory in bytes that was taken from what was available before)."""
    before, least, done = available_bytes(), [available_bytes()], threading.Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            least[0] = min(least[0], available_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    began_s = time.perf_counter()
    environ = {
        key: value for key, value in os.environ.items() if key not in ("DIFFSWEEP_RUN", "PYTHONDONTWRITEBYTECODE")
    }
    try:
        subprocess.run(command, cwd=folder, env=environ, check=True)
    finally:
        done.set()
        watcher.join()
    return time.perf_counter() - began_s, before - least[0]


def useful_s(results: Path) -> float:
    """Seconds in measured requests, load levels and image generation, over all variants."""
    with open(results / "summary.csv", encoding="utf-8", newline="") as handle:
        return sum(float(row["useful_s"]) for row in csv.DictReader(handle))


def measure(clone: Path) -> list[Figure]:
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(clone)], check=True)
    sweep_s, memory_bytes = timed(["make", "sweep"], clone)
    again_s, _ = timed([".venv/bin/snakemake", "--cores", "all"], clone)
    results = clone / "results" / "default"
    run = read_json(results / "run.json")
    wall_s, useful = run["ended_unix_s"] - run["started_unix_s"], useful_s(results)
    return [
        Figure("make sweep from a fresh clone", sweep_s / 60, "min", 45),
        Figure("useful time: measured requests, load levels, making images", useful / 60, "min"),
        Figure("wall time of the sweep over its useful time", wall_s / useful, RATIO, 1.4),
        Figure("memory of the whole sweep", memory_bytes / 1e9, "GB", 8),
        Figure("a second call: nothing to do", again_s, "s", 5),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--out", type=Path, help="the table that keeps the figures")
    options = parser.parse_args()
    if options.clone.exists():
        sys.exit(f"default_sweep: {options.clone} is there already: name a folder that is not")
    figures = measure(options.clone)
    sys.exit(conclude(figures, Path(__file__).stem, options.out))


if __name__ == "__main__":
    main()
