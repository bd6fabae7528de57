"""The same prompts and seeds through every variant: a row of images each, enlarged by whole pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from diffsweep.show import palette, style, words
from diffsweep.show.samples import fit

DPI = 100  # one figure pixel is one image pixel: nothing is resampled
TILE = 128  # images are enlarged (or thinned out) to about this many pixels
GAP = 6
NAME = 236
HEAD = 70
MARGIN = 24


@dataclass(frozen=True)
class Gallery:
    """One variant: images (H, W, 3) uint8 per prompt, None where one is missing; lines: what stands below its name."""

    name: str
    images: Sequence[np.ndarray | None]
    lines: Sequence[str] = ()
    note: str = ""
    baseline: bool = False


def draw(galleries: Sequence[Gallery], prompts: Sequence[str], frame: style.Frame) -> Figure:
    """prompts: the heads of the columns, one for each image of a gallery."""
    columns = max(len(prompts), 1)
    width = 2 * MARGIN + NAME + columns * (TILE + GAP)
    words_width = max(int(width / 9.2), 40)
    finding, footnote = style.balance(frame.finding, words_width), style.wrap(frame.footnote, int(words_width * 1.55))
    warning = style.wrap(f"! {frame.warning}", int(words_width * 1.2)) if frame.warning else ""
    top = MARGIN + 22 * (finding.count("\n") + 1) + 22 * (bool(warning) * (warning.count("\n") + 1)) + 26
    bottom = MARGIN + 15 * (footnote.count("\n") + 1)
    height = top + HEAD + max(len(galleries), 1) * (TILE + GAP) + bottom
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=palette.PAPER)
    FigureCanvasAgg(figure)
    pen = _Pen(figure, width, height)
    y = MARGIN
    if warning:
        y = pen.write(MARGIN, y, warning, 10, color=palette.ALARM, weight="bold")
    y = pen.write(MARGIN, y, finding, 13, weight="bold")
    pen.write(MARGIN, y + 2, frame.subtitle, 9.5, color=palette.MUTED)
    for column, prompt in enumerate(prompts):
        x = MARGIN + NAME + column * (TILE + GAP)
        pen.write(x, top + HEAD - 8, style.wrap(words.shorten(prompt, 66), 19), 8.6, va="bottom")
    for row, gallery in enumerate(galleries):
        _draw_gallery(pen, gallery, top + HEAD + row * (TILE + GAP))
    pen.write(MARGIN, height - bottom + 8, footnote, 8, color=palette.MUTED)
    return figure


def _draw_gallery(pen: "_Pen", gallery: Gallery, y: int) -> None:
    name = style.wrap(gallery.name, 26)
    below = pen.write(MARGIN, y + 14, name, 10.5, weight="bold" if gallery.baseline else "normal")
    pen.write(MARGIN, below + 3, style.wrap("\n".join(gallery.lines), 32), 9, color=palette.MUTED)
    if not any(image is not None for image in gallery.images):
        note = style.wrap(words.shorten(gallery.note or words.NOT_MEASURED, 220), 90)
        pen.frame(MARGIN + NAME, y, pen.width - 2 * MARGIN - NAME - GAP, TILE)
        pen.write(MARGIN + NAME + 16, y + TILE / 2, note, 10, color=palette.MUTED, va="center", style="italic")
        return
    for column, image in enumerate(gallery.images):
        x = MARGIN + NAME + column * (TILE + GAP)
        if image is None:
            pen.frame(x, y, TILE, TILE)
            pen.write(x + 10, y + TILE / 2, words.NOT_MEASURED, 9, color=palette.MUTED, va="center")
        else:
            pen.paste(x, y, fit(image, TILE))


@dataclass(frozen=True)
class _Pen:
    """Writes on a figure in pixels from its upper left corner."""

    figure: Figure
    width: int
    height: int

    def write(self, x: float, y: float, text: str, size: float, va: str = "top", **look) -> float:
        """Write `text` (sizes are for 100 dots per inch); returns the y below it."""
        place = (x / self.width, 1 - y / self.height)
        self.figure.text(*place, style.escape(text), size=size * 0.9, va=va, linespacing=1.18, **look)
        return y + (text.count("\n") + 1) * size * 1.66

    def paste(self, x: float, y: float, image: np.ndarray) -> None:
        self.figure.figimage(image, x, self.height - y - image.shape[0], origin="upper", zorder=3)

    def frame(self, x: float, y: float, width: float, height: float) -> None:
        corner = (x / self.width, 1 - (y + height) / self.height)
        box = Rectangle(
            corner,
            width / self.width,
            height / self.height,
            fc=palette.BAND,
            ec="none",
            transform=self.figure.transFigure,
        )
        self.figure.add_artist(box)
