"""The common table of a trace: operator, calls, total time, share; and how it is written."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from diffsweep.sweep.files import atomic, write_json

COLUMNS = ("operator", "calls", "total_s", "share")


@dataclass(frozen=True)
class Operator:
    """All calls of one kind of operator. total_s: time in it and in no operator that it calls, in seconds; what runs
    side by side counts twice. share: of the time in all operators."""

    operator: str
    calls: int
    total_s: float
    share: float


@dataclass(frozen=True)
class Trace:
    """operators: the table, most time first; files: names of the raw traces in the trace's folder; traced_s: what the
    traced call took, profiler included (None where nobody measured it); note: a sentence on how to read the table."""

    operators: list[Operator]
    files: list[str]
    traced_s: float | None
    note: str

    def as_dict(self) -> dict:
        return asdict(self)


def tabulate(calls: Iterable[tuple[str, float]]) -> list[Operator]:
    """The table of single calls, (operator, seconds) each."""
    counts: dict[str, int] = {}
    totals_s: dict[str, float] = {}
    for operator, seconds in calls:
        counts[operator] = counts.get(operator, 0) + 1
        totals_s[operator] = totals_s.get(operator, 0.0) + seconds
    return table(counts, totals_s)


def table(counts: dict[str, int], totals_s: dict[str, float]) -> list[Operator]:
    """The table of counts and total seconds by operator."""
    whole_s = sum(totals_s.values())
    rows = [
        Operator(operator, counts[operator], total_s, total_s / whole_s if whole_s else 0.0)
        for operator, total_s in totals_s.items()
    ]
    return sorted(rows, key=lambda row: (-row.total_s, row.operator))


def write_table(operators: Sequence[Operator], path: Path) -> None:
    """Write the table as `path`.json and `path`.csv."""
    rows = [asdict(row) for row in operators]
    write_json(path.with_suffix(".json"), {"schema": 1, "operators": rows})
    with atomic(path.with_suffix(".csv")) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
