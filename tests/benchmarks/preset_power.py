"""How often would sweeps of other sizes find a slow-down? From the noise of a recorded calibration; runs no model.

    .venv/bin/python tests/benchmarks/preset_power.py FOLDER [--slowdown 0.1 0.05]

FOLDER is a calibration with its records, results/<sweep>/calibration/<model>/<target>. (Of a published one: unpack its
records.tar.gz in the project's root, and copy calibration.json to them.) Replicates are drawn as its report draws them
(analysis/calibration.py). A replicate of more requests than were recorded is taken to vary less, by the root of their
ratio: so it is where the noise is the requests' own, of which the last line tells (a correlation near 0).
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from diffsweep.analysis import calibration, latency  # noqa: E402
from diffsweep.analysis.calibration import Preset, Scenario  # noqa: E402
from diffsweep.measure.records import LatencyRecord  # noqa: E402
from diffsweep.sweep.files import read_json  # noqa: E402
from diffsweep.sweep.plan import PRESETS  # noqa: E402
from report_calibration import reach_of, read_scenario, scenario_of  # noqa: E402

# (replicates, of the baseline against itself, requests a replicate), beside those of the presets.
SIZES = [(5, 15, 15), (6, 15, 15), (7, 15, 13), (5, 12, 20), (5, 15, 20)]


def with_requests(scenario: Scenario, share: float) -> Scenario:
    """The same with replicates of `share` times as many requests: their distances from the mean shrink by its root."""
    mean = float(np.mean(scenario.log_ratios))
    shrunk = [replace(r, log_ratio=mean + (r.log_ratio - mean) / math.sqrt(share)) for r in scenario.replicates]
    return replace(scenario, replicates=shrunk)


def halves(records: Sequence[LatencyRecord]) -> tuple[float, float]:
    """What the first and the second half of a replicate's pairs of blocks say of its ratio."""
    ratios = latency.block_log_ratios(records)
    middle = len(ratios) // 2
    return float(np.median(ratios[:middle])), float(np.median(ratios[middle:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a calibration with its records")
    parser.add_argument("--slowdown", type=float, nargs="+", default=[0.1, 0.05], help="true slow-downs, as shares")
    options = parser.parse_args()
    if not (options.folder / "calibration.json").exists():
        sys.exit(f"preset_power: {options.folder} has no calibration.json: name the folder of a calibration")
    spec = read_json(options.folder / "calibration.json")["spec"]
    found = {s["name"]: read_scenario(options.folder / s["name"], s["replicates"]) for s in spec["scenarios"]}
    measured = [record for _, records in found["aa"] for record in latency.measured(records, "baseline")]
    if not measured:
        sys.exit(f"preset_power: no A/A replicate with its records below {options.folder}")
    scenarios = [scenario_of(s, found[s["name"]], reach_of(measured)) for s in spec["scenarios"]]
    recorded = spec["replicate"]["protocol"]["requests"]
    presets = [(p["replicates"], p["aa_replicates"], p["requests"]) for p in PRESETS.values()]
    print(f"{recorded} requests a replicate were recorded; found by sweeps, % (95 % interval over resampled noise)")
    print("replicates  A/A  requests" + "".join(f"{f'{100 * s:g} %':>24}" for s in options.slowdown))
    for replicates, aa, requests in presets + SIZES:
        scaled = [with_requests(s, requests / recorded) for s in scenarios if len(s.replicates) > 1]
        least = calibration.least_found(scaled, Preset(replicates, aa))
        powers = [calibration.power(least, slowdown) for slowdown in options.slowdown]
        cells = (
            "n/a" if p is None else f"{100 * p.value:.1f} ({100 * p.low:.1f} to {100 * p.high:.1f})" for p in powers
        )
        print(f"{replicates:10} {aa:4} {requests:9}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    first, second = zip(*(halves(records) for _, records in found["aa"]), strict=True)
    print(f"correlation of the halves of an A/A replicate: {np.corrcoef(first, second)[0, 1]:.2f}")


if __name__ == "__main__":
    main()
