"""How often a slow-down of known size is found, by its size: the power curve of a calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from diffsweep.show import palette, style
from diffsweep.show.axes import scale

HEIGHT_IN = 3.4
COLOURS = (palette.ENGINE_COLOURS["onnxruntime"], palette.ENGINE_COLOURS["torch"], palette.ENGINE_COLOURS["openvino"])


@dataclass(frozen=True)
class Curve:
    """Shares found (0..1) of slow-downs (shares of the request's time), in ascending order, for one preset; with the
    ends of their intervals. label: the last share in words; dots: the places of those that get a dot."""

    name: str
    slowdowns: Sequence[float]
    found: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    label: str
    dots: Sequence[int] = ()


def draw(curves: Sequence[Curve], goal: float, frame: style.Frame) -> Figure:
    """goal: the share that a preset should reach, drawn as a line."""
    canvas = style.framed(frame, HEIGHT_IN)
    if not any(len(curve.slowdowns) for curve in curves):
        style.empty_note(canvas, "There is nothing to draw: too few replicates were recorded.")
        return canvas.figure
    axes = canvas.axes(left=0.6, right=2.2, bottom=0.5, top=0.15)
    axes.axhline(100 * goal, color=palette.MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
    axes.text(
        0.01, 100 * goal - 1.5, f"{goal:.0%}", transform=axes.get_yaxis_transform(), va="top", color=palette.MUTED
    )
    for curve, colour in zip(curves, COLOURS, strict=False):
        x, y, low, high = (100 * np.asarray(v) for v in (curve.slowdowns, curve.found, curve.low, curve.high))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0, zorder=2)
        dots = list(curve.dots)
        axes.plot(x, y, color=colour, lw=2, zorder=3, clip_on=False)
        axes.plot(x[dots], y[dots], "o", color=colour, ms=6, mec=palette.PAPER, mew=1.2, zorder=4, clip_on=False)
    scale(axes, "x", [0.0, *(100 * s for curve in curves for s in curve.slowdowns)], from_zero=True)
    axes.set_ylim(0, 103)
    axes.set_xlabel("true slow-down, % of the request's time", labelpad=6)
    axes.set_ylabel("called regressed, % of sweeps", labelpad=6)
    _name_curves(axes, curves)
    return canvas.figure


def _name_curves(axes, curves: Sequence[Curve]) -> None:
    """Names to the right of the last points, apart even where the points lie upon each other."""
    order = sorted(range(len(curves)), key=lambda i: curves[i].found[-1] if len(curves[i].found) else -1)
    lowest = -np.inf
    for i in order:
        if not len(curves[i].found):
            continue
        lowest = max(100 * curves[i].found[-1], lowest + 14)
        text = f"{curves[i].name}\n{curves[i].label}"
        axes.text(
            1.02, lowest, text, transform=axes.get_yaxis_transform(), va="center", color=COLOURS[i], weight="bold"
        )
