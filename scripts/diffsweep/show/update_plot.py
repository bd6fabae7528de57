"""What an update did to the speed of every variant: before and now as dots with intervals, on one relative scale."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from diffsweep.analysis.comparison import NOT_PAIRED
from diffsweep.analysis.updates import Change
from diffsweep.show import palette, style, words
from diffsweep.show.axes import above, beside, rows, scale
from diffsweep.show.update_words import ratio_words, sides_words, speed_note

ROW_IN = 0.42
NAME_IN = 1.75
NUMBERS_IN = 4.3
WIDEST = 4.0  # an interval that reaches further runs out of the picture; the numbers beside it say how far


def draw(changes: Sequence[Change], frame: style.Frame) -> Figure:
    """`changes`: those with a speed. Behind each row the band of changes within which nothing is claimed of it."""
    canvas = style.framed(frame, max(len(changes), 1) * ROW_IN + 0.85)
    comparable = [change for change in changes if change.speed.comparable]
    if not comparable:
        style.empty_note(canvas, "There is nothing to draw: no variant's speed can be compared between the two states.")
        return canvas.figure
    axes = canvas.axes(left=NAME_IN, right=NUMBERS_IN, bottom=0.5, top=0.3)
    spread = [value for change in comparable for side in _sides(change) for value in side]
    scale(axes, "x", np.clip([*spread, 1.0], 1 / WIDEST, WIDEST), pad=0.06)
    axes.set_xlabel("speed relative to before (further right is faster)", labelpad=6)
    missing = {change.variant for change in changes if not change.speed.comparable}
    rows(axes, [change.variant for change in changes], grey=missing)
    axes.axvline(1, color=palette.MUTED, lw=1, zorder=1.5)
    for y, change in enumerate(changes):
        _draw_row(axes, y, change)
    _draw_heads(axes)
    return canvas.figure


def _sides(change: Change) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(value, low, high) before and now as speeds relative to the value before, each with its own interval."""
    speed = change.speed
    sides = []
    for side in (speed.before, speed.now):
        values = [np.nan if v is None else v for v in (side.value, side.low, side.high)]
        if speed.basis == NOT_PAIRED:  # seconds: the inverse is the speed, and the ends change places
            # Student's interval of a mean may reach below 0 with two replicates; there is no such time.
            value, low, high = (np.nan if not v > 0 else speed.before.value / v for v in values)
            sides.append((value, high, low))
        else:
            sides.append(tuple(v / speed.before.value for v in values))
    return tuple(sides)


def _draw_row(axes: Axes, y: int, change: Change) -> None:
    speed, colour = change.speed, style.engine_colour(change.engine)
    left = {"transform": axes.get_yaxis_transform(), "va": "center_baseline", "size": 8.6}
    if not speed.comparable:
        note = style.escape(words.shorten(speed.why, 100))
        behind = {"facecolor": palette.PAPER, "edgecolor": "none", "pad": 1.5}
        axes.text(0.01, y, note, style="italic", color=palette.MUTED, bbox=behind, **left)
        return
    if speed.limit is not None:
        band = (1 / (1 + speed.limit), 1 + speed.limit)
        axes.fill_betweenx([y - 0.5, y + 0.5], *band, color=palette.FAINT, alpha=0.45, lw=0, zorder=1)
    before, now = _sides(change)
    for (value, low, high), shift, shade in ((before, -0.13, palette.MUTED), (now, 0.13, colour)):
        if np.isfinite([low, high]).all():
            axes.plot([low, high], [y + shift, y + shift], color=shade, lw=2, zorder=3)
        hollow = shade is colour and speed.basis == NOT_PAIRED
        axes.plot(value, y + shift, "o", ms=6, mfc=palette.PAPER if hollow else shade, mec=shade, mew=1.4, zorder=4)
    axes.text(beside(axes, 0.15), y, sides_words(speed), **left)
    axes.text(beside(axes, 1.5), y, ratio_words(speed), color=palette.MUTED, **left)
    sign = words.VERDICT_SIGNS.get(speed.verdict, "")
    axes.text(beside(axes, 3.15), y - (0.16 if speed_note(speed) else 0), f"{sign} {speed.verdict}", **left)
    if speed_note(speed):
        axes.text(beside(axes, 3.15), y + 0.2, "   not paired", color=palette.MUTED, **{**left, "size": 7.6})


def _draw_heads(axes: Axes) -> None:
    head = {"transform": axes.transAxes, "va": "bottom", "size": 8.6, "color": palette.MUTED}
    axes.text(beside(axes, 0.15), above(axes), "before → now", **head)
    axes.text(beside(axes, 1.5), above(axes), "now / before (95 %)", **head)
    axes.text(beside(axes, 3.15), above(axes), "verdict", **head)
    handles = [
        Line2D([], [], color=palette.MUTED, marker="o", ms=5, lw=2, label="before"),
        Line2D([], [], color=palette.INK, marker="o", ms=5, lw=2, label="now"),
    ]
    handles.append(Patch(color=palette.FAINT, alpha=0.45, lw=0, label="within noise"))
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.1, "borderpad": 0.2}
    axes.legend(handles=handles, ncols=3, columnspacing=1.2, handlelength=1.6, **place)
