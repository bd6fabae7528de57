"""US dollars per 1,000 images at 100, 75, 50 and 25 % utilisation, on demand and spot: a row per variant."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffsweep.show import palette, style, words
from diffsweep.show.axes import above, beside, rows, scale

ROW_IN = 0.4
NAME_IN = 1.75
NUMBERS_IN = 3.15
OFFSET = 0.17  # of a market's line from the middle of its row
COLUMNS_IN = {"on demand": 0.85, "spot": 1.63}
PAYBACK_IN = 1.77

Triple = tuple[float, float, float]  # value, low, high; NaN where not measured


@dataclass(frozen=True)
class Cost:
    """One variant. on_demand, spot: US$ per 1,000 images at full utilisation; objective: the same at the highest rate
    within the latency objective, on demand; payback: words; note: why there is none of it."""

    name: str
    engine: str
    on_demand: Triple
    spot: Triple
    objective: Triple
    payback: str
    note: str = ""
    baseline: bool = False

    @property
    def known(self) -> list[float]:
        values = [v for triple in (self.on_demand, self.spot, self.objective) for v in triple]
        return [v for v in values if not words.missing(v)]


def draw(costs: Sequence[Cost], utilisations: Sequence[float], frame: style.Frame) -> Figure:
    """`utilisations` in falling order, 1 first."""
    measured = [cost for cost in costs if cost.known]
    if not measured:
        canvas = style.framed(frame, 1.6)
        style.empty_note(canvas, "There is nothing to draw: no variant has both a throughput and a price.")
        return canvas.figure
    canvas = style.framed(frame, len(costs) * ROW_IN + 0.85)
    axes = canvas.axes(left=NAME_IN, right=NUMBERS_IN, bottom=0.5, top=0.3)
    spread = [v / u for cost in measured for v in cost.known for u in (1, utilisations[-1])]
    suffix = ", log scale" if scale(axes, "x", spread, pad=0.03, prefix="$") else ""
    axes.set_xlabel(f"US$ per 1,000 images{suffix} (further left is better)", labelpad=6)
    unmeasured = {cost.name for cost in costs if not cost.known}
    rows(axes, [cost.name for cost in costs], bold={c.name for c in costs if c.baseline}, grey=unmeasured)
    for y, cost in enumerate(costs):
        _draw_row(axes, y, cost, utilisations)
    _draw_heads(axes, any(not words.missing(cost.objective[0]) for cost in costs))
    return canvas.figure


def _draw_row(axes: Axes, y: int, cost: Cost, utilisations: Sequence[float]) -> None:
    text = {"transform": axes.get_yaxis_transform(), "va": "center_baseline", "size": 8.6}
    if not cost.known:
        note = style.escape(words.shorten(cost.note or words.NOT_MEASURED, 84))
        axes.text(0.01, y, note, style="italic", color=palette.MUTED, **text)
        return
    colour = style.engine_colour(cost.engine)
    _draw_market(axes, y - OFFSET, cost.on_demand, utilisations, colour, filled=True)
    _draw_market(axes, y + OFFSET, cost.spot, utilisations, colour, filled=False)
    if not words.missing(cost.objective[0]):
        diamond = {"marker": "D", "ms": 4.5, "mfc": palette.PAPER, "mec": palette.INK}
        axes.plot(cost.objective[0], y - OFFSET, zorder=6, **diamond)
    for right_in, triple in zip(COLUMNS_IN.values(), (cost.on_demand, cost.spot), strict=True):
        axes.text(beside(axes, right_in), y, style.escape(words.money(triple[0])), ha="right", **text)
    axes.text(beside(axes, PAYBACK_IN), y, style.escape(cost.payback), color=palette.MUTED, **text)


def _draw_market(axes: Axes, y: float, full: Triple, utilisations: Sequence[float], colour: str, filled: bool) -> None:
    """A line from full to the least utilisation: a dot, with its interval, for the first, ticks for the others."""
    value, low, high = full
    if words.missing(value):
        return
    costs = [value / u for u in utilisations]
    axes.plot([costs[0], costs[-1]], [y, y], color=colour, lw=1, alpha=0.55, zorder=2)
    axes.plot(costs[1:], [y] * (len(costs) - 1), ls="", marker="|", ms=6, mew=1.3, color=colour, zorder=3)
    if np.isfinite([low, high]).all():
        axes.plot([low, high], [y, y], color=colour, lw=3, alpha=0.5, zorder=3)
    axes.plot(value, y, marker="o", ms=5.5, mfc=colour if filled else palette.PAPER, mec=colour, mew=1.2, zorder=4)


def _draw_heads(axes: Axes, objective: bool) -> None:
    head = {"transform": axes.transAxes, "va": "bottom", "size": 8.6, "color": palette.MUTED}
    for label, right_in in COLUMNS_IN.items():
        axes.text(beside(axes, right_in), above(axes), label, ha="right", **head)
    axes.text(beside(axes, PAYBACK_IN), above(axes), "pays back", **head)
    handles = [
        Line2D([], [], ls="", marker="o", ms=5.5, color=palette.MUTED, label="on demand"),
        Line2D([], [], ls="", marker="o", ms=5.5, mfc=palette.PAPER, mec=palette.MUTED, label="spot"),
        Line2D([], [], lw=3, alpha=0.5, color=palette.MUTED, label="95 % interval"),
    ]
    if objective:
        label = "within the objective"
        handles.append(Line2D([], [], ls="", marker="D", ms=4.5, mfc=palette.PAPER, mec=palette.INK, label=label))
    tight = {"columnspacing": 1.3, "handletextpad": 0.4, "borderaxespad": 0.1, "borderpad": 0.2}
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, **tight)
