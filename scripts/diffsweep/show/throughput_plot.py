"""Images per second against the number of clients: a small panel per variant, the baseline in grey in each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from diffsweep.show import palette, style, words

COLUMNS = 6
PANEL_IN = 1.32
LEGEND = "clients at once  (coloured: the variant, with its 95 % interval; grey: the baseline; hollow: level not valid)"
GAP_IN = (0.2, 0.5)  # between columns, between rows (which holds the panel's name)


@dataclass(frozen=True)
class Load:
    """One variant: clients, images/s with low, high, valid, sustained, each (L,); empty: not measured (note: why)."""

    name: str
    engine: str
    clients: np.ndarray
    images_per_s: np.ndarray
    low: np.ndarray
    high: np.ndarray
    valid: np.ndarray
    sustained: np.ndarray
    note: str = ""
    baseline: bool = False


def draw(loads: Sequence[Load], frame: style.Frame) -> Figure:
    measured = [load for load in loads if len(load.clients)]
    if not measured:
        canvas = style.framed(frame, 1.6)
        style.empty_note(canvas, "There is nothing to draw: no variant has a measured load level.")
        return canvas.figure
    lines = -(-len(loads) // COLUMNS)
    canvas = style.framed(frame, lines * (PANEL_IN + GAP_IN[1]) + 0.42)
    ceiling = float(np.nanmax([np.nanmax([*load.images_per_s, *load.high]) for load in measured])) * 1.16
    levels = sorted({float(c) for load in measured for c in load.clients})
    baseline = next((load for load in measured if load.baseline), None)
    for index, load in enumerate(loads):
        axes = _panel(canvas, index)
        _set_up(axes, levels, ceiling, first=index % COLUMNS == 0)
        if baseline is not None and not load.baseline:
            axes.plot(baseline.clients, baseline.images_per_s, color=palette.FAINT, lw=1.6, zorder=2)
        _draw_load(axes, load)
    width, height = canvas.figure.get_size_inches()
    canvas.figure.text(0.5, (canvas.bottom + 0.04) / height, LEGEND, ha="center", size=9)
    canvas.figure.text(
        (canvas.left + 0.02) / width, canvas.top / height, "images/s", va="top", size=8.6, color=palette.MUTED
    )
    return canvas.figure


def _panel(canvas: style.Canvas, index: int) -> Axes:
    row, column = divmod(index, COLUMNS)
    left_in, free = 0.42, canvas.right - canvas.left - 0.42
    width = (free - GAP_IN[0] * (COLUMNS - 1)) / COLUMNS
    left = left_in + column * (width + GAP_IN[0])
    top = GAP_IN[1] * 0.75 + row * (PANEL_IN + GAP_IN[1])
    height = canvas.top - canvas.bottom
    return canvas.axes(
        left=left, right=canvas.right - canvas.left - left - width, bottom=height - top - PANEL_IN, top=top
    )


def _set_up(axes: Axes, levels: Sequence[float], ceiling: float, first: bool) -> None:
    axes.set_ylim(0, ceiling)
    axes.set_xscale("log", base=2)
    axes.set_xlim(levels[0] / 1.25, levels[-1] * 1.25)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(levels, [f"{level:g}" for level in levels])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(length=2, labelsize=8, labelleft=first)
    axes.grid(False, axis="x")


def _draw_load(axes: Axes, load: Load) -> None:
    name = style.escape(words.shorten(load.name, 21))
    axes.set_title(name, loc="left", size=8.4, pad=5, fontweight="bold" if load.baseline else "normal")
    if not len(load.clients):
        note = style.escape(style.wrap(words.shorten(load.note or words.NOT_MEASURED, 72), 22))
        axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", va="center", size=7.6, color=palette.MUTED)
        return
    colour = style.engine_colour(load.engine)
    axes.fill_between(load.clients, load.low, load.high, color=colour, alpha=0.18, lw=0, zorder=3)
    axes.plot(load.clients, load.images_per_s, color=colour, lw=1.6, zorder=4)
    for clients, value, valid in zip(load.clients, load.images_per_s, load.valid, strict=True):
        face = colour if valid else palette.PAPER
        axes.plot(clients, value, marker="o", ms=4.5, mfc=face, mec=colour, mew=1.1, zorder=5)
    for at in zip(load.clients[load.sustained], load.images_per_s[load.sustained], strict=True):
        axes.annotate(words.number(at[1]), at, xytext=(0, 6), textcoords="offset points", ha="center", size=8, zorder=6)
