"""Axes that several pictures share: a time or ratio axis with readable ticks, and rows of named variants."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from diffsweep.show import palette, style

LOG_FROM = 4.0  # an axis whose largest value is this many times its smallest is logarithmic


def log_locator(low: float, high: float) -> LogLocator:
    """Ticks at 1, 2, 5, and finer where the axis spans little."""
    span = high / low
    subs = (1, 2, 5) if span >= 30 else (1, 2, 3, 5, 7) if span >= 8 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    return LogLocator(base=10, subs=subs, numticks=20)


def scale(axes: Axes, which: str, values, pad: float = 0.09, prefix: str = "", from_zero: bool = False) -> bool:
    """Give axis `which` ("x" or "y") limits around `values`, and ticks; returns whether it became logarithmic.

    pad: what is left free at either end, as a share of the axis.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    logarithmic = not from_zero and low > 0 and high / low >= LOG_FROM
    ticks = axes.xaxis if which == "x" else axes.yaxis
    if logarithmic:
        room = max((high / low) ** pad, 1.03)
        limits = (low / room, high * room)
        getattr(axes, f"set_{which}scale")("log")
        ticks.set_major_locator(log_locator(*limits))
        ticks.set_minor_locator(NullLocator())
        ticks.set_minor_formatter(NullFormatter())
    else:
        room = max((high - low) * pad, abs(high) * 0.01, 1e-12)
        bottom = 0 if from_zero or (low >= 0 > low - room) else low - room
        limits = (bottom, high + room)
        ticks.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    getattr(axes, f"set_{which}lim")(*limits)
    ticks.set_major_formatter(FuncFormatter(lambda v, _: f"{prefix}{v:,.6g}"))
    axes.tick_params(axis=which, length=3)
    return logarithmic


def time_unit(seconds) -> tuple[float, str]:
    """The factor from seconds to the unit in which these times read best, and its name."""
    return (1e3, "ms") if float(np.nanmedian(seconds)) < 1 else (1.0, "s")


def rows(axes: Axes, names: list[str], bold: set[str] = frozenset(), grey: set[str] = frozenset()) -> None:
    """One row a name, the first on top, at y = 0, 1, 2, ...; `bold` names stand on a band."""
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_yticks(range(len(names)), [style.escape(name) for name in names])
    axes.tick_params(axis="y", length=0, pad=8)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    for y, (name, label) in enumerate(zip(names, axes.get_yticklabels(), strict=True)):
        if name in bold:
            label.set_fontweight("bold")
            axes.axhspan(y - 0.5, y + 0.5, color=palette.BAND, lw=0, zorder=0)
        if name in grey:
            label.set_color(palette.MUTED)


def above(axes: Axes, inches: float = 0.08) -> float:
    """The y coordinate, in axes fractions, `inches` above the axes."""
    return 1 + inches * axes.figure.dpi / axes.get_window_extent().height


def beside(axes: Axes, inches: float) -> float:
    """The x coordinate, in axes fractions, `inches` to the right of the axes."""
    return 1 + inches * axes.figure.dpi / axes.get_window_extent().width
