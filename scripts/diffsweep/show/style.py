"""What all pictures share: markers, type, frame, and how a figure becomes files. The marker means the precision."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # no display is needed, nor looked for

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffsweep.show.palette import (
    ALARM,
    ENGINE_COLOURS,
    ENGINE_NAMES,
    FAINT,
    GRID,
    INK,
    MUTED,
    OTHER_ENGINE,
    PAPER,
)
from diffsweep.sweep.files import atomic

PRECISION_MARKERS = {"fp32": "o", "bf16": "s", "fp16": "^", "int8": "D", "fp8": "p", "int4": "v"}
OTHER_PRECISION = "X"

WIDTH_IN = 10.0  # all figures: 720 points, which a report column of 1,000 pixels shows at about 1.4 pixels a point
PNG_DPI = 144

RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same picture
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.color": INK,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.solid_capstyle": "round",
    "text.hinting": "none",  # text as wide at 144 dots per inch as at 72, so that measured labels stay apart
    "svg.fonttype": "path",  # the reader's machine need not have the font
    "svg.hashsalt": "diffsweep",  # the same data gives the same bytes
    "path.simplify": True,
}


@dataclass(frozen=True)
class Frame:
    """The words around a picture. `finding` is its title; `warning` is set where the host was unfit."""

    finding: str
    subtitle: str
    footnote: str
    warning: str | None = None


def engine_colour(engine: str) -> str:
    return ENGINE_COLOURS.get(engine, OTHER_ENGINE)


def engine_name(engine: str) -> str:
    return ENGINE_NAMES.get(engine, engine)


def precision_marker(precision: str) -> str:
    return PRECISION_MARKERS.get(precision, OTHER_PRECISION)


def wrap(text: str, width: int) -> str:
    """`text` broken into lines of at most `width` characters; its own line breaks stay, a number keeps its unit."""
    text = re.sub(r"(?<=\d) (?=(ms|s|%|GB|MB|kB|dB|h|min|images)\b|%)", "\N{NO-BREAK SPACE}", text)
    lines = (textwrap.wrap(part, width, break_on_hyphens=False) or [""] for part in text.split("\n"))
    return "\n".join(line for part in lines for line in part)


def balance(text: str, width: int) -> str:
    """`text` wrapped to as few lines as `width` allows, of about equal length: no last line of one word."""
    lines = wrap(text, width).count("\n")
    while width > 20 and wrap(text, width - 1).count("\n") == lines:
        width -= 1
    return wrap(text, width)


def escape(text: str) -> str:
    """`text` without matplotlib's mathematics: a name with dollar signs is shown as it is."""
    return text.replace("$", r"\$")


@dataclass(frozen=True)
class Canvas:
    """A framed figure and the area left for its axes, in inches from the figure's lower left corner."""

    figure: Figure
    left: float
    bottom: float
    right: float
    top: float

    def axes(self, left: float, right: float, bottom: float = 0.0, top: float = 0.0, **options):
        """Axes inset by so many inches from the sides of the free area."""
        width, height = self.figure.get_size_inches()
        x0, x1 = self.left + left, self.right - right
        y0, y1 = self.bottom + bottom, self.top - top
        return self.figure.add_axes((x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height), **options)


MARGIN_IN = 0.22
_LINE = 1.32  # line pitch as a multiple of the type size


def _block(figure: Figure, text: str, y: float, size: float, **style) -> float:
    """Write `text` with its upper edge `y` inches above the bottom; returns the height it takes, in inches."""
    width, height = figure.get_size_inches()
    figure.text(
        MARGIN_IN / width, y / height, escape(text), size=size, va="top", ha="left", linespacing=_LINE / 1.2, **style
    )
    return (text.count("\n") + 1) * size * _LINE / 72


def framed(frame: Frame, body_height_in: float) -> Canvas:
    """An empty figure with its words, and room of `body_height_in` inches between them."""
    warning = wrap(f"! {frame.warning}", 118) if frame.warning else ""
    finding, subtitle, footnote = balance(frame.finding, 94), wrap(frame.subtitle, 126), wrap(frame.footnote, 172)
    parts = ((warning, 9.5), (finding, 12.5), (subtitle, 9.3))
    head = sum((t.count("\n") + 1) * s * _LINE / 72 + 0.04 for t, s in parts if t)
    foot = (footnote.count("\n") + 1) * 7.4 * _LINE / 72
    height = MARGIN_IN + head + 0.1 + body_height_in + 0.12 + foot + MARGIN_IN * 0.7
    figure = Figure(figsize=(WIDTH_IN, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    y = height - MARGIN_IN
    styles = ({"color": ALARM, "weight": "bold"}, {"weight": "bold"}, {"color": MUTED})
    for (text, size), style in zip(parts, styles, strict=True):
        if text:
            y -= _block(figure, text, y, size, **style) + 0.04
    _block(figure, footnote, MARGIN_IN * 0.7 + foot, 7.4, color=MUTED)
    bottom = MARGIN_IN * 0.7 + foot + 0.12
    return Canvas(figure, MARGIN_IN, bottom, WIDTH_IN - MARGIN_IN, bottom + body_height_in)


def empty_note(canvas: Canvas, text: str) -> None:
    """A picture that has nothing to draw says so, and why."""
    width, height = canvas.figure.get_size_inches()
    x, y = (canvas.left + canvas.right) / 2 / width, (canvas.bottom + canvas.top) / 2 / height
    canvas.figure.text(x, y, escape(wrap(text, 90)), ha="center", va="center", size=10.5, color=MUTED)


def legend_handles(engines: Sequence[str], precisions: Sequence[str]) -> list[Line2D]:
    """Legend entries: one colour an engine, one marker a precision."""
    colours = [
        Line2D([], [], ls="", marker="o", ms=7, color=engine_colour(e), label=escape(engine_name(e))) for e in engines
    ]
    markers = [
        Line2D([], [], ls="", marker=precision_marker(p), ms=6.5, mfc="none", mec=INK, mew=1.1, label=escape(p))
        for p in precisions
    ]
    return [*colours, *markers]


def in_order(values: Sequence[str], known: dict) -> list[str]:
    """The distinct `values`: first the known ones in the order of `known`, then the rest by name."""
    return sorted(set(values), key=lambda v: (list(known).index(v) if v in known else len(known), v))


def use_style() -> matplotlib.RcParams:
    """A context manager under which all figures are made and written."""
    return matplotlib.rc_context(RC)


def save_png(figure: Figure, path: Path, dpi: int = PNG_DPI) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


def save_svg(figure: Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
