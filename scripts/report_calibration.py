"""Judge the replicates of a calibration and write its report: report.html, power and A/A pictures, calibration.csv.

No model is run: everything comes from the records that scripts/calibrate.py left.
"""

import argparse
import csv
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffsweep.analysis import calibration, latency
from diffsweep.analysis.calibration import Preset, Scenario
from diffsweep.measure.records import LatencyRecord, read_latency, valid
from diffsweep.show.calibration import Calibration, pictures, render, verdict_table
from diffsweep.show.style import save_png, save_svg, use_style
from diffsweep.sweep.files import atomic, read_json
from diffsweep.sweep.outcomes import outcome_of
from diffsweep.sweep.plan import PRESETS

# What a planted slow-down does not reach: the parts outside of the networks (scripts/serve_slowed.py).
UNSLOWED = ("queue_s", "image_encode_s", "transfer_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", required=True, type=Path, help="the resolved plan, plan.json")
    parser.add_argument("--calibration", required=True, type=Path, help="the folder that scripts/calibrate.py filled")
    options = parser.parse_args()
    try:
        plan = read_json(options.plan)
        found = judge(options.calibration, plan["protocol"])
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"report_calibration: {options.calibration}: {type(error).__name__}: {error}")
    with use_style():
        drawn = pictures(found)
        for name, (figure, _) in drawn.items():
            save_svg(figure, options.calibration / f"{name}.svg")
            save_png(figure, options.calibration / f"{name}.png")
    svgs = {name: ((options.calibration / f"{name}.svg").read_text("utf-8"), alt) for name, (_, alt) in drawn.items()}
    write_csv(options.calibration / "calibration.csv", verdict_table(found))
    with atomic(options.calibration / "report.html") as temporary:
        temporary.write_text(render(found, svgs), encoding="utf-8")
    print(f"wrote {options.calibration / 'report.html'}", flush=True)


def judge(folder: Path, protocol: Mapping) -> Calibration:
    """Everything the report says. `protocol`: the sweep's, with the replicates of its comparisons."""
    document = read_json(folder / "calibration.json")
    spec = document["spec"]
    records = {s["name"]: read_scenario(folder / s["name"]) for s in spec["scenarios"]}
    everything = [r for found in records.values() for _, requests in found for r in requests]
    reach = reach_of(latency.measured([r for _, rs in records["aa"] for r in rs], "baseline"))
    scenarios = [scenario_of(s, records[s["name"]], reach) for s in spec["scenarios"]]
    aa = scenarios[0]
    presets = {
        name: Preset(settings["replicates"], settings["aa_replicates"])
        for name, settings in {"default": protocol, "publish": PRESETS["publish"]}.items()
    }
    notes = records["aa"][0][0]
    return Calibration(
        what=f"{spec['replicate']['model']['name']} on {spec['replicate']['target']['name']}",
        aa=aa,
        scenarios=scenarios,
        presets=presets,
        judged={s.name: calibration.comparisons(s, aa, presets["default"]) for s in scenarios},
        powers={
            name: {s.slowdown: calibration.power(s, aa, preset) for s in scenarios if s.slowdown and not s.disturbed}
            for name, preset in presets.items()
        },
        host=notes["host"],
        request_s=statistics.median(r.e2e_s for r in latency.measured(everything, "baseline")),
        failures=document["failures"],
        sampling_share=sampling_share([notes for found in records.values() for notes, _ in found]),
    )


def read_scenario(folder: Path) -> list[tuple[Mapping, list[LatencyRecord]]]:
    """(replicate.json, its records) of every replicate that ended well, by number."""
    found = []
    for path in sorted(folder.glob("replicate-*/replicate.json")):
        notes = read_json(path)
        if outcome_of(notes).ok:
            found.append((notes, valid(read_latency(path.with_name("latency.jsonl"), notes))))
    return sorted(found, key=lambda pair: pair[0]["replicate"])


def sampling_share(replicates: Sequence[Mapping]) -> float | None:
    """The share of one core that the sampler's thread used while requests were measured, by its own CPU clock."""
    known = [notes for notes in replicates if notes.get("sampling", {}).get("hz")]
    measured_s = sum(notes["seconds"]["latency"] for notes in known)
    return sum(notes["sampling"]["cost_cpu_s"] for notes in known) / measured_s if measured_s else None


def reach_of(records: Sequence[LatencyRecord]) -> float:
    """The share of a request's time that a planted slow-down makes longer."""
    whole_s = sum(r.e2e_s for r in records)
    return 1 - sum(getattr(r, part) for r in records for part in UNSLOWED) / whole_s


def scenario_of(settings: Mapping, records: Sequence[tuple[Mapping, list[LatencyRecord]]], reach: float) -> Scenario:
    return Scenario(
        name=settings["name"],
        slowdown=settings["slowdown"] * reach,
        disturbed=settings["disturbed"],
        log_ratios=[ratio for _, requests in records if (ratio := latency.log_ratio(requests)) is not None],
        flagged_blocks=sum(len(notes.get("disturbed_blocks", ())) for notes, _ in records),
        blocks=sum(len(notes.get("blocks", ())) for notes, _ in records),
    )


def write_csv(path: Path, table: Mapping) -> None:
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([table["heads"], *table["rows"]])


if __name__ == "__main__":
    main()
