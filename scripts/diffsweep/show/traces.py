"""The operator traces of a cell for the report, where `snakemake traces` made some: the top operators per variant."""

from collections.abc import Mapping

from diffsweep.show import words
from diffsweep.show.cells import Cell
from diffsweep.sweep.files import read_json

TOP = 10


def operator_tables(cell: Cell) -> dict:
    """tables: one per profiler of each traced variant, in the plan's order; absent: a sentence per reason why a
    profiler saw nothing."""
    tables, absent = [], {}
    for row in cell.rows:
        where = f"{cell.model}/{cell.target}/{row['variant']}"
        path = cell.folder / where / "trace.json"
        document = read_json(path) if path.exists() else {"profilers": {}}
        for profiler, found in document["profilers"].items():
            if found["operators"]:
                tables.append(table(document, profiler, found, where))
            else:
                reason = found["outcome"]["reason"] or found["note"]
                absent.setdefault((profiler, reason), []).append(row["variant"])
    sentences = [f"{profiler}, {words.listing(names)}: n/a, {reason}." for (profiler, reason), names in absent.items()]
    return {"tables": tables, "absent": sentences}


def table(document: Mapping, profiler: str, found: Mapping, where: str) -> dict:
    """One table. `where`: the variant's folder in the sweep's."""
    operators = found["operators"]
    lines = [_line(row["operator"], row["calls"], row["total_s"], row["share"]) for row in operators[:TOP]]
    rest = operators[TOP:]
    if rest:
        sums = (sum(row[key] for row in rest) for key in ("calls", "total_s", "share"))
        lines.append(_line(words.count(len(rest), "other operator"), *sums))
    return {
        "variant": document["variant"],
        "profiler": profiler,
        "summary": words.listing([f"{row['operator']} {words.percent(row['share'])}" for row in operators[:3]]),
        "note": _note(document, found, where),
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
