"""The report's tables of variants: which columns, and each cell as text with its interval, its reason, its sort key."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from markupsafe import Markup

from diffsweep.show import palette, words
from diffsweep.show.cells import why_missing
from diffsweep.show.findings import Row, is_baseline, is_ok, signed


@dataclass(frozen=True)
class Column:
    """One column. show: value -> text; key: the summary's column; interval: whether low and high stand below, and
    no_interval what stands there without them; remark: what stands there besides.

    is_text: it holds words, not numbers; first: which way the first click sorts; why: row -> why a value is missing.
    cell: row -> the whole cell, for a column that is more than a value.
    """

    head: str
    help: str
    key: str
    show: Callable = words.number
    interval: bool = False
    is_text: bool = False
    first: str = "ascending"
    why: Callable[[Row], str] = lambda row: "not measured"
    no_interval: Callable[[Row], str] = lambda row: ""
    remark: Callable[[Row], str] = lambda row: ""
    cell: "Callable[[Row], TableCell] | None" = None


@dataclass(frozen=True)
class TableCell:
    """text; below: its interval or remark; why, short: the reason where it is n/a; kind: the class of a verdict."""

    text: str
    below: str = ""
    why: str = ""
    short: str = ""
    kind: str = ""
    sort: str = ""


@dataclass(frozen=True)
class TableRow:
    name: str
    change: str
    baseline: bool
    colour: str
    status: str
    reason: str
    cells: Sequence[TableCell]


@dataclass(frozen=True)
class Table:
    """everything: all rows as JSON, for report.js to page through, where `rows` are only some of them."""

    label: str
    columns: Sequence[Column]
    rows: Sequence[TableRow]
    everything: Markup = Markup("")


def withheld(quantile: str) -> Callable[[Row], str]:
    """Why a quantile is not told: "n < 368"."""

    def why(row: Row) -> str:
        parts = dict(part.split(": ", 1) for part in (row.get("quantiles_withheld") or "").split("; ") if ": " in part)
        return parts.get(quantile, "not measured")

    return why


def drifts(row: Row) -> str:
    """Why a high quantile has no interval (stats.quantile_over_replicates)."""
    return "no interval: drifts" if "latency drifts" in (row.get("warnings") or "") else ""


def no_cost(row: Row) -> str:
    told = [w for w in (row.get("warnings") or "").split("; ") if w.startswith("no cost")]
    if told:
        return told[0]
    return "no price" if words.missing(row.get("usd_per_hour_on_demand")) else "no valid load level"


def not_compared(row: Row) -> str:
    return "the baseline" if is_baseline(row) else "not measured"


def baseline_beside(row: Row) -> str:
    """What the speed-up compares with. The host's pace drifts, so this differs from the P50 in the baseline's row."""
    beside_s = row.get("speedup_baseline_p50_s")
    return "" if is_baseline(row) or words.missing(beside_s) else f"of {words.seconds(beside_s)}"


def times(head: str, help_: str, key: str, **options) -> Column:
    return Column(head, help_, key, words.seconds, **options)


def percentile(name: str) -> Column:
    of_latency = f"{name.removeprefix('P')}th percentile of the end-to-end latency, with its 95 % interval"
    key = f"latency_e2e_{name.lower()}_s"
    return times(name, of_latency, key, interval=True, why=withheld(name), no_interval=drifts)


def _verdict(row: Row) -> TableCell:
    if not is_ok(row):
        return TableCell(row["status"], "see Failures", kind=row["status"], sort=row["status"])
    verdict = row.get("verdict")
    if words.missing(verdict):
        return TableCell(words.NOT_MEASURED, why="not measured", short="not measured")
    sign = words.VERDICT_SIGNS.get(verdict, "")
    return TableCell(
        f"{sign} {verdict}", "A/A test" if is_baseline(row) else "", kind=verdict.replace(" ", "-"), sort=verdict
    )


NAME = Column(
    "variant", "what is compared; below it the one thing that changes against its parent", "variant", str, is_text=True
)
VERDICT = Column("speed", "verdict on the speed-up (METHOD.md)", "verdict", str, is_text=True, cell=_verdict)
SPEEDUP = Column(
    "speed-up",
    "baseline time / variant time of undisturbed requests, with its 95 % interval and the baseline's median in the "
    "same minutes: other than its own row's, where the host's pace drifts",
    "speedup",
    words.factor,
    True,
    first="descending",
    remark=baseline_beside,
)
P50 = times("P50", "median end-to-end latency with its 95 % interval", "latency_e2e_p50_s", interval=True)
P95 = percentile("P95")
P99 = percentile("P99")
IMAGES = Column(
    "images",
    "are the images worse than the baseline's? CLIP score and FID in pairs, each against its margin",
    "quality_verdict",
    str,
    is_text=True,
    why=not_compared,
)
FID = Column(
    "FID", "distance to the reference images, smaller is better, with its 95 % interval", "fid", words.number, True
)
CLIP = Column(
    "CLIP score",
    "agreement with the prompt, larger is better, with its 95 % interval",
    "clip_score",
    words.number,
    True,
    first="descending",
)
RATE = Column(
    "images/s",
    "sustained throughput of one server",
    "images_per_s",
    words.number,
    True,
    first="descending",
    why=lambda row: "no valid load level",
)
COST = Column(
    "$/1,000",
    "US dollars per 1,000 images at the sustained throughput, on demand",
    "usd_per_1000_images_on_demand",
    words.money,
    True,
    why=no_cost,
)
MEMORY = Column("memory", "peak memory of the server process", "peak_memory_bytes", words.size)
MAIN = (NAME, VERDICT, SPEEDUP, P50, P95, IMAGES, FID, CLIP, RATE, COST)

MORE = (
    NAME,
    Column("requests", "measured requests, warm-up not counted", "requests", words.fixed(0)),
    times(
        "mean",
        "mean end-to-end latency; the interval is the one between replicates",
        "latency_e2e_mean_s",
        interval=True,
    ),
    times("sd", "standard deviation of the end-to-end latency", "latency_e2e_sd_s"),
    percentile("P90"),
    P99,
    times("max", "slowest request", "latency_e2e_max_s"),
    times("sampling P50", "all denoising steps of a request", "latency_sampling_p50_s", interval=True),
    times("step P50", "one denoising step", "latency_step_p50_s", interval=True),
    Column("residual", "median share of a request that no clock accounts for", "residual_share", words.percent),
    Column(
        "$/1,000 spot",
        "US dollars per 1,000 images at the spot price",
        "usd_per_1000_images_spot",
        words.money,
        True,
        why=no_cost,
    ),
    Column(
        "CLIP change", "CLIP score minus the baseline's, in pairs", "clip_difference", signed, True, why=not_compared
    ),
    Column("FID change", "FID minus the baseline's, in pairs", "fid_difference", signed, True, why=not_compared),
    Column(
        "images/s in time",
        "the highest rate of requests that come by chance with P95 within the objective",
        "rate_within_objective_images_per_s",
        words.number,
        True,
        first="descending",
        why=lambda row: "see `snakemake arrivals`",
    ),
    Column("goodput", "images per second within the objective at that rate", "goodput_images_per_s"),
    Column("knee", "clients at once from which on throughput does not rise", "knee_clients", words.fixed(0)),
    Column("SSIM", "median similarity to the baseline's images; below: the worst 5 %", "ssim_median", words.fixed(3)),
    Column("PSNR, dB", "median against the baseline's images", "psnr_db_median", words.psnr),
    Column(
        "attributes",
        "share of the prompt's attributes that a classifier finds",
        "attributes_right",
        words.percent,
        True,
    ),
    Column("defects", "black, constant or NaN images", "defects", words.fixed(0)),
    times("start", "server start to ready, two servers at a time, the slowest replicate", "start_s"),
    times(
        "first image",
        "start and first image (of its server, where another variant's was first), the slowest replicate",
        "first_image_s",
    ),
    MEMORY,
    times("build", "time to build the artifact", "build_s"),
    Column("size", "bytes of everything that the engine reads at load", "artifact_bytes", words.size),
)


def table(rows: Sequence[Row], columns: Sequence[Column], label: str) -> Table:
    """The variants as a table. The first column is the name; a variant without any figure is its reason only."""
    return Table(label, columns, [_row(row, columns[1:]) for row in rows])


def large_table(rows: Sequence[Row], shown: Sequence[Row], columns: Sequence[Column], label: str) -> Table:
    """A table of which the page holds the `shown` rows as they are and all `rows` as data: a browser lays out a few
    hundred rows at once, not thousands."""
    data = [[*_facts(row), asdict(_row(row, columns[1:]))] for row in rows]
    text = json.dumps([_compact(*entry) for entry in data], separators=(",", ":"), ensure_ascii=False)
    return replace(table(shown, columns, label), everything=Markup(text.replace("<", "\\u003c")))


def _facts(row: Row) -> tuple[bool, str]:
    """Is the variant on a front; the words that a reader may look for."""
    on_front = any(value is True for key, value in row.items() if key.startswith("pareto_"))
    return on_front, " ".join(str(row.get(key) or "") for key in ("engine", "precision", "scheduler", "status"))


def _compact(on_front: bool, words_: str, row: dict) -> list:
    cells = [[cell[key] for key in ("text", "below", "why", "short", "kind", "sort")] for cell in row["cells"]]
    known = [row[key] for key in ("name", "change", "baseline", "colour", "status", "reason")]
    return [*known, on_front, words_, [] if row["reason"] else cells]


def _row(row: Row, columns: Sequence[Column]) -> TableRow:
    cells = [_cell(row, column) for column in columns]
    empty = not is_ok(row) and all(cell.why or cell.kind == row["status"] for cell in cells)
    reason = row.get("reason") or "no reason given"
    remark = "the baseline" if is_baseline(row) else words.change(row.get("change"))
    return TableRow(
        name=row["variant"],
        change=remark,
        baseline=is_baseline(row),
        colour=f"var(--engine-{row['engine'] if row['engine'] in palette.ENGINE_COLOURS else 'other'})",
        status=row["status"],
        reason=reason if empty else "",
        cells=cells,
    )


def _cell(row: Row, column: Column) -> TableCell:
    if column.cell is not None:
        return column.cell(row)
    value = row.get(column.key)
    if words.missing(value):
        why = column.why(row) if is_ok(row) else why_missing(row)
        return TableCell(words.NOT_MEASURED, why=why, short=words.shorten(why, 28) if is_ok(row) else row["status"])
    if column.is_text:
        return TableCell(str(value), kind=str(value).replace(" ", "-"), sort=str(value))
    text = column.show(value)
    between = words.interval(row.get(f"{column.key}_low"), row.get(f"{column.key}_high"), column.show, text)
    interval = between or column.no_interval(row) if column.interval else ""
    below = ", ".join(filter(None, (interval, column.remark(row))))
    return TableCell(text, below, sort=repr(float(value)))
