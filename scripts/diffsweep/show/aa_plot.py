"""Every A/A comparison of a calibration with its interval: what a machine says of two things that are the same."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from diffsweep.analysis.calibration import Comparison
from diffsweep.show import palette, style
from diffsweep.show.axes import scale

HEIGHT_IN = 2.6


def draw(comparisons: Sequence[Comparison], frame: style.Frame) -> Figure:
    """One stroke a comparison, in the order of recording; full dots hold 1 within their interval, rings do not."""
    canvas = style.framed(frame, HEIGHT_IN)
    if not comparisons:
        style.empty_note(canvas, "There is nothing to draw: too few replicates were recorded.")
        return canvas.figure
    axes = canvas.axes(left=0.6, right=0.1, bottom=0.45, top=0.1)
    values, lows, highs = (np.array([getattr(c.speedup, end) for c in comparisons]) for end in ("value", "low", "high"))
    places = np.arange(1, len(values) + 1)
    holds = (lows <= 1) & (highs >= 1)
    colour = palette.ENGINE_COLOURS["onnxruntime"]
    axes.axhline(1, color=palette.MUTED, lw=1, zorder=1)
    axes.vlines(places, lows, highs, color=np.where(holds, colour, palette.ALARM), lw=2, zorder=2)
    axes.plot(places[holds], values[holds], "o", ms=4.5, color=colour, zorder=3)
    axes.plot(places[~holds], values[~holds], "o", ms=5, mfc=palette.PAPER, mec=palette.ALARM, mew=1.4, zorder=3)
    scale(axes, "y", [*lows, *highs])
    axes.set_xlim(0, len(values) + 1)
    axes.grid(False, axis="x")
    axes.set_xlabel("comparison", labelpad=5)
    axes.set_ylabel("ratio of two that are the same", labelpad=6)
    return canvas.figure
