"""Every picture of one cell (a model on a target): which there are, what each says, what it is made from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from diffsweep.analysis import pareto
from diffsweep.analysis.cost import UTILISATIONS
from diffsweep.show import (
    clocks_plot,
    comparison_plot,
    cost_plot,
    costs,
    curve_plot,
    image_grid,
    latency_plot,
    pareto_plot,
    sentences,
    speedup_plot,
    style,
    throughput_plot,
    words,
)
from diffsweep.show.cells import Cell, requests_of, triple, why_missing
from diffsweep.show.findings import Row, is_baseline, is_ok
from diffsweep.show.samples import sample_images
from diffsweep.show.selection import few, note

GRID_COLUMNS = 6
THROUGHPUT = ("images_per_s", "images_per_s_low", "images_per_s_high")


@dataclass(frozen=True)
class Picture:
    """A finished figure. alt: what it shows, for those who do not see it; dpi: None where it is the usual one."""

    name: str
    section: str
    figure: Figure
    frame: style.Frame
    alt: str
    svg: bool = True
    dpi: int = style.PNG_DPI


def pictures(cell: Cell) -> Iterator[Picture]:
    """All pictures of a cell, one after the other. Always the same names, whatever was measured."""
    for name, (x, y) in PARETO.items():
        yield _pareto(cell, name, x, y)
    if len(cell.rows) == 2:
        yield _comparison(cell)
    yield _latency(cell)
    yield _speedups(cell)
    yield _clocks(cell)
    yield _throughput(cell)
    yield _curves(cell)
    yield _costs(cell)
    yield _images(cell)


def names(variants: int) -> list[str]:
    """The names of the pictures of a sweep with so many variants."""
    compared = ["comparison"] if variants == 2 else []
    loaded = ["throughput", "latency-throughput", "cost"]
    return [*PARETO, *compared, "latency", "speedup", "clocks", *loaded, "images"]


# --- fronts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """A column of the summary as an axis; smaller is better in all of them."""

    column: str
    label: str
    name: str
    show: Callable[[float], str]
    compared_by: str = ""  # the columns of its interval, where these are not its own

    def of(self, row: Row) -> tuple[float, float, float]:
        """Value, low, high."""
        compared = triple(row, self.compared_by) if f"{self.compared_by}_low" in row else triple(row, self.column)
        return triple(row, self.column)[0], *compared[1:]


LATENCY = Quantity("latency_e2e_p50_s", "end-to-end latency, P50", "P50 latency", words.seconds)
FID = Quantity("fid", "FID against reference images", "FID", words.number, compared_by="fid_in_pairs")
COST = Quantity(
    "usd_per_1000_images_on_demand", "cost per 1,000 images, US$ on demand", "cost per 1,000 images", words.money
)
PARETO = {
    "pareto-latency-fid": (LATENCY, FID),
    "pareto-cost-fid": (COST, FID),
    "pareto-latency-cost": (LATENCY, COST),
}


def points(rows: Sequence[Row], x: Quantity, y: Quantity) -> list[pareto_plot.Point]:
    """The variants that ended well and have both quantities, each with its standing."""
    known = sentences.measured(rows, x.column, y.column)
    values = [(x.of(row), y.of(row)) for row in known]
    on_front = pareto.front([(a[0], b[0]) for a, b in values])
    beaten = pareto.surely_dominated([(_ends(a), _ends(b)) for a, b in values])
    standing = [
        pareto_plot.ON_FRONT if first else pareto_plot.BEATEN if last else pareto_plot.CONTENDER
        for first, last in zip(on_front, beaten, strict=True)
    ]
    return [
        pareto_plot.Point(row["variant"], row["engine"], row["precision"], *a, *b, place, is_baseline(row))
        for row, (a, b), place in zip(known, values, standing, strict=True)
    ]


def _ends(value: tuple[float, float, float]) -> tuple[float | None, float | None]:
    """The interval's ends as analysis.pareto wants them: None where there are none."""
    return tuple(None if words.missing(v) else v for v in value[1:])


def _pareto(cell: Cell, name: str, x: Quantity, y: Quantity) -> Picture:
    shown = points(cell.rows, x, y)
    finding = (
        sentences.front_with_fid(cell.rows, x.column, x.name, x.show)
        if y is FID
        else sentences.front_with_cost(cell.rows)
    )
    frame = _frame(
        cell,
        finding,
        f"{cell.name}: {x.name} against {y.name}; both are better when smaller"
        + ("; FID's intervals are those of the paired difference to the baseline" if y is FID else ""),
        _left_out(cell.rows, {p.name for p in shown}) + pareto_plot.crowd_note(shown),
    )
    figure = pareto_plot.draw(shown, _axis(x, [p.x for p in shown]), _axis(y, [p.y for p in shown]), frame)
    front = words.listing([p.name for p in shown if p.standing == pareto_plot.ON_FRONT], 12)
    alt = f"Scatter plot, {x.name} against {y.name}, of {words.count(len(shown), 'variant')}. On the front: {front}."
    return Picture(name, "pareto", figure, frame, alt)


def _axis(quantity: Quantity, values: Sequence[float]) -> pareto_plot.Axis:
    if quantity is not LATENCY:
        return pareto_plot.Axis(quantity.label, prefix="$" if quantity is COST else "")
    milliseconds = bool(len(values)) and float(np.median(values)) < 1
    unit, factor = ("ms", 1e3) if milliseconds else ("s", 1.0)
    return pareto_plot.Axis(f"{quantity.label}, {unit}", factor)


def _left_out(rows: Sequence[Row], shown: set[str]) -> str:
    """Which variants are not in the picture, and why."""
    absent = [row for row in rows if row["variant"] not in shown]
    said = [f"{row['variant']} ({'not measured' if is_ok(row) else row['status']})" for row in absent]
    return f"Not shown: {words.listing(said, 8)}. " if said else ""


# --- latency --------------------------------------------------------------------------------------------------------


def _fastest_first(rows: Sequence[Row]) -> list[Row]:
    """Rows by median latency; those that have none, or did not end well, at the end."""
    return sorted(rows, key=lambda r: (not sentences.measured([r], sentences.P50), r.get(sentences.P50) or 0))


def _latency(cell: Cell) -> Picture:
    strips = []
    for row in _fastest_first(few(cell.rows)):
        requests = requests_of(cell, row["variant"] if is_ok(row) else None)
        times, replicates = requests["e2e_s"].to_numpy(float), requests["replicate"].to_numpy()
        marks = triple(row, "latency_e2e_p50_s"), triple(row, "latency_e2e_p95_s")
        identity = row["variant"], row["engine"]
        strips.append(latency_plot.Strip(*identity, times, replicates, *marks, why_missing(row), is_baseline(row)))
    subtitle = f"{cell.name}: every measured request, a lane for each replicate (fresh servers); fastest first"
    frame = _frame(cell, sentences.latency(cell.rows), subtitle, note(cell.rows))
    alt = f"Strip plot of the latency of every measured request of {words.count(len(strips), 'variant')}."
    return Picture("latency", "latency", latency_plot.draw(strips, frame), frame, alt)


def _speedups(cell: Cell) -> Picture:
    def order(row: Row) -> tuple:
        return (not sentences.measured([row], "speedup"), -(row.get("speedup") or 0))

    entries = [
        speedup_plot.Speedup(
            row["variant"],
            row["engine"],
            *(triple(row, "speedup") if is_ok(row) else (np.nan,) * 3),
            words.verdict_words(row.get("verdict"), row["status"]),
            why_missing(row),
            is_baseline(row),
        )
        for row in sorted(few(cell.rows), key=order)
    ]
    threshold = cell.host.get("threshold")
    subtitle = f"{cell.name}: speed-up of undisturbed requests; the baseline's own row is the A/A test"
    frame = _frame(cell, sentences.speedups(cell.rows), subtitle, note(cell.rows))
    figure = speedup_plot.draw(entries, np.nan if words.missing(threshold) else float(threshold), frame)
    alt = f"Forest plot: the speed-up of {words.count(len(entries), 'variant')} with intervals and verdicts."
    return Picture("speedup", "latency", figure, frame, alt)


def _clocks(cell: Cell) -> Picture:
    entries = []
    for row in _fastest_first(few(cell.rows)):
        known = (
            {key: row.get(f"clock_{key.removesuffix('_s')}_mean_s") for key in clocks_plot.PARTS} if is_ok(row) else {}
        )
        parts = {key: float(value) for key, value in known.items() if not words.missing(value)}
        entries.append(clocks_plot.Clocks(row["variant"], parts, why_missing(row), is_baseline(row)))
    shares = [(e.name, e.share("steps_s"), e.share("residual_s")) for e in entries if e.parts_s]
    subtitle = f"{cell.name}: where a request's time goes (means); the residual is what no clock accounts for"
    frame = _frame(cell, sentences.clocks(shares), subtitle, note(cell.rows))
    alt = f"Stacked bars: the parts of a request's time of {words.count(len(entries), 'variant')}."
    return Picture("clocks", "latency", clocks_plot.draw(entries, frame), frame, alt)


def _comparison(cell: Cell) -> Picture:
    baseline, variant = sorted(cell.rows, key=is_baseline, reverse=True)
    subtitle = f"{cell.name}: both were asked in turns (A B B A), with the same prompts and seeds"
    frame = _frame(cell, sentences.comparison(cell, variant), subtitle)
    sides = [
        comparison_plot.Side(
            row["variant"],
            row["engine"],
            requests_of(cell, row["variant"] if is_ok(row) else None)["e2e_s"].to_numpy(float),
            {s: triple(row, f"latency_e2e_{s}_s") for s in comparison_plot.STATISTICS},
        )
        for row in (baseline, variant)
    ]
    alt = f"Histogram and cumulative share of the latencies of {baseline['variant']} and {variant['variant']}."
    return Picture("comparison", "comparison", comparison_plot.draw(*sides, frame), frame, alt)


# --- load and images ------------------------------------------------------------------------------------------------


def _throughput(cell: Cell) -> Picture:
    loads = []
    for row in few(cell.rows):
        levels = cell.levels[cell.levels["variant"] == (row["variant"] if is_ok(row) else None)].sort_values("clients")
        known = (
            [levels[column].to_numpy(float) for column in ("clients", *THROUGHPUT)]
            if len(levels)
            else [np.array([])] * 4
        )
        marks = [levels[mark].to_numpy(bool) if len(levels) else np.array([]) for mark in ("valid", "is_sustained")]
        identity = row["variant"], row["engine"]
        loads.append(throughput_plot.Load(*identity, *known, *marks, why_missing(row), is_baseline(row)))
    subtitle = f"{cell.name}: images per second from one server, against the number of clients that ask at once"
    frame = _frame(cell, sentences.throughput(cell.rows), subtitle, note(cell.rows))
    alt = f"Small line plots: images per second by number of clients, of {words.count(len(loads), 'variant')}."
    return Picture("throughput", "load", throughput_plot.draw(loads, frame), frame, alt)


LEVELS = ("clients", "images_per_s", "latency_mean_s", "latency_p95_s", "latency_max_s", "valid")
RUNS = ("rate_per_s", "latency_p95_s", "is_within")


def _curves(cell: Cell) -> Picture:
    curves = []
    for row in few(cell.rows):
        name = row["variant"] if is_ok(row) else None
        levels = cell.levels[cell.levels["variant"] == name].sort_values("clients")
        levels = levels[levels["images_per_s"].notna()] if len(levels) else levels
        runs = cell.runs[(cell.runs["variant"] == name) & cell.runs["valid"].astype(bool)] if len(cell.runs) else []
        curves.append(
            curve_plot.Curve(
                row["variant"],
                row["engine"],
                levels[list(LEVELS)].to_numpy(float) if len(levels) else np.empty((0, len(LEVELS))),
                runs[list(RUNS)].to_numpy(float) if len(runs) else np.empty((0, len(RUNS))),
                *(triple(row, column)[0] if is_ok(row) else np.nan for column in ("knee_clients", "objective_s")),
                triple(row, "rate_within_objective_images_per_s"),
                why_missing(row),
                is_baseline(row),
            )
        )
    subtitle = f"{cell.name}: what a request waits for at each load, from few clients to many"
    frame = _frame(cell, sentences.curves(cell.rows), subtitle, note(cell.rows))
    alt = f"Small line plots: latency against images per second, of {words.count(len(curves), 'variant')}."
    return Picture("latency-throughput", "load", curve_plot.draw(curves, frame), frame, alt)


def _costs(cell: Cell) -> Picture:
    entries = costs.entries(replace(cell, rows=few(cell.rows)))
    less = ", ".join(f"{u * 100:.0f}" for u in UTILISATIONS[1:])
    subtitle = f"{cell.name}: dot: the server is busy all of the time that is paid; ticks: {less} % of it"
    frame = _frame(cell, costs.finding(cell.rows), subtitle, note(cell.rows))
    alt = f"Dot plot: cost per 1,000 images of {words.count(len(entries), 'variant')}, on demand and spot."
    return Picture("cost", "cost", cost_plot.draw(entries, UTILISATIONS, frame), frame, alt)


def _images(cell: Cell) -> Picture:
    rows = few(cell.rows)
    shown = sample_images(replace(cell, rows=rows), GRID_COLUMNS)
    galleries = []
    for row in rows:
        name = row["variant"]
        galleries.append(
            image_grid.Gallery(
                name, shown.images[name], sentences.gallery_lines(row), why_missing(row), is_baseline(row)
            )
        )
    subtitle = f"{cell.name}: the same prompts, seeds and initial noise in every row"
    frame = _frame(cell, sentences.images(cell.rows), subtitle, note(cell.rows))
    figure = image_grid.draw(galleries, shown.prompts, frame)
    rows, columns = words.count(len(galleries), "variant"), words.count(len(shown.prompts), "prompt")
    return Picture(
        "images", "images", figure, frame, f"Sample images of {rows}, a row each, for {columns}.", False, image_grid.DPI
    )


def _frame(cell: Cell, finding: str, subtitle: str, left_out: str = "") -> style.Frame:
    """Nothing is claimed on a host that is unfit, and every picture from there says so."""
    finding = sentences.NO_FINDING if cell.unfit else finding
    return style.Frame(finding, subtitle, left_out + sentences.footnote(cell), cell.unfit)
