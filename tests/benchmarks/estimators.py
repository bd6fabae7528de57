"""Which way to one figure per replicate varies least from replicate to replicate? On recorded data, not on simulated.

    .venv/bin/python tests/benchmarks/estimators.py results/default [more folders of replicates ...]

Takes every folder with replicates of the same variant, wherever it lies below the folders given, and prints, per
estimator, the standard deviation between replicates of log(baseline / variant): its median and its root mean square
over those folders, and its median over the A/A ones alone. What varies less gives a narrower interval from the same
requests; whether the interval still holds the truth is what interval_coverage.py and the calibration show. Runs no
model.
"""

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from diffsweep.analysis import latency  # noqa: E402
from diffsweep.measure.records import LatencyRecord, read_latency, valid  # noqa: E402

Records = Sequence[LatencyRecord]
EQUALS = ("fp32", "aa", "disturbed-aa")  # folders of a sweep and of a calibration in which both sides are the same


def sides(records: Records, clock: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Times of (baseline, variant), both in the order of their prompts and seeds."""
    found = {role: {} for role in ("baseline", "variant")}
    for record in records:
        if not record.warmup and record.status == "ok":
            found[record.role][record.prompt_id, record.seed] = clock(record)
    both = [key for key in found["baseline"] if key in found["variant"]]
    return tuple(np.array([found[role][key] for key in both]) for role in ("baseline", "variant"))


def request_ratios(records: Records, clock: Callable = latency.end_to_end_s) -> np.ndarray:
    """log(baseline / variant) request by request: the same prompt and seed, a few requests apart."""
    baseline, variant = sides(records, clock)
    return np.log(baseline / variant)


def robust_request_s(record: LatencyRecord) -> float:
    """End to end as if every step had taken the median step's time."""
    steps = len(record.step_s)
    return record.e2e_s - math.fsum(record.step_s) + steps * statistics.median(record.step_s)


def hodges_lehmann(numbers: Sequence[float]) -> float:
    """A robust location (Hodges and Lehmann 1963, Ann. Math. Stat. 34).

    The median of the means of any two pairs (each with itself, too): as precise as the mean where the noise is normal
    (95 %), and unmoved by the few (up to 29 %) that a passing disturbance has spoilt.
    """
    values = np.asarray(numbers, float)
    one, other = np.triu_indices(len(values))
    return float(np.median((values[one] + values[other]) / 2))


def trimmed(values: np.ndarray, share: float = 0.2) -> float:
    cut = int(len(values) * share)
    return float(np.sort(values)[cut : len(values) - cut].mean())


def of_parts(location: Callable) -> Callable:
    """A location of each part of a request over the requests of a side, added up."""

    def estimate(records: Records) -> float:
        baseline, variant = (
            float(location(np.array([latency.parts_of(r) for r in latency.measured(records, role)])).sum())
            for role in ("baseline", "variant")
        )
        return math.log(baseline / variant)

    return estimate


def fastest(share: float) -> Callable:
    """The mean of the fastest `share`, at least of one."""
    return lambda times: np.sort(times, axis=0)[: max(1, round(share * len(times)))].mean(axis=0)


def of_sides(location: Callable) -> Callable:
    def estimate(records: Records) -> float:
        baseline, variant = sides(records, latency.end_to_end_s)
        return math.log(location(baseline) / location(variant))

    return estimate


ESTIMATORS: dict[str, Callable[[Records], float]] = {
    "mean of block ratios": lambda r: float(np.mean(latency.block_log_ratios(r))),
    "median of block ratios (typical)": latency.typical_log_ratio,
    "mean of request ratios": lambda r: float(np.mean(request_ratios(r))),
    "median of request ratios": lambda r: float(np.median(request_ratios(r))),
    "20 % trimmed mean of request ratios": lambda r: trimmed(request_ratios(r)),
    "Hodges-Lehmann of request ratios": lambda r: hodges_lehmann(request_ratios(r)),
    "ratio of means": of_sides(np.mean),
    "ratio of medians": of_sides(np.median),
    "ratio of lower quartiles": of_sides(lambda t: np.quantile(t, 0.25)),
    "ratio of minima": of_sides(np.min),
    "mean of request ratios, median step": lambda r: float(np.mean(request_ratios(r, robust_request_s))),
    "Hodges-Lehmann, median step": lambda r: hodges_lehmann(request_ratios(r, robust_request_s)),
    "Hodges-Lehmann of block ratios": lambda r: hodges_lehmann(latency.block_log_ratios(r)),
    "minimum of each part": of_parts(lambda times: times.min(axis=0)),
    "fastest tenth of each part": of_parts(fastest(0.10)),
    "fastest fifth of each part": of_parts(fastest(0.20)),
    "fastest quarter of each part (ours)": latency.log_ratio,
    "fastest third of each part": of_parts(fastest(1 / 3)),
    "median of each part": of_parts(lambda times: np.median(times, axis=0)),
}


def replicate_sets(folders: Sequence[Path]) -> dict[Path, list[Records]]:
    """Folder -> the records of each of its replicates, where there are at least three."""
    files = sorted(path for folder in folders for path in folder.rglob("replicate-*/latency.jsonl"))
    sets = {
        where: [valid(read_latency(f)) for f in found] for where, found in groupby(files, key=lambda f: f.parents[1])
    }
    complete = {where: [r for r in found if latency.measured(r, "variant")] for where, found in sets.items()}
    return {where: found for where, found in complete.items() if len(found) >= 3}


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__.strip())
    sets = replicate_sets([Path(name) for name in sys.argv[1:]])
    if not sets:
        sys.exit(f"estimators: no three replicates of one variant below {' '.join(sys.argv[1:])}")
    equals = {w for w in sets if w.name in EQUALS}
    print(f"{len(sets)} sets of replicates, {sum(map(len, sets.values()))} replicates; {len(equals)} of them A/A")
    print(f"{'standard deviation between replicates, %':42}{'all, median':>14}{'all, rms':>14}{'A/A, median':>14}")
    for name, estimator in ESTIMATORS.items():
        spread = {w: 100 * statistics.stdev(estimator(r) for r in found) for w, found in sets.items()}
        of_equals = [spread[w] for w in equals]
        aa = f"{statistics.median(of_equals):14.2f}" if of_equals else f"{'n/a':>14}"
        whole = math.sqrt(statistics.fmean(s**2 for s in spread.values()))
        print(f"{name:42}{statistics.median(spread.values()):14.2f}{whole:14.2f}{aa}", flush=True)


if __name__ == "__main__":
    main()
