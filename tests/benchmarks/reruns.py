"""What the rerun contract saves: the smoke sweep, then the same command after one change at a time, run for real.

    python tests/benchmarks/reruns.py [--out results/published/timings.csv]

A missed limit makes it exit with 1.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "scripts")]

from figures import Figure, keep  # noqa: E402

from conftest import copy_project, snakemake  # noqa: E402

CONFIG = "config/smoke.yaml"
PACKAGE = "sniffio==1.3.1"  # small, pure Python, and in none of these locks


def add_package(environment: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        lock = folder / f"envs/{environment}.lock"
        lock.write_text(f"{lock.read_text()}{PACKAGE}\n")

    return change


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        if old not in text:
            sys.exit(f"{name}: no {old!r} to change")
        (folder / name).write_text(text.replace(old, new, 1))

    return change


# what -> (the change, the limit of the time in s)
CHANGES: dict[str, tuple[Callable[[Path], None], float | None]] = {
    "again: nothing to do": (lambda folder: None, 5.0),
    "a comment in an engine's code": (replace("scripts/diffsweep/engines/ort.py", "\nimport", "\n# new\nimport"), 5.0),
    "a price": (replace("config/targets.yaml", "price: aws-m7i.large", "price: aws-g6.xlarge"), None),
    "one lock: scoring": (add_package("scoring"), None),
    "one lock: onnxruntime": (add_package("onnxruntime"), None),
    "one axis of one variant": (replace(CONFIG, "steps: 4}", "steps: 3}"), None),
    "replicates 2 -> 3": (replace(CONFIG, "replicates: 2\n", "replicates: 3\n"), None),
}


def timed(folder: Path) -> tuple[float, int]:
    """Seconds, and the number of jobs that ran."""
    began_s = time.perf_counter()
    done = snakemake(folder, "--configfile", CONFIG)
    seconds = time.perf_counter() - began_s
    if done.returncode:
        sys.exit(f"the sweep failed:\n{done.stdout[-3000:]}")
    return seconds, len(re.findall(r"^Job \d+: ", done.stdout, re.MULTILINE))


def measure(folder: Path) -> list[Figure]:
    seconds, jobs = timed(folder)
    figures = [Figure(f"smoke sweep, environments in place: {jobs} jobs", seconds, "s", 240)]
    print(figures[-1], flush=True)
    for what, (change, limit) in CHANGES.items():
        change(folder)
        seconds, jobs = timed(folder)
        figures.append(Figure(f"{what}: {jobs} jobs", seconds, "s", limit))
        print(figures[-1], flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the table that keeps the figures")
    out = parser.parse_args().out
    os.environ.pop("DIFFSWEEP_RUN", None)
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(copy_project(Path(temporary)))
    if out:
        keep(out, Path(__file__).stem, figures)
    sys.exit(any(figure.missed for figure in figures))


if __name__ == "__main__":
    main()
