"""What the pictures and the report are made from: one cell per model and target, read from plan, summary and tables."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from diffsweep.show import words
from diffsweep.show.findings import Row, is_baseline, is_ok
from diffsweep.sweep.files import read_json


@dataclass(frozen=True)
class Cell:
    """One model on one target.

    rows: its lines of the summary in the plan's order, None where not measured. requests: its successful measured
    requests, a line each (tables/latency.parquet: variant, role, replicate, e2e_s, sent_unix_s). levels: a line per
    variant and load level (tables/capacity.csv). host: its entry in tables/targets.json. folder: results/<sweep>. runs:
    a line per run of an open loop (tables/arrivals.csv).
    """

    plan: Mapping[str, Any]
    model: str
    target: str
    rows: Sequence[Row]
    requests: pd.DataFrame
    levels: pd.DataFrame
    host: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    runs: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def baseline(self) -> Row | None:
        return next((row for row in self.rows if is_baseline(row)), None)

    @property
    def name(self) -> str:
        return f"{self.model} on {self.target}"

    @property
    def unfit(self) -> str | None:
        """Why differences measured on this host cannot be trusted; None where they can."""
        return self.host.get("host_unfit") or None

    @property
    def only(self) -> bool:
        """Is this the sweep's only cell?"""
        return len(self.plan["models"]) * len(self.plan["targets"]) == 1


REQUEST_COLUMNS = ["model", "target", "variant", "role", "replicate", "e2e_s", "sent_unix_s"]


def read_cells(results: Path) -> list[Cell]:
    """All cells of the sweep in the folder `results`. Raises OSError, ValueError: a table is missing or broken."""
    plan = read_json(results / "plan.json")
    rows = pyarrow.parquet.read_table(results / "summary.parquet").to_pylist()
    requests = read_requests(results / "tables" / "latency.parquet")
    levels, runs = (read_table(results / "tables" / f"{name}.csv") for name in ("capacity", "arrivals"))
    hosts = {(host["model"], host["target"]): host for host in read_json(results / "tables" / "targets.json")}
    return [
        Cell(
            plan,
            model,
            target,
            in_plan_order(plan, [row for row in rows if (row["model"], row["target"]) == (model, target)]),
            of_cell(requests, model, target),
            of_cell(levels, model, target),
            hosts.get((model, target), {}),
            results,
            of_cell(runs, model, target),
        )
        for model in plan["models"]
        for target in plan["targets"]
    ]


def read_table(path: Path) -> pd.DataFrame | None:
    """A table; None where nothing was measured for it, which leaves it without columns, or it is not there."""
    return pd.read_csv(path) if path.exists() and path.read_text(encoding="utf-8").strip() else None


def read_requests(path: Path) -> pd.DataFrame | None:
    """The successful measured requests; None when there is not one."""
    table = pyarrow.parquet.read_table(path)
    if "e2e_s" not in table.column_names:
        return None
    frame = table.select([*REQUEST_COLUMNS, "is_warmup", "status"]).to_pandas()
    return frame[~frame["is_warmup"].astype(bool) & (frame["status"] == "ok")][REQUEST_COLUMNS]


EMPTY = pd.DataFrame({"variant": [], "role": [], "replicate": [], "e2e_s": [], "sent_unix_s": [], "clients": []})


def of_cell(frame: pd.DataFrame | None, model: str, target: str) -> pd.DataFrame:
    if frame is None:
        return EMPTY
    return frame[(frame["model"] == model) & (frame["target"] == target)]


def in_plan_order(plan: Mapping, rows: Sequence[Row]) -> list[Row]:
    position = {variant["name"]: index for index, variant in enumerate(plan["variants"])}
    return sorted(rows, key=lambda row: position.get(row["variant"], len(position)))


def requests_of(cell: Cell, variant: str, role: str = "variant") -> pd.DataFrame:
    """One side's requests in a variant's own job."""
    frame = cell.requests
    return frame[(frame["variant"] == variant) & (frame["role"] == role)]


def triple(row: Row, column: str) -> tuple[float, float, float]:
    """A value with its interval as floats, NaN where missing."""
    values = (row.get(column), row.get(f"{column}_low"), row.get(f"{column}_high"))
    return tuple(np.nan if words.missing(v) else float(v) for v in values)


def why_missing(row: Row) -> str:
    """Why a variant has no figures: how it ended, and the reason."""
    if is_ok(row):
        return words.NOT_MEASURED
    return f"{row['status']}: {row.get('reason') or 'no reason given'}"


def runs_of(cell: Cell) -> set[str]:
    """The runs that the replicates and the images come from."""
    return {run for row in cell.rows for run in (row["runs"] or "").split()}


def notes_of(cell: Cell) -> Iterator[Mapping]:
    """The replicate.json of each replicate that has one, the baseline's first."""
    names = sorted((row["variant"] for row in cell.rows), key=lambda n: n != cell.plan["baseline"])
    for name in names:
        for path in sorted((cell.folder / cell.model / cell.target / name).glob("replicate-*/replicate.json")):
            yield json.loads(path.read_text(encoding="utf-8"))
