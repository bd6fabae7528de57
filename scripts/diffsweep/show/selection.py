"""Which variants a picture with a row for each shows when there are too many: those that a decision is between.

All of them stand in the scatter plots, in the table (by filter) and in summary.csv.
"""

from collections.abc import Sequence

from diffsweep.show import words
from diffsweep.show.findings import Row, is_baseline, is_ok

ROWS = 40  # rows that a picture is still read with
TABLE_ROWS = 200  # rows that a page's table shows at once


def few(rows: Sequence[Row], most: int = ROWS) -> list[Row]:
    """At most `most` of `rows`, in their order: the baseline, then the fronts, then the fastest of the others."""
    if len(rows) <= most:
        return list(rows)
    chosen = {row["variant"] for row in sorted(rows, key=_rank)[:most]}
    return [row for row in rows if row["variant"] in chosen]


def _rank(row: Row) -> tuple:
    fronts = sum(value in (True, "true") for key, value in row.items() if key.startswith("pareto_"))
    speedup = row.get("speedup")
    return (not is_baseline(row), not is_ok(row), -fronts, -(0.0 if words.missing(speedup) else speedup))


def note(rows: Sequence[Row], most: int = ROWS) -> str:
    """What a picture says of those that it leaves out; nothing when it shows all."""
    if len(rows) <= most:
        return ""
    return f"{most} of {words.count(len(rows), 'variant')} are shown: the baseline, the fronts, the fastest others. "
