"""Figures that a benchmark measured against their limits: printed, and kept in a table beside those of the others."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from diffsweep.measure import host  # the benchmark that imports this has put scripts/ on the path

RATIO = "ratio"  # the unit of what has none; such a figure keeps four decimals
COLUMNS = ("benchmark", "what", "value", "unit", "limit", "machine", "cores", "git_revision", "measured_at")


@dataclass(frozen=True)
class Figure:
    """limit: in the same unit; None where there is none."""

    what: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def missed(self) -> bool:
        return self.limit is not None and self.value > self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"  (limit {self.limit:g} {self.unit})"
        return f"{self.what:60} {self.value:8.{4 if self.unit == RATIO else 2}f} {self.unit:5}{limit}" + (
            "  MISSED" if self.missed else ""
        )


def circumstances() -> dict:
    """Where, on which code and when this is measured."""
    here = host.describe()
    return {
        "machine": here["cpu"],
        "cores": here["cores_usable"],
        "git_revision": here["git_revision"],
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def keep(path: Path, benchmark: str, figures: Sequence[Figure]) -> None:
    """Write `figures` into the table at `path`, in place of those that `benchmark` left there before."""
    known = {"benchmark": benchmark, **circumstances()}
    earlier = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    new = [
        {
            **known,
            "what": f.what,
            "value": round(f.value, 4 if f.unit == RATIO else 2),
            "unit": f.unit,
            "limit": f.limit,
        }
        for f in figures
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows([row for row in earlier if row["benchmark"] != benchmark] + new)


def conclude(figures: Sequence[Figure], benchmark: str, out: Path | None) -> int:
    """Print the figures, keep them at `out` where that is given; the exit code, 1 where a limit is missed."""
    for figure in figures:
        print(figure)
    if out:
        keep(out, benchmark, figures)
    return int(any(figure.missed for figure in figures))
