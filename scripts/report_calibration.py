"""Judge the replicates of a calibration and write its report: report.html, power and A/A pictures, calibration.csv.

No model is run: everything comes from the records that scripts/calibrate.py left.
"""

import argparse
import csv
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffsweep.analysis import calibration, latency
from diffsweep.analysis.calibration import Blocks, Preset, Replicate, Scenario
from diffsweep.measure.records import LatencyRecord, read_latency, valid
from diffsweep.show.calibration import Calibration, Origin, pictures, render, verdict_table
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
        found = judge(options.calibration, read_json(options.plan)["protocol"])
    except KeyError as error:
        sys.exit(f"report_calibration: {options.calibration}: the record lacks {error}; record it again")
    except (OSError, ValueError) as error:
        sys.exit(f"report_calibration: {options.calibration}: {error}")
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
    """Everything the report says. `protocol`: the sweep's, with the replicates of its comparisons. Raises ValueError
    when no A/A replicate can be used."""
    document = read_json(folder / "calibration.json")
    spec = document["spec"]
    records = {s["name"]: read_scenario(folder / s["name"], s["replicates"]) for s in spec["scenarios"]}
    requests = latency.measured([r for _, rs in records["aa"] for r in rs], "baseline")
    if not requests:
        listed = next(s["replicates"] for s in spec["scenarios"] if s["name"] == "aa")
        why = f" ({document['failures'][0]})" if document["failures"] else ""
        raise ValueError(f"none of {listed} A/A replicates can be used{why}; mend that, and calibrate again")
    scenarios = [scenario_of(s, records[s["name"]], reach_of(requests)) for s in spec["scenarios"]]
    aa = next(s for s in scenarios if s.name == "aa")
    presets = {
        name: Preset(settings["replicates"], settings["aa_replicates"])
        for name, settings in {"default": protocol, "publish": PRESETS["publish"]}.items()
    }
    notes = [notes for found in records.values() for notes, _ in found]
    return Calibration(
        what=f"{spec['replicate']['model']['name']} on {spec['replicate']['target']['name']}",
        aa=aa,
        scenarios=scenarios,
        presets=presets,
        judged={
            name: {s.name: calibration.comparisons(s, aa, preset) for s in scenarios}
            for name, preset in presets.items()
        },
        least={name: calibration.least_found(scenarios, preset) for name, preset in presets.items()},
        origin=origin_of(notes),
        host=records["aa"][0][0]["host"],
        request_s=statistics.median(r.e2e_s for r in requests),
        failures=document["failures"],
        sampling_share=sampling_share(notes),
    )


def read_scenario(folder: Path, replicates: int) -> list[tuple[Mapping, list[LatencyRecord]]]:
    """(replicate.json, its records) of every replicate that ended well, by number, up to as many as were asked for.

    What another recording left in the same folder beyond that is not used.
    """
    found = []
    for number in range(1, replicates + 1):
        path = folder / f"replicate-{number}" / "replicate.json"
        notes = read_json(path) if path.exists() else None
        if notes is not None and outcome_of(notes).ok:
            found.append((notes, valid(read_latency(path.with_name("latency.jsonl"), notes))))
    return found


def origin_of(replicates: Sequence[Mapping]) -> Origin:
    servers = [server for notes in replicates for server in notes.get("servers", {}).values()]
    return Origin(
        started_unix_s=min((n["started_unix_s"] for n in replicates if "started_unix_s" in n), default=None),
        ended_unix_s=max((n["ended_unix_s"] for n in replicates if "ended_unix_s" in n), default=None),
        revisions=Counter((n["host"].get("git_revision"), n["host"].get("git_dirty")) for n in replicates),
        machines=Counter(n["host"].get("cpu") for n in replicates),
        environments={s["environment"]: s["versions"] for s in servers if {"environment", "versions"} <= s.keys()},
    )


def sampling_share(replicates: Sequence[Mapping]) -> float | None:
    """The CPU time of the sampler's own thread over the time in which requests were measured; None if unknown."""
    known = [notes for notes in replicates if notes.get("sampling", {}).get("hz")]
    measured_s = sum(notes["seconds"]["latency"] for notes in known)
    return sum(notes["sampling"]["cost_cpu_s"] for notes in known) / measured_s if measured_s else None


def reach_of(records: Sequence[LatencyRecord]) -> float:
    """The share of a request's time that a planted slow-down makes longer."""
    whole_s = sum(r.e2e_s for r in records)
    return 1 - sum(getattr(r, part) for r in records for part in UNSLOWED) / whole_s


def scenario_of(settings: Mapping, records: Sequence[tuple[Mapping, list[LatencyRecord]]], reach: float) -> Scenario:
    ratios = [(notes, latency.log_ratio(requests)) for notes, requests in records]
    blocks = [block for notes, _ in records for block in notes.get("blocks", ())]
    valid_blocks = [block for block in blocks if block["valid"]]
    return Scenario(
        name=settings["name"],
        slowdown=settings["slowdown"] * reach,
        disturbed=settings["disturbed"],
        replicates=[Replicate(ratio, notes.get("repeats")) for notes, ratio in ratios if ratio is not None],
        blocks=Blocks(
            measured=len(blocks),
            flagged=sum(bool(block["disturbed"]) for block in blocks),
            valid=len(valid_blocks),
            still_disturbed=sum(bool(block["disturbed"]) for block in valid_blocks),
        ),
    )


def write_csv(path: Path, table: Mapping) -> None:
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([table["heads"], *table["rows"]])


if __name__ == "__main__":
    main()
