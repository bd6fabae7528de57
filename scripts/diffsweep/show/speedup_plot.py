"""The speed-up of every variant with its interval, against the noise floor: a forest plot."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from diffsweep.show import palette, style, words
from diffsweep.show.axes import above, beside, rows, scale

ROW_IN = 0.29
NAME_IN = 1.75
NUMBERS_IN = 2.75
MARKS = {
    "improved": (">", "full"),
    "regressed": ("<", "full"),
    "within noise": ("o", "full"),
    "cannot tell": ("o", "none"),
}


@dataclass(frozen=True)
class Speedup:
    """One variant: baseline time over variant time (above 1 is faster), NaN where not measured; note says why."""

    name: str
    engine: str
    speedup: float
    low: float
    high: float
    verdict: str
    note: str = ""
    baseline: bool = False


def draw(speedups: Sequence[Speedup], threshold: float, frame: style.Frame) -> Figure:
    """threshold: the relative difference below which nothing is claimed (METHOD.md), NaN without an A/A test."""
    measured = [s for s in speedups if not words.missing(s.speedup)]
    if not measured:
        canvas = style.framed(frame, 1.6)
        style.empty_note(canvas, "There is nothing to draw: no variant was compared with the baseline.")
        return canvas.figure
    canvas = style.framed(frame, len(speedups) * ROW_IN + 0.85)
    axes = canvas.axes(left=NAME_IN, right=NUMBERS_IN, bottom=0.5, top=0.3)
    spread = [v for s in measured for v in (s.speedup, s.low, s.high)]
    suffix = ", log scale" if scale(axes, "x", [*spread, 1.0], pad=0.05) else ""
    axes.set_xlabel(f"speed-up over the baseline{suffix} (further right is better)", labelpad=6)
    unmeasured = {s.name for s in speedups if words.missing(s.speedup)}
    rows(axes, [s.name for s in speedups], bold={s.name for s in speedups if s.baseline}, grey=unmeasured)
    if not words.missing(threshold):
        axes.axvspan(1 / (1 + threshold), 1 + threshold, color=palette.FAINT, alpha=0.45, lw=0, zorder=1)
    axes.axvline(1, color=palette.MUTED, lw=1, zorder=1.5)
    for y, entry in enumerate(speedups):
        _draw_row(axes, y, entry)
    _draw_heads(axes, threshold)
    return canvas.figure


def _draw_row(axes: Axes, y: int, entry: Speedup) -> None:
    left = {"transform": axes.get_yaxis_transform(), "va": "center_baseline", "size": 8.6}
    if words.missing(entry.speedup):
        note = style.escape(words.shorten(entry.note or words.NOT_MEASURED, 84))
        behind = {"facecolor": palette.PAPER, "edgecolor": "none", "pad": 1.5}
        axes.text(0.01, y, note, style="italic", color=palette.MUTED, bbox=behind, **left)
        return
    colour = style.engine_colour(entry.engine)
    if np.isfinite([entry.low, entry.high]).all():
        axes.plot([entry.low, entry.high], [y, y], color=colour, lw=2, zorder=3)
    marker, fill = MARKS.get(entry.verdict, ("o", "none"))
    face = colour if fill == "full" else palette.PAPER
    axes.plot(entry.speedup, y, marker=marker, ms=6, mfc=face, mec=colour, mew=1.3, zorder=4)
    axes.text(beside(axes, 0.72), y, words.factor(entry.speedup), ha="right", **left)
    axes.text(beside(axes, 0.82), y, words.interval(entry.low, entry.high), color=palette.MUTED, **left)
    sign = words.VERDICT_SIGNS.get(entry.verdict, "")
    axes.text(beside(axes, 1.8), y, f"{sign} {entry.verdict}", **left)


def _draw_heads(axes: Axes, threshold: float) -> None:
    head = {"transform": axes.transAxes, "va": "bottom", "size": 8.6, "color": palette.MUTED}
    axes.text(beside(axes, 0.72), above(axes), "speed-up", ha="right", **head)
    axes.text(beside(axes, 0.82), above(axes), "95 % interval", **head)
    axes.text(beside(axes, 1.8), above(axes), "verdict", **head)
    handles = [Line2D([], [], color=palette.MUTED, lw=2, label="95 % interval")]
    if not words.missing(threshold):
        label = f"within ±{words.percent(threshold)}: nothing is claimed"
        handles.append(Patch(color=palette.FAINT, alpha=0.45, lw=0, label=label))
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1, borderpad=0.2)
