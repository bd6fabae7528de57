"""Two quantities of every variant against each other, with intervals, and the front of those that nobody beats."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation

from diffsweep.show import palette, style, words
from diffsweep.show.axes import LOG_FROM, scale
from diffsweep.show.labels import Box, Placement, place_labels

BODY_IN = 5.4
LEGEND_IN = 1.45
LABEL_SIZE = 8.4
WHISKER_COST, FRONT_COST = 40.0, 120.0  # what covering one costs a label, in pixels of distance
FEW, REACH = 24, 42.0  # with more points than this, a label lies within so many pixels or is left out
CROWD = 120  # more points than this are a crowd
HEADROOM = 0.6  # how far the picture reaches above what one chooses from, as a share of its spread
ON_FRONT, CONTENDER, BEATEN = "front", "contender", "beaten"


@dataclass(frozen=True)
class Axis:
    """One axis: its label, the factor from the summary's unit to the shown one, and how a value is written."""

    label: str
    scale: float = 1.0
    prefix: str = ""


@dataclass(frozen=True)
class Point:
    """One variant. `x`, `y` and their intervals are in the summary's units; an interval may be missing (NaN).

    standing: on the front, a contender (not surely beaten) or beaten (another is surely better in both).
    above: its y, where that lies above the picture; it is drawn at the upper edge then.
    """

    name: str
    engine: str
    precision: str
    x: float
    x_low: float
    x_high: float
    y: float
    y_low: float
    y_high: float
    standing: str = CONTENDER
    baseline: bool = False
    above: float | None = None


def draw(points: Sequence[Point], x_axis: Axis, y_axis: Axis, frame: style.Frame) -> Figure:
    """The picture of one model on one target. Both quantities are better when smaller."""
    if not points:
        canvas = style.framed(frame, 1.6)
        style.empty_note(canvas, "There is nothing to draw: no variant has both quantities measured.")
        return canvas.figure
    points = [_scaled(p, x_axis.scale, y_axis.scale) for p in points]
    canvas = style.framed(frame, BODY_IN)
    axes = canvas.axes(left=0.62, right=LEGEND_IN, bottom=0.5, top=0.05)
    ceiling = _ceiling(points)
    points = [_below(p, ceiling) for p in points]
    _scale_axis(axes, "x", [(p.x, p.x_low, p.x_high) for p in points], x_axis)
    _scale_axis(axes, "y", [(p.y, p.y_low, np.minimum(p.y_high, ceiling)) for p in points], y_axis)
    _draw_front(axes, points)
    prominent = _prominent(points)
    _draw_crowd(axes, [p for p in points if p not in prominent])
    for point in sorted(prominent, key=lambda p: ({BEATEN: 0, CONTENDER: 1, ON_FRONT: 2}[p.standing], p.name)):
        _draw_point(axes, point)
    _draw_legend(canvas, axes, points)
    unnamed = _draw_labels(axes, prominent, y_axis.prefix)
    if unnamed:
        width, height = canvas.figure.get_size_inches()
        spot = (canvas.right - LEGEND_IN + 0.16) / width, (canvas.bottom + 1.35) / height
        note = style.wrap(f"{words.count(unnamed, 'variant')} not named for want of room; the table has all.", 21)
        canvas.figure.text(*spot, note, size=7.8, color=palette.MUTED, va="bottom", linespacing=1.15)
    return canvas.figure


def _ceiling(points: Sequence[Point]) -> float:
    """The highest y that is drawn at its place. What lies surely above the whole front and the baseline, and by far,
    would squeeze all that one chooses from into a line. Infinite where the axis is logarithmic, and of a crowd."""

    def known(some: Sequence[Point]) -> list[float]:
        return [y for p in some for y in (p.y, p.y_low, p.y_high) if np.isfinite(y)]

    top = max(known([p for p in points if p.standing == ON_FRONT or p.baseline]), default=np.inf)
    ys = known([p for p in points if np.fmin(p.y, p.y_low) <= top])
    if len(points) > CROWD or min(ys) <= 0 or max(ys) >= LOG_FROM * min(ys):
        return np.inf
    return max(ys) + HEADROOM * max(max(ys) - min(ys), 0.05 * max(ys))


def _below(p: Point, ceiling: float) -> Point:
    """The point, at the ceiling if it lies above."""
    if p.y <= ceiling:
        return p
    return replace(p, y=ceiling, y_low=np.nan, y_high=np.nan, above=p.y)


def _prominent(points: Sequence[Point]) -> list[Point]:
    """The points that are drawn one by one, with intervals and names: all, or of a crowd the front and the baseline."""
    if len(points) <= CROWD:
        return list(points)
    return [p for p in points if p.baseline or p.standing == ON_FRONT]


def crowd_note(points: Sequence[Point]) -> str:
    """What a picture of a crowd says about what it does not draw."""
    if len(points) <= CROWD:
        return ""
    return "Of so many, only the front and the baseline have their intervals and names drawn. "


def _draw_crowd(axes: Axes, points: Sequence[Point]) -> None:
    """Many points as a few pictures inside the picture: thousands of shapes would take a browser seconds to draw."""
    looks: dict[tuple[str, str, bool], list[Point]] = {}
    for point in points:
        looks.setdefault((point.engine, point.precision, point.standing == BEATEN), []).append(point)
    for (engine, precision, beaten), alike in looks.items():
        axes.plot(
            [p.x for p in alike],
            [p.y for p in alike],
            ls="",
            marker=style.precision_marker(precision),
            ms=4.5,
            mfc=style.engine_colour(engine),
            mew=0,
            alpha=0.3 if beaten else 0.75,
            zorder=2.5,
            rasterized=True,
            gid=f"crowd:{engine}:{precision}",
        )


def _scaled(p: Point, sx: float, sy: float) -> Point:
    return replace(
        p, x=p.x * sx, x_low=p.x_low * sx, x_high=p.x_high * sx, y=p.y * sy, y_low=p.y_low * sy, y_high=p.y_high * sy
    )


def _scale_axis(axes: Axes, which: str, values: Sequence[tuple[float, float, float]], axis: Axis) -> None:
    logarithmic = scale(axes, which, [v for triple in values for v in triple], prefix=axis.prefix)
    suffix = ", log scale" if logarithmic else ""
    getattr(axes, f"set_{which}label")(style.escape(axis.label + suffix), labelpad=6)


def _draw_front(axes: Axes, points: Sequence[Point]) -> None:
    """The front as a step line: what lies above and to the right of it is beaten by a point on it."""
    front = sorted((p.x, p.y) for p in points if p.standing == ON_FRONT)
    if not front:
        return
    (_, x1), (_, y1) = axes.get_xlim(), axes.get_ylim()
    xs = [front[0][0], *(x for x, _ in front), x1]
    ys = [y1, *(y for _, y in front), front[-1][1]]
    axes.fill_between(xs, ys, y1, step="post", color=palette.BAND, alpha=0.75, lw=0, zorder=0.5)
    axes.step(xs[1:-1], ys[1:-1], where="post", color=palette.INK, lw=1.5, zorder=2, gid="front")
    for end, line in (("top", ([xs[0], xs[0]], [y1, ys[1]])), ("right", ([xs[-2], x1], [ys[-1], ys[-1]]))):
        axes.plot(*line, color=palette.INK, lw=1, ls=(0, (2, 3)), zorder=2, gid=f"front:{end}")


def _draw_point(axes: Axes, p: Point) -> None:
    colour = style.engine_colour(p.engine)
    strength = 0.38 if p.standing == BEATEN and not p.baseline else 1.0
    for line in _whiskers(p):
        axes.plot(*line, color=colour, lw=1.1, alpha=0.65 * strength, zorder=3, solid_capstyle="butt")
    if p.baseline:
        axes.plot(p.x, p.y, marker="o", ms=16, mfc="none", mec=palette.INK, mew=1.3, zorder=4)
    on_front = p.standing == ON_FRONT
    axes.plot(
        p.x,
        p.y,
        marker=style.precision_marker(p.precision),
        ms=8.5 if on_front else 7,
        mfc=colour,
        mec=palette.INK if on_front else palette.PAPER,
        mew=1.1 if on_front else 0.7,
        alpha=strength,
        zorder=5,
        gid=f"point:{p.name}",
    )


def _whiskers(p: Point) -> list[tuple[list[float], list[float]]]:
    horizontal = ([p.x_low, p.x_high], [p.y, p.y])
    vertical = ([p.x, p.x], [p.y_low, p.y_high])
    return [line for line in (horizontal, vertical) if np.isfinite(line).all()]


def _draw_legend(canvas: style.Canvas, axes: Axes, points: Sequence[Point]) -> None:
    engines = style.in_order([p.engine for p in points], palette.ENGINE_COLOURS)
    precisions = style.in_order([p.precision for p in points], style.PRECISION_MARKERS)
    extra = [
        Line2D([], [], color=palette.INK, lw=1.5, label="front"),
        Line2D([], [], ls="", marker="o", ms=11, mfc="none", mec=palette.INK, mew=1.3, label="baseline"),
        Line2D([], [], ls="", marker="o", ms=7, color=palette.MUTED, alpha=0.38, mew=0, label="surely beaten"),
        Line2D([], [], color=palette.MUTED, lw=1.1, alpha=0.65, label="95 % interval"),
    ]
    handles = [*style.legend_handles(engines, precisions), *extra]
    width, height = canvas.figure.get_size_inches()
    anchor = ((canvas.right - LEGEND_IN + 0.06) / width, canvas.top / height)
    canvas.figure.legend(handles=handles, loc="upper left", bbox_to_anchor=anchor, labelspacing=0.62, handletextpad=0.5)
    _draw_direction(axes)


def _draw_direction(axes: Axes) -> None:
    """An arrow to the lower left, beside the axes: smaller is better on both."""
    arrow = {"arrowstyle": "-|>", "color": palette.MUTED, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    points = {"xycoords": axes.transAxes + _points(axes, 14, 8), "annotation_clip": False}
    axes.annotate("", xy=(1, 0), xytext=(22, 22), textcoords="offset points", arrowprops=arrow, **points)
    axes.annotate(
        "better", xy=(1, 0), xytext=(26, 20), textcoords="offset points", size=8.5, color=palette.MUTED, **points
    )


def _points(axes: Axes, x: float, y: float) -> ScaledTranslation:
    """A shift by so many points."""
    return ScaledTranslation(x / 72, y / 72, axes.figure.dpi_scale_trans)


def _draw_labels(axes: Axes, points: Sequence[Point], prefix: str) -> int:
    """Names beside the points; returns how many found no place. The front and the baseline choose first, and may lie
    far from their point; the others stay near, since a web of long lines helps nobody."""

    def rank(p: Point) -> int:
        return 1 if p.baseline else {ON_FRONT: 0, CONTENDER: 2, BEATEN: 3}[p.standing]

    points = sorted(points, key=lambda p: (rank(p), p.x, p.y, p.name))
    renderer, per_point = axes.figure.canvas.get_renderer(), axes.figure.dpi / 72
    texts = [_label(axes, p, prefix) for p in points]
    sizes = [(e.width, e.height) for e in (t.get_window_extent(renderer) for t in texts)]
    spots = [tuple(map(float, axes.transData.transform((p.x, p.y)))) for p in points]
    marks = [_around(spot, (9 if p.baseline else 5.5) * per_point) for spot, p in zip(spots, points, strict=True)]
    area = axes.get_window_extent(renderer)
    whiskers = [(*_pixels(axes, line), WHISKER_COST) for p in points for line in _whiskers(p)]
    bounds = Box(area.x0 + 2, area.y0 + 2, area.x1 + 4, area.y1)
    few = len(points) <= FEW
    reaches = [np.inf if few or rank(p) < 2 else REACH for p in points]
    places = place_labels(spots, sizes, bounds, marks, [*whiskers, *_front_pixels(axes)], reaches)
    for text, point, place, spot in zip(texts, points, places, spots, strict=True):
        _settle(axes, text, point, place, spot)
    return places.count(None)


def _around(spot: tuple[float, float], radius: float) -> Box:
    return Box(spot[0] - radius, spot[1] - radius, spot[0] + radius, spot[1] + radius)


def _label(axes: Axes, p: Point, prefix: str) -> Text:
    weight = "bold" if p.standing == ON_FRONT or p.baseline else "normal"
    colour = palette.MUTED if p.standing == BEATEN and not p.baseline else palette.INK
    name = f"{p.name} (baseline)" if p.baseline and p.name != "baseline" else p.name
    if p.above is not None:
        name += f" ({prefix}{p.above:,.3g} ↑)"
    text = axes.text(
        0, 0, style.escape(name), size=LABEL_SIZE, weight=weight, color=colour, zorder=7, transform=None, va="bottom"
    )
    text.set_gid(f"label:{p.name}")
    return text


def _settle(axes: Axes, text: Text, point: Point, place: Placement | None, spot: tuple[float, float]) -> None:
    """Put a label where it was given room, tied to its point so that the picture can be written at any resolution."""
    text.remove()
    if place is None:
        return
    box, per_pixel = place.box, 72 / axes.figure.dpi
    arrow = None
    if place.leader is not None:
        touch = (place.leader[0] - box.x0) / (box.x1 - box.x0), (place.leader[1] - box.y0) / (box.y1 - box.y0)
        arrow = {"arrowstyle": "-", "color": palette.MUTED, "lw": 0.7, "alpha": 0.8, "relpos": touch}
        arrow |= {"shrinkA": 0.5, "shrinkB": 5, "zorder": 6}
    label = axes.annotate(
        text.get_text(),
        xy=(point.x, point.y),
        xytext=((box.x0 - spot[0]) * per_pixel, (box.y0 - spot[1]) * per_pixel),
        textcoords="offset points",
        arrowprops=arrow,
        annotation_clip=False,
        size=text.get_size(),
        color=text.get_color(),
        weight=text.get_weight(),
        va="bottom",
        zorder=7,
    )
    label.set_gid(text.get_gid())


def _pixels(axes: Axes, line: tuple[Sequence[float], Sequence[float]]) -> tuple[float, float, float, float]:
    (x0, y0), (x1, y1) = axes.transData.transform(np.column_stack(line))
    return float(x0), float(y0), float(x1), float(y1)


def _front_pixels(axes: Axes) -> list[tuple[float, float, float, float, float]]:
    """The front's steps as segments in pixels, with what it costs to cover one."""
    corners = [line.get_xydata() for line in axes.get_lines() if (line.get_gid() or "").startswith("front")]
    segments = []
    for (x0, y0), (x1, y1) in ((a, b) for line in corners for a, b in zip(line[:-1], line[1:], strict=True)):
        segments.append((*_pixels(axes, ([x0, x1], [y0, y0])), FRONT_COST))
        segments.append((*_pixels(axes, ([x1, x1], [y0, y1])), FRONT_COST))
    return segments
