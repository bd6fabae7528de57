"""The table that a sweep ends with in the terminal. Standard library only: it is there at once."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffsweep.show import logs, words
from diffsweep.show.findings import COST, answer, is_baseline, is_ok
from diffsweep.show.selection import few, note

HEADS = ("variant", "speed", "speed-up (95 % interval)", "P50", "images", "FID", "CLIP score", "$/1,000 images")
HOLES = 40  # at most so many lines
WORDS = {0, 1, 4}  # these columns hold words and are aligned to the left

# The columns of summary.csv that the closing words read as text; of the others they only read numbers.
TEXT = set(
    [
        "model",
        "target",
        "variant",
        "parent",
        "engine",
        "precision",
        "compile",
        "status",
        "reason",
        "verdict",
        "quality_verdict",
        "host_unfit",
    ]
)


def read_summary(path: Path) -> list[dict]:
    """The rows of summary.csv; numbers as numbers, empty fields as None."""
    with open(path, encoding="utf-8", newline="") as handle:
        return [{key: _parse(key, value) for key, value in row.items()} for row in csv.DictReader(handle)]


def _parse(key: str, text: str | None):
    if not text or key in TEXT:
        return text or None
    try:
        return float(text)
    except ValueError:
        return text


def closing_words(rows: Sequence[Mapping], results: Path) -> str:
    """Per model and target a table and the answer; where the report lies; what failed, last."""
    blocks = []
    for model, target in dict.fromkeys((row["model"], row["target"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["target"]) == (model, target)]
        unfit = next((row["host_unfit"] for row in mine if row.get("host_unfit")), None)
        shown = few(mine)
        blocks.append(f"\n{model} on {target}\n{_table([HEADS, *(_line(row) for row in shown)])}\n{note(mine)}")
        blocks.append(f"{answer(mine, unfit).headline}.")
    blocks.append(f"Report: {results / 'report.html'}")
    holes = [row for row in rows if not is_ok(row)]
    if holes:
        blocks.append(f"\n{words.count(len(holes), 'variant')} without a result:")
        blocks += [_hole(row, results) for row in holes[:HOLES]]
        blocks += [f"  and {len(holes) - HOLES} more, in summary.csv"] if len(holes) > HOLES else []
    return "\n".join(blocks)


def _line(row: Mapping) -> tuple[str, ...]:
    speed = "baseline" if is_baseline(row) and is_ok(row) else words.verdict_words(row.get("verdict"), row["status"])
    quality = "reference" if is_baseline(row) and is_ok(row) else row.get("quality_verdict")
    return (
        row["variant"],
        speed,
        words.with_interval(*_triple(row, "speedup"), words.factor),
        words.seconds(row.get("latency_e2e_p50_s")),
        words.NOT_MEASURED if words.missing(quality) else str(quality),
        words.number(row.get("fid")),
        words.number(row.get("clip_score")),
        words.money(row.get(COST)),
    )


def _triple(row: Mapping, column: str) -> tuple:
    return row.get(column), row.get(f"{column}_low"), row.get(f"{column}_high")


def _table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]

    def padded(line: Sequence[str]) -> str:
        cells = (t.ljust(w) if i in WORDS else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True)))
        return "  " + "  ".join(cells).rstrip()

    return "\n".join(padded(line) for line in lines)


def _hole(row: Mapping, results: Path) -> str:
    log = logs.log_of(row, results)
    where = f" (log: {log})" if log else ""
    name = f"{row['model']}/{row['target']}/{row['variant']}"
    return f"  {name}: {row['status']}: {row.get('reason') or 'no reason given'}{where}"
