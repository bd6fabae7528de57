"""The operator traces of a cell for the report, where `snakemake traces` has made some: the top operators per variant."""

from collections.abc import Mapping

from diffsweep.show import words
from diffsweep.show.cells import Cell
from diffsweep.sweep.files import read_json

TOP = 10


def operator_tables(cell: Cell) -> list[dict]:
    """An entry per profiler of each traced variant, in the plan's order: its finding and rows, or why there are none."""
    tables = []
    for row in cell.rows:
        folder = cell.folder / cell.model / cell.target / row["variant"]
        if (folder / "trace.json").exists():
            document = read_json(folder / "trace.json")
            tables += [
                table(document, profiler, found, f"{cell.model}/{cell.target}/{row['variant']}")
                for profiler, found in document["profilers"].items()
            ]
    return tables


def table(document: Mapping, profiler: str, found: Mapping, where: str) -> dict:
    """One table. `where`: the variant's folder in the sweep's."""
    operators = found["operators"]
    rest = operators[TOP:]
    lines = [_line(row["operator"], row["calls"], row["total_s"], row["share"]) for row in operators[:TOP]]
    if rest:
        sums = (sum(row[key] for row in rest) for key in ("calls", "total_s", "share"))
        lines.append(_line(f"{words.count(len(rest), 'other operator')}", *sums))
    outcome = found["outcome"]
    return {
        "variant": document["variant"],
        "profiler": profiler,
        "summary": words.listing([f"{row['operator']} {words.percent(row['share'])}" for row in operators[:3]])
        or f"n/a: {outcome['reason'] or found['note']}",
        "note": _note(document, found, where) if outcome["status"] == "ok" else "",
        "rows": lines,
    }


def _line(operator: str, calls: float, total_s: float, share: float) -> list[str]:
    return [words.shorten(operator, 90), f"{calls:,}", words.seconds(total_s), words.percent(share)]


def _note(document: Mapping, found: Mapping, where: str) -> str:
    """What was traced, how to read the times, and where the raw trace lies."""
    took = f"{words.count(document['images'], 'image')}, traced in {words.seconds(found['traced_s'])}"
    if found["plain_s"] is not None:
        took += f" ({words.seconds(found['plain_s'])} without the profiler)"
    files = ", ".join(f"{where}/{name}" for name in found["files"])
    return f"{took}; {found['note']}. Raw trace: {files}."
