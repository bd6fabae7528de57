"""Every measured request of every variant in one picture: a strip of dots each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffsweep.show import palette, style, words
from diffsweep.show.axes import above, beside, rows, scale, time_unit

ROW_IN = 0.34
NAME_IN = 1.75
NUMBERS_IN = 1.55
RASTER_FROM = 2500  # so many dots make an SVG heavy: from here on they are one embedded image


@dataclass(frozen=True)
class Strip:
    """One variant. Times in seconds; `latency_s` (N,) and `replicate` (N,) are empty when it was not measured.

    p50, p95: value, low, high; NaN where not measured or refused for too few requests. note: why there is nothing.
    """

    name: str
    engine: str
    latency_s: np.ndarray
    replicate: np.ndarray
    p50: tuple[float, float, float]
    p95: tuple[float, float, float]
    note: str = ""
    baseline: bool = False


def draw(strips: Sequence[Strip], frame: style.Frame) -> Figure:
    """A strip of dots per variant, one dot a request, one lane a replicate; P50 and P95 marked, with intervals."""
    measured = [s for s in strips if len(s.latency_s)]
    if not measured:
        canvas = style.framed(frame, 1.6)
        style.empty_note(canvas, "There is nothing to draw: no variant has a measured request.")
        return canvas.figure
    canvas = style.framed(frame, len(strips) * ROW_IN + 0.85)
    axes = canvas.axes(left=NAME_IN, right=NUMBERS_IN, bottom=0.5, top=0.3)
    latency_s = np.concatenate([s.latency_s for s in measured])
    factor, unit = time_unit(latency_s)
    suffix = ", log scale" if scale(axes, "x", latency_s * factor, pad=0.03) else ""
    axes.set_xlabel(f"end-to-end latency, {unit}{suffix} (further left is better)", labelpad=6)
    unmeasured = {s.name for s in strips if not len(s.latency_s)}
    rows(axes, [s.name for s in strips], bold={s.name for s in strips if s.baseline}, grey=unmeasured)
    for y, strip in enumerate(strips):
        if len(strip.latency_s):
            _draw_strip(axes, y, strip, factor, raster=len(latency_s) > RASTER_FROM)
        else:
            note = style.escape(words.shorten(strip.note or words.NOT_MEASURED, 84))
            axes.text(
                0.01,
                y,
                note,
                transform=axes.get_yaxis_transform(),
                style="italic",
                color=palette.MUTED,
                va="center_baseline",
            )
    _draw_baseline(axes, measured, factor)
    _draw_heads(axes)
    return canvas.figure


def _draw_strip(axes: Axes, y: int, strip: Strip, factor: float, raster: bool) -> None:
    axes.plot(
        strip.latency_s * factor,
        y + _lanes(strip.replicate),
        ls="",
        marker="o",
        ms=3,
        mew=0,
        color=style.engine_colour(strip.engine),
        alpha=0.34,
        rasterized=raster,
    )
    if not words.missing(strip.p50[0]):
        value, low, high = (v * factor for v in strip.p50)
        axes.plot([value, value], [y - 0.34, y + 0.34], color=palette.INK, lw=1.8, zorder=4)
        axes.plot([low, high], [y, y], color=palette.INK, lw=1, zorder=4)
    if not words.missing(strip.p95[0]):
        value, low, high = (v * factor for v in strip.p95)
        axes.plot(value, y + 0.33, marker="^", ms=5, mfc=palette.PAPER, mec=palette.INK, mew=1, zorder=5)
        axes.plot([low, high], [y + 0.33, y + 0.33], color=palette.INK, lw=1, zorder=4)
    right = {"transform": axes.get_yaxis_transform(), "va": "center_baseline", "ha": "right", "size": 8.6}
    axes.text(beside(axes, 0.75), y, words.seconds(strip.p50[0]), **right)
    axes.text(beside(axes, 1.5), y, words.seconds(strip.p95[0]), **right)


def _lanes(replicate: np.ndarray) -> np.ndarray:
    """(N,) offsets that give each replicate a lane of its own, so that differences between starts are seen."""
    names, index = np.unique(replicate, return_inverse=True)
    if len(names) == 1:
        return np.zeros(len(replicate))
    return (index / (len(names) - 1) - 0.5) * 0.42


def _draw_baseline(axes: Axes, strips: Sequence[Strip], factor: float) -> None:
    for strip in strips:
        if strip.baseline and not words.missing(strip.p50[0]):
            axes.axvline(strip.p50[0] * factor, color=palette.MUTED, lw=1, ls=(0, (2, 3)), zorder=1)


def _draw_heads(axes: Axes) -> None:
    """The legend, and the heads of the two columns of numbers."""
    head = {"transform": axes.transAxes, "va": "bottom", "ha": "right", "size": 8.6, "color": palette.MUTED}
    axes.text(beside(axes, 0.75), above(axes), "P50", **head)
    axes.text(beside(axes, 1.5), above(axes), "P95", **head)
    handles = [
        Line2D([], [], ls="", marker="o", ms=4, mew=0, color=palette.MUTED, alpha=0.5, label="one request"),
        Line2D([], [], ls="", marker="|", ms=11, mew=1.8, color=palette.INK, label="P50"),
        Line2D([], [], ls="", marker="^", ms=5, mfc=palette.PAPER, mec=palette.INK, label="P95"),
        Line2D([], [], color=palette.INK, lw=1, label="95 % interval"),
        Line2D([], [], color=palette.MUTED, lw=1, ls=(0, (2, 3)), label="the baseline's P50"),
    ]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=5, borderaxespad=0.1, borderpad=0.2)
