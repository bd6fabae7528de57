"""Where a request's time goes: the parts of the end-to-end latency, stacked, per variant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from diffsweep.show import palette, style, words
from diffsweep.show.axes import above, beside, rows, scale, time_unit

ROW_IN = 0.3
NAME_IN = 1.75
NUMBERS_IN = 1.75

# The parts in the order in which they happen; what no clock accounts for is alarming.
PARTS = {
    "queue_s": ("queue", palette.PART_COLOURS["queue"]),
    "prompt_encode_s": ("prompt", palette.PART_COLOURS["prompt"]),
    "setup_s": ("set-up", palette.PART_COLOURS["setup"]),
    "steps_s": ("steps", palette.PART_COLOURS["steps"]),
    "decode_s": ("decoding", palette.PART_COLOURS["decode"]),
    "image_encode_s": ("PNG", palette.PART_COLOURS["encode"]),
    "transfer_s": ("transfer", palette.PART_COLOURS["transfer"]),
    "residual_s": ("residual", palette.ALARM),
}


@dataclass(frozen=True)
class Clocks:
    """One variant: seconds per part (missing parts are left out), as means over its measured requests."""

    name: str
    parts_s: Mapping[str, float]
    note: str = ""
    baseline: bool = False

    @property
    def total_s(self) -> float:
        return sum(self.parts_s.values())

    def share(self, part: str) -> float:
        """A part's share of the whole, 0 where nobody timed it."""
        return self.parts_s.get(part, 0.0) / self.total_s


def draw(clocks: Sequence[Clocks], frame: style.Frame) -> Figure:
    """Stacked bars; the share of the steps and of the residual as numbers beside them."""
    measured = [c for c in clocks if c.parts_s]
    if not measured:
        canvas = style.framed(frame, 1.6)
        style.empty_note(canvas, "There is nothing to draw: no variant has a measured request.")
        return canvas.figure
    canvas = style.framed(frame, len(clocks) * ROW_IN + 0.85)
    axes = canvas.axes(left=NAME_IN, right=NUMBERS_IN, bottom=0.5, top=0.3)
    totals = [c.total_s for c in measured]
    factor, unit = time_unit(totals)
    scale(axes, "x", [t * factor for t in totals], pad=0.02, from_zero=True)
    axes.set_xlabel(f"mean end-to-end latency, {unit}", labelpad=6)
    unmeasured = {c.name for c in clocks if not c.parts_s}
    rows(axes, [c.name for c in clocks], bold={c.name for c in clocks if c.baseline}, grey=unmeasured)
    for y, entry in enumerate(clocks):
        _draw_row(axes, y, entry, factor)
    present = [key for key in PARTS if any(key in c.parts_s for c in measured)]
    _draw_heads(axes, present)
    return canvas.figure


def _draw_row(axes, y: int, entry: Clocks, factor: float) -> None:
    text = {"transform": axes.get_yaxis_transform(), "va": "center_baseline", "size": 8.6}
    if not entry.parts_s:
        note = style.escape(words.shorten(entry.note or words.NOT_MEASURED, 84))
        axes.text(0.01, y, note, style="italic", color=palette.MUTED, **text)
        return
    left = 0.0
    for key, (_, colour) in PARTS.items():
        width = max(entry.parts_s.get(key, 0.0), 0.0) * factor
        axes.barh(y, width, left=left, height=0.62, color=colour, lw=0, zorder=3)
        left += width
    axes.text(beside(axes, 0.7), y, words.percent(entry.share("steps_s")), ha="right", **text)
    axes.text(beside(axes, 1.5), y, words.percent(entry.share("residual_s")), ha="right", **text)


def _draw_heads(axes, present: Sequence[str]) -> None:
    head = {"transform": axes.transAxes, "va": "bottom", "ha": "right", "size": 8.6, "color": palette.MUTED}
    axes.text(beside(axes, 0.7), above(axes), "steps", **head)
    axes.text(beside(axes, 1.5), above(axes), "residual", **head)
    handles = [Patch(color=PARTS[key][1], lw=0, label=PARTS[key][0]) for key in present]
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(handles),
        borderaxespad=0.1,
        borderpad=0.2,
        handlelength=1,
        columnspacing=1.1,
    )
