"""Records and scores -> tables: summary.csv, summary.parquet and tables/*.

tables/capacity.csv    one row per model x target x variant x load level
tables/cost.csv        one row per model x target x variant x operating point x market x utilisation
tables/arrivals.csv    one row per run of the searches for the highest rate within the objective
tables/latency.parquet one row per request, warm-up flagged, for the distributions
tables/targets.json    per model and target: the A/A test, the noise floor, whether the host is fit; where the time went
tables/inputs.json     the digest of every document that the tables were made from, and of every table
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from diffsweep.analysis import batching, economy, latency, load, summary
from diffsweep.analysis.arrivals import trial_rows
from diffsweep.analysis.cells import Cell, Source, machines_of
from diffsweep.analysis.columns import put
from diffsweep.analysis.places import each_cell
from diffsweep.analysis.stats import Estimate
from diffsweep.sweep.files import atomic, digest_file, read_json, write_json
from diffsweep.sweep.outcomes import run_program
from diffsweep.sweep.runs import current_run
from diffsweep.sweep.variants import find_variant
from diffsweep.sweep.workflow import end_with_process

# What the columns hold that are not measurements (those are floats).
TEXT = """
    model target variant machine parent change engine precision scheduler status reason verdict clip_verdict fid_verdict
    quality_verdict quantiles_withheld host_unfit census warnings role prompt_id payback operating_point market
    price_instance price_region price_date energy_reason gpu_clock_events not_offered batching runs
"""
WHOLE = """
    steps replicates replicate trial requests errors block order seed images warmup disturbed_blocks repeated_pairs
    defects arrivals_runs identical_images memory_bytes device_memory_bytes peak_memory_bytes artifact_bytes
    build_peak_memory_bytes
"""
YES_NO = ("competes", "compile", "baseline", "valid", "is_warmup", "pareto_", "beaten_")

OF_TABLES = ("capacity.csv", "arrivals.csv", "cost.csv", "latency.parquet", "targets.json")
MADE = ("summary.csv", "summary.parquet", *(f"tables/{name}" for name in OF_TABLES))

CHUNK = 40  # variants that a worker reads and summarises at a time
ALONE = 64  # fewer variants than this are not worth starting workers for


def main() -> None:
    options = parse_options()
    tables = options.out / "tables"
    rows: list[dict] = []
    levels: list[dict] = []
    trials: list[dict] = []
    targets: list[dict] = []
    try:
        plan = read_json(options.plan)
        machines = machines_of(plan, options.results, json.loads(options.machines))
        source = Source(plan, options.results, options.artifacts, machines)
        with parquet_writer(tables / "latency.parquet", LATENCY_SCHEMA) as writer, workers(plan) as run:
            for model, target in product(plan["models"], plan["targets"]):
                reference = summary.reference_of(
                    plan, [source.cell(model, target, find_variant(plan, plan["baseline"]))]
                )
                own: list[dict] = []
                work = partial(summarise_chunk, source, reference, model, target)
                for part in run(work, chunks(plan["variants"], CHUNK)):
                    own += part.rows
                    levels += part.levels
                    trials += part.trials
                    writer.write_table(part.requests)
                summary.mark_fronts(own)
                targets.append(target_of(plan, model, target, reference, own))
                rows += own
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"aggregate: {options.plan} and the results do not fit: {type(error).__name__}: {error}")
    write_table(tables / "capacity.csv", levels)
    write_table(tables / "arrivals.csv", trials)
    write_table(tables / "cost.csv", list(economy.cost_rows(plan, rows)))
    write_json(tables / "targets.json", targets)
    write_table(options.out / "summary.parquet", rows)
    write_table(options.out / "summary.csv", rows)
    made = {name: digest_file(options.out / name) for name in MADE}
    write_json(tables / "inputs.json", {**inputs_of(plan, options), "files": made})
    say(rows)


@dataclass(frozen=True)
class Part:
    """What a chunk of the variants comes to; the raw records are read, summarised and forgotten."""

    rows: list[dict]
    levels: list[dict]
    trials: list[dict]
    requests: pa.Table


def summarise_chunk(
    source: Source, reference: summary.Reference, model: str, target: str, variants: Sequence[Mapping]
) -> Part:
    part = Part([], [], [], LATENCY_SCHEMA.empty_table())
    requests = []
    for variant in variants:
        cell = source.cell(model, target, variant)
        levels = summary.levels_of(source.plan, cell)
        part.rows.append(summary.row_of(source.plan, cell, levels, reference))
        part.levels.extend(capacity_rows(cell, levels))
        part.trials.extend({**names(cell), **row} for row in trial_rows(cell.searches))
        requests.append(latency_table(cell))
    return replace(part, requests=pa.concat_tables(requests))


def chunks(values: Sequence, size: int) -> list[Sequence]:
    return [values[start : start + size] for start in range(0, len(values), size)]


@contextmanager
def workers(plan: Mapping) -> Iterator[Callable]:
    """A `map` over chunks, in order: in this process, or on all cores where there is much to read."""
    cores = len(os.sched_getaffinity(0))
    if cores == 1 or len(plan["variants"]) < ALONE:
        yield map
        return
    bound = {"initializer": end_with_process, "initargs": (os.getpid(),)}  # a worker would wait for work for ever
    with ProcessPoolExecutor(cores, mp_context=get_context("forkserver"), **bound) as pool:
        yield pool.map


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", required=True, type=Path, help="the resolved plan, plan.json")
    parser.add_argument("--results", required=True, type=Path, help="the sweep's folder, results/<sweep>")
    parser.add_argument("--artifacts", required=True, type=Path, help="results/artifacts")
    machines = (
        "JSON, target -> the machine that it is now (null: where it was measured last); cells of others are stale"
    )
    parser.add_argument("--machines", default="{}", help=machines)
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


def capacity_rows(cell: Cell, levels: Sequence[load.Level]) -> Iterator[dict]:
    best, knee = load.sustained(levels), load.knee(levels)
    for level in levels:
        row = {**names(cell), "clients": level.clients}
        for field, value in asdict(level).items():
            if field in ("images_per_s", "requests_per_s", "goodput_images_per_s", "latency_p95_s"):
                put(row, field, Estimate(**value) if value else None)
            elif field not in ("clients", "rates"):
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


# The columns of tables/latency.parquet that are the records' own.
OF_RECORDS = ("role", "replicate", "block", "order", "prompt_id", "seed", "status", "sent_unix_s", "e2e_s")


def latency_table(cell: Cell) -> pa.Table:
    """One row per request, column by column: there may be millions."""
    records = [record for replicate in cell.replicates for record in replicate.latency]
    columns = {key: [getattr(record, key) for record in records] for key in OF_RECORDS}
    columns |= {name: [value] * len(records) for name, value in names(cell).items()}
    columns |= {part: [latency.part_s(record, part) for record in records] for part in latency.PARTS}
    columns["is_warmup"] = [record.warmup for record in records]
    return pa.table({name: columns[name] for name in LATENCY_SCHEMA.names}, schema=LATENCY_SCHEMA)


def target_of(plan: Mapping, model: str, target: str, reference: summary.Reference, rows: Sequence[Mapping]) -> dict:
    """The A/A test of a model on a target, and its useful time; `rows` are its own."""
    useful_s = {part: sum(row[f"useful_{part}_s"] for row in rows) for part in ("requests", "levels", "images")}
    return {
        "model": model,
        "target": target,
        "baseline": plan["baseline"],
        "aa": asdict(reference.aa) if reference.aa else None,
        "noise_floor": reference.noise_floor,
        "threshold": reference.threshold,
        "host_unfit": reference.host_unfit or None,
        "useful_s": useful_s,
    }


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


LATENCY_COLUMNS = ("model", "target", "variant", *OF_RECORDS, "is_warmup", *latency.PARTS)
LATENCY_SCHEMA = pa.schema([(column, type_of(column)) for column in LATENCY_COLUMNS], {"diffsweep": '{"schema": 1}'})


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[pyarrow.parquet.ParquetWriter]:
    """Write a table piece by piece; the file appears when all of it is there."""
    with atomic(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        yield writer


if __name__ == "__main__":
    run_program(main)
