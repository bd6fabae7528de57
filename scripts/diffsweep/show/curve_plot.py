"""Latency against throughput under load: a small panel per variant, the closed loop's knee and the open loop's runs.

The curve goes through the closed loop's levels: more clients first mean more images per second, then only more waiting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from diffsweep.show import axes as shared
from diffsweep.show import palette, style, words

COLUMNS = 5
PANEL_IN = (1.5, 1.62)  # width comes from what is free; height
GAP_IN = (0.42, 0.62)  # between columns (with the panel's own ticks), between rows (with its name and ticks)
CLOSED, WITHIN, OVER = "o", "v", "x"


@dataclass(frozen=True)
class Curve:
    """One variant. levels: rows of clients, images/s, mean latency, P95 (NaN: too few requests), slowest, valid.

    runs: rows of requests/s offered, P95, within the objective, of the valid runs of an open loop. knee: clients;
    objective_s, rate: NaN where not measured; note: why there are no levels.
    """

    name: str
    engine: str
    levels: np.ndarray
    runs: np.ndarray
    knee: float = np.nan
    objective_s: float = np.nan
    rate: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    note: str = ""
    baseline: bool = False


def draw(curves: Sequence[Curve], frame: style.Frame) -> Figure:
    measured = [curve for curve in curves if len(curve.levels)]
    if not measured:
        canvas = style.framed(frame, 1.6)
        style.empty_note(canvas, "There is nothing to draw: no variant has a measured load level.")
        return canvas.figure
    lines = -(-len(curves) // COLUMNS)
    canvas = style.framed(frame, lines * (PANEL_IN[1] + GAP_IN[1]) + 0.5)
    factor, unit = shared.time_unit([t for curve in measured for t in curve.levels[:, 2]])
    for index, curve in enumerate(curves):
        _draw_panel(_panel(canvas, index), curve, factor)
    _legend(canvas, measured, unit)
    return canvas.figure


def _panel(canvas: style.Canvas, index: int) -> Axes:
    row, column = divmod(index, COLUMNS)
    left_in, free = 0.36, canvas.right - canvas.left - 0.36
    width = (free - GAP_IN[0] * (COLUMNS - 1)) / COLUMNS
    left = left_in + column * (width + GAP_IN[0])
    top = GAP_IN[1] * 0.62 + row * (PANEL_IN[1] + GAP_IN[1])
    height = canvas.top - canvas.bottom
    return canvas.axes(
        left=left, right=canvas.right - canvas.left - left - width, bottom=height - top - PANEL_IN[1], top=top
    )


def _draw_panel(axes: Axes, curve: Curve, factor: float) -> None:
    title = style.escape(words.shorten(curve.name, 24))
    axes.set_title(title, loc="left", size=8.4, pad=5, fontweight="bold" if curve.baseline else "normal")
    axes.tick_params(length=2, labelsize=7.6, pad=2)
    axes.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    if not len(curve.levels):
        note = style.escape(style.wrap(words.shorten(curve.note or words.NOT_MEASURED, 80), 24))
        axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", va="center", size=7.6, color=palette.MUTED)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    colour = style.engine_colour(curve.engine)
    top = _draw_levels(axes, curve, factor, colour)
    top = max(top, _draw_runs(axes, curve, factor))
    rates = [*curve.levels[:, 1], *curve.runs[:, 0]]
    axes.set_xlim(0, 1.12 * float(np.nanmax(rates)))
    axes.set_ylim(0, 1.14 * top)


def _draw_levels(axes: Axes, curve: Curve, factor: float, colour: str) -> float:
    """The curve of the mean, and a whisker up to the P95 of each level; returns its highest point."""
    clients, rate, mean, p95, slowest, valid = curve.levels.T
    told = np.isfinite(p95)
    top = np.where(told, p95, slowest) * factor
    axes.plot(rate, mean * factor, color=colour, lw=1.4, zorder=4)
    for i in range(len(clients)):
        axes.plot([rate[i]] * 2, [mean[i] * factor, top[i]], color=colour, lw=0.9, zorder=3)
        axes.plot(rate[i], top[i], marker="_" if told[i] else ".", ms=6 if told[i] else 2.5, color=colour, zorder=3)
        face = colour if valid[i] else palette.PAPER
        axes.plot(rate[i], mean[i] * factor, marker=CLOSED, ms=4, mfc=face, mec=colour, mew=1, zorder=5)
        if clients[i] == curve.knee:
            ring = {"marker": "o", "ms": 9, "mfc": "none", "mec": palette.INK, "mew": 1.2}
            axes.plot(rate[i], mean[i] * factor, zorder=6, **ring)
    last = (rate[-1], mean[-1] * factor)
    offset = (-5, 0) if rate[-1] > 0.5 * np.nanmax(rate) else (5, 0)
    label = f"{clients[-1]:g}"
    axes.annotate(label, last, xytext=offset, textcoords="offset points", ha="right", va="center", size=7)
    return float(np.nanmax(top))


def _draw_runs(axes: Axes, curve: Curve, factor: float) -> float:
    """The open loop's runs by their P95, the objective, the highest rate within it; returns the highest point."""
    if not np.isfinite(curve.objective_s):
        return 0.0
    objective = curve.objective_s * factor
    axes.axhline(objective, color=palette.ALARM, lw=0.9, ls=(0, (4, 3)), zorder=2)
    value, low, high = curve.rate
    if np.isfinite(low):
        axes.axvspan(low, high, color=palette.INK, alpha=0.10, lw=0, zorder=1)
    if np.isfinite(value):
        axes.axvline(value, color=palette.INK, lw=0.9, ls=":", zorder=2)
    ceiling = 2.5 * objective
    for rate, p95, within in curve.runs:
        shown = min(p95 * factor, ceiling)  # a run far over the objective would flatten all the rest
        marker = "^" if p95 * factor > ceiling else WITHIN if within else OVER
        axes.plot(rate, shown, marker=marker, ms=4, mfc="none", mec=palette.INK, color=palette.INK, mew=0.9, zorder=6)
    return min(max([objective, *(curve.runs[:, 1] * factor)]), ceiling)


def _legend(canvas: style.Canvas, curves: Sequence[Curve], unit: str) -> None:
    width, height = canvas.figure.get_size_inches()
    handles = [
        Line2D([], [], color=palette.MUTED, marker=CLOSED, ms=4, lw=1.4, label="closed loop: mean (hollow: not valid)"),
        Line2D([], [], color=palette.MUTED, marker="_", ms=6, lw=0, label="its P95 (dot: the slowest, P95 needs 72)"),
        Line2D([], [], ls="", marker="o", ms=8, mfc="none", mec=palette.INK, label="knee"),
    ]
    if any(np.isfinite(curve.objective_s) for curve in curves):
        ink = {"ls": "", "ms": 4.5, "mfc": "none", "color": palette.INK}
        handles += [
            Line2D([], [], **ink, marker=WITHIN, label="open loop: P95 of a run within"),
            Line2D([], [], **ink, marker=OVER, label="over (^: far over)"),
            Line2D([], [], color=palette.ALARM, lw=0.9, ls=(0, (4, 3)), label="objective"),
            Line2D([], [], color=palette.INK, lw=0.9, ls=":", label="highest rate within"),
        ]
    place = (0.5, (canvas.bottom - 0.02) / height)
    canvas.figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=place, ncols=4, fontsize=7.8, columnspacing=1.4
    )
    x = (canvas.left + 0.02) / width
    head = f"latency, {unit}, against images/s; the number: clients at the curve's end"
    canvas.figure.text(x, (canvas.top - 0.02) / height, head, va="top", size=8.6, color=palette.MUTED)
