"""Two variants' latency distributions in one picture, and the figures that the difference is read from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from diffsweep.show import palette, style, words
from diffsweep.show.axes import scale, time_unit

STATISTICS = ("mean", "p50", "p95", "p99")


@dataclass(frozen=True)
class Side:
    """One of the two: seconds per request (N,), and each of STATISTICS as value, low, high (NaN: too few requests)."""

    name: str
    engine: str
    latency_s: np.ndarray
    statistics: dict[str, tuple[float, float, float]]


def draw(baseline: Side, variant: Side, frame: style.Frame) -> Figure:
    """Above the two histograms, below the share of requests answered within a time; the statistics as numbers."""
    canvas = style.framed(frame, 5.3)
    if not len(baseline.latency_s) or not len(variant.latency_s):
        style.empty_note(canvas, "There is nothing to compare: one of the two was not measured.")
        return canvas.figure
    both = np.concatenate([baseline.latency_s, variant.latency_s])
    factor, unit = time_unit(both)
    above = canvas.axes(left=0.66, right=3.55, bottom=2.75, top=0.3)
    below = canvas.axes(left=0.66, right=3.55, bottom=0.5, top=2.85)
    # The baseline is grey here, so that two variants of one engine are told apart.
    sides = ((baseline, palette.MUTED), (variant, style.engine_colour(variant.engine)))
    for axes in (above, below):
        scale(axes, "x", both * factor, pad=0.03)
    _draw_histograms(above, sides, factor)
    _draw_shares(below, sides, factor)
    below.set_xlabel(f"end-to-end latency, {unit} (further left is better)", labelpad=6)
    _draw_numbers(canvas, sides, factor, unit)
    return canvas.figure


def _draw_histograms(axes: Axes, sides: Sequence[tuple[Side, str]], factor: float) -> None:
    low, high = axes.get_xlim()
    logarithmic = axes.get_xscale() == "log"
    span = np.log(high / low) if logarithmic else high - low
    bins = int(np.clip(np.ceil(span / _bin_width(sides, factor, logarithmic)), 10, 90))
    edges = (np.geomspace if logarithmic else np.linspace)(low, high, bins + 1)
    for side, colour in sides:
        counts, _ = np.histogram(side.latency_s * factor, edges)
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.38, zorder=3)
        axes.stairs(counts, edges, color=colour, lw=1.4, zorder=4)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel("requests", labelpad=6)
    axes.tick_params(labelbottom=False)
    handles = [Patch(fc=colour, alpha=0.5, label=style.escape(side.name)) for side, colour in sides]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0.2, borderaxespad=0.1)


def _bin_width(sides: Sequence[tuple[Side, str]], factor: float, logarithmic: bool) -> float:
    """2 IQR / n^(1/3) (Freedman and Diaconis 1981) of the narrower of the two, so that outliers do not decide it."""
    widths = []
    for side, _ in sides:
        shown = np.log(side.latency_s * factor) if logarithmic else side.latency_s * factor
        lower, upper = np.quantile(shown, [0.25, 0.75])
        widths.append(2 * (upper - lower) / len(shown) ** (1 / 3))
    return max(min(widths), 1e-9)


def _draw_shares(axes: Axes, sides: Sequence[tuple[Side, str]], factor: float) -> None:
    for side, colour in sides:
        ordered = np.sort(side.latency_s) * factor
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        axes.step(ordered, share, where="post", color=colour, lw=1.8, zorder=4)
    for share, name in ((0.5, "P50"), (0.95, "P95")):
        axes.axhline(share, color=palette.FAINT, lw=1, ls=(0, (3, 3)), zorder=2)
        axes.text(
            0.995,
            share - 0.015,
            name,
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="top",
            size=8,
            color=palette.MUTED,
        )
    axes.set_ylim(0, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_ylabel("answered within", labelpad=6)


def _draw_numbers(canvas: style.Canvas, sides: Sequence[tuple[Side, str]], factor: float, unit: str) -> None:
    """A small forest to the right: each statistic of both, with its interval and as a number."""
    axes = canvas.axes(left=6.75, right=1.35, bottom=0.5, top=0.3)
    known = [v for side, _ in sides for triple in side.statistics.values() for v in triple]
    scale(axes, "x", np.asarray(known) * factor, pad=0.08)
    axes.set_ylim(len(STATISTICS) - 0.5, -0.5)
    axes.set_yticks(range(len(STATISTICS)), [s.upper() if s != "mean" else s for s in STATISTICS])
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.get_major_locator().set_params(**({"nbins": 3} if axes.get_xscale() == "linear" else {}))
    axes.set_xlabel(unit, labelpad=6)
    for y, statistic in enumerate(STATISTICS):
        for shift, (side, colour) in zip((-0.16, 0.16), sides, strict=True):
            _draw_number(axes, y + shift, side, statistic, colour, factor)
    handles = [Line2D([], [], color=palette.MUTED, lw=2, marker="o", ms=5, label="value and 95 % interval")]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.1, 1), borderpad=0.2, borderaxespad=0.1)


def _draw_number(axes: Axes, y: float, side: Side, statistic: str, colour: str, factor: float) -> None:
    value, low, high = (v * factor for v in side.statistics.get(statistic, (np.nan,) * 3))
    text = words.number(value) if not words.missing(value) else f"n/a: n = {len(side.latency_s)}"
    axes.text(1.06, y, text, transform=axes.get_yaxis_transform(), va="center", size=8.4, color=palette.INK)
    if words.missing(value):
        return
    axes.plot([low, high], [y, y], color=colour, lw=2.4, solid_capstyle="butt", zorder=3)
    axes.plot(value, y, marker="o", ms=5.5, color=colour, zorder=4)
