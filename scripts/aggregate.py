"""Records and scores -> tables: summary.csv, summary.parquet and tables/*.

tables/capacity.csv    one row per model x target x variant x load level
tables/cost.csv        one row per model x target x variant x operating point x market x utilisation
tables/arrivals.csv    one row per run of the searches for the highest rate within the objective
tables/latency.parquet one row per request, warm-up flagged, for the distributions
tables/targets.json    per model and target: the A/A test, the noise floor, whether the host is fit; where the time went
tables/inputs.json     the digest of every document that the tables were made from
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from diffsweep.analysis import batching, economy, latency, load, summary
from diffsweep.analysis.arrivals import trial_rows
from diffsweep.analysis.cells import Cell, read_cells
from diffsweep.analysis.columns import put
from diffsweep.analysis.places import each_cell
from diffsweep.analysis.stats import Estimate
from diffsweep.sweep.files import atomic, digest_file, read_json, write_json
from diffsweep.sweep.outcomes import run_program
from diffsweep.sweep.runs import current_run

# What the columns hold that are not measurements (those are floats).
TEXT = """
    model target variant parent change engine precision scheduler status reason verdict clip_verdict fid_verdict
    quality_verdict quantiles_withheld host_unfit census warnings role prompt_id payback operating_point market
    price_instance price_region price_date energy_reason gpu_clock_events not_offered batching
"""
WHOLE = """
    steps replicates replicate trial requests errors block order seed images warmup disturbed_blocks repeated_pairs
    defects arrivals_runs identical_images memory_bytes device_memory_bytes peak_memory_bytes artifact_bytes
    build_peak_memory_bytes
"""
YES_NO = ("compile", "baseline", "valid", "is_warmup", "pareto_", "beaten_")


def main() -> None:
    options = parse_options()
    try:
        plan = read_json(options.plan)
        cells = list(read_cells(plan, options.results, options.artifacts))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"aggregate: {options.plan} and the results do not fit: {type(error).__name__}: {error}")
    rows = summary.summarise(plan, cells)
    tables = options.out / "tables"
    write_table(tables / "capacity.csv", list(capacity_rows(cells, plan["protocol"].get("objective_s"))))
    write_table(tables / "arrivals.csv", [{**names(c), **row} for c in cells for row in trial_rows(c.arrivals)])
    write_table(tables / "latency.parquet", list(latency_rows(cells)))
    write_table(tables / "cost.csv", list(economy.cost_rows(plan, rows)))
    write_json(tables / "targets.json", targets_of(plan, cells, rows))
    write_json(tables / "inputs.json", inputs_of(plan, options))
    write_table(options.out / "summary.parquet", rows)
    write_table(options.out / "summary.csv", rows)  # last: the rule's first output
    say(rows)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", required=True, type=Path, help="the resolved plan, plan.json")
    parser.add_argument("--results", required=True, type=Path, help="the sweep's folder, results/<sweep>")
    parser.add_argument("--artifacts", required=True, type=Path, help="results/artifacts")
    parser.add_argument("--out", required=True, type=Path, help="the folder for the tables")
    return parser.parse_args()


def say(rows: Sequence[Mapping]) -> None:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    print("aggregated", ", ".join(f"{count} {status}" for status, count in counts.items()), flush=True)


# --- rows of the tables ---------------------------------------------------------------------------------------------


def names(cell: Cell) -> dict:
    return {"model": cell.model, "target": cell.target, "variant": cell.name}


def capacity_rows(cells: Sequence[Cell], objective_s: float | None = None) -> Iterator[dict]:
    for cell in cells:
        levels = load.levels_of(cell.loads, objective_s)
        best, knee = load.sustained(levels), load.knee(levels)
        for level in levels:
            row = {**names(cell), "clients": level.clients}
            for field, value in asdict(level).items():
                if field in ("images_per_s", "requests_per_s", "goodput_images_per_s", "latency_p95_s"):
                    put(row, field, Estimate(**value) if value else None)
                elif field != "clients":
                    row[field] = value
            row["server_cpu_cores"] = cpu_cores(cell, level.clients)
            row["batch_size_mean"] = batching.mean_size(cell, level.clients)
            marks = {"is_sustained": level is best, "is_knee": level is knee}
            yield {**row, "reason": level.reason or None, **marks}


def cpu_cores(cell: Cell, clients: float) -> float | None:
    """How many cores the server kept busy at a level, the mean over replicates."""
    noted = [entry for r in cell.replicates for entry in r.notes.get("levels", ()) if entry["level"] == clients]
    known = [entry["server_cpu_cores"] for entry in noted if entry.get("server_cpu_cores") is not None]
    return sum(known) / len(known) if known else None


def latency_rows(cells: Sequence[Cell]) -> Iterator[dict]:
    for cell in cells:
        for replicate in cell.replicates:
            for record in replicate.latency:
                yield {
                    **names(cell),
                    **{
                        key: getattr(record, key)
                        for key in ("role", "replicate", "block", "order", "prompt_id", "seed")
                    },
                    "is_warmup": record.warmup,
                    "status": record.status,
                    "sent_unix_s": record.sent_unix_s,
                    "e2e_s": record.e2e_s,
                    **{part: latency.part_s(record, part) for part in latency.PARTS},
                }


def targets_of(plan: Mapping, cells: Sequence[Cell], rows: Sequence[Mapping]) -> list[dict]:
    """The A/A test of each model on each target, and its useful time."""
    found = []
    for group in summary.by_target(cells):
        reference = summary.reference_of(plan, group)
        own = [row for row in rows if (row["model"], row["target"]) == (group[0].model, group[0].target)]
        found.append(
            {
                "model": group[0].model,
                "target": group[0].target,
                "baseline": plan["baseline"],
                "aa": asdict(reference.aa) if reference.aa else None,
                "noise_floor": reference.noise_floor,
                "threshold": reference.threshold,
                "host_unfit": reference.host_unfit or None,
                "useful_s": {
                    part: sum(row[f"useful_{part}_s"] for row in own) for part in ("requests", "levels", "images")
                },
            }
        )
    return found


# --- writing --------------------------------------------------------------------------------------------------------


def type_of(column: str) -> pa.DataType:
    if column in TEXT.split():
        return pa.string()
    if column in WHOLE.split():
        return pa.int64()
    return pa.bool_() if column.startswith((*YES_NO, "is_")) else pa.float64()


def inputs_of(plan: Mapping, options: argparse.Namespace) -> dict:
    """What the tables were made from, by path below the sweep's folder or below results/artifacts."""
    found = {"plan.json": options.plan}
    for cell in each_cell(plan, options.results, options.artifacts):
        found |= {path.relative_to(options.results).as_posix(): path for path in cell.documents}
        found[cell.manifest.relative_to(options.artifacts).as_posix()] = cell.manifest
    digests = {name: digest_file(path) for name, path in found.items() if path.exists()}
    return {"schema": 1, "run": current_run(), "inputs": digests}


def write_table(path: Path, rows: Sequence[Mapping]) -> None:
    """Rows as .csv or .parquet, by the name's ending. Every row has the same columns; None is an empty field."""
    columns = list(rows[0]) if rows else []
    schema = pa.schema([(column, type_of(column)) for column in columns])
    table = pa.Table.from_pylist(list(rows), schema)
    with atomic(path) as temporary:
        if path.suffix == ".csv":
            pa.csv.write_csv(table, temporary, pa.csv.WriteOptions(quoting_style="needed"))
        else:
            pa.parquet.write_table(table.replace_schema_metadata({"diffsweep": json.dumps({"schema": 1})}), temporary)


if __name__ == "__main__":
    run_program(main)
