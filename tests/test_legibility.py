"""Pictures that everybody can read: labels apart, colours that are told apart, enough contrast."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

import synthetic
from diffsweep.show import palette, pareto_plot, style
from diffsweep.show.labels import Box, place_labels

PROJECT = Path(__file__).resolve().parents[1]
VARIANTS = synthetic.make_variants()
REPORT_CSS = PROJECT / "scripts/diffsweep/show/report.css"


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_labels_never_overlap(seed):
    rng = np.random.default_rng(seed)
    bounds = Box(0, 0, 720, 400)
    n = 10 + 12 * seed
    points = [(float(x), float(y)) for x, y in rng.uniform([20, 20], [700, 380], (n, 2))]
    sizes = [(float(w), 12.0) for w in rng.uniform(30, 150, n)]
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    lines = [(x, y - 20, x, y + 20, 24.0) for x, y in points]
    placed = place_labels(points, sizes, bounds, marks, lines)
    boxes = [p.box for p in placed if p is not None]
    assert len(boxes) >= min(n, 20)
    for i, box in enumerate(boxes):
        assert bounds.x0 <= box.x0 and box.x1 <= bounds.x1 and bounds.y0 <= box.y0 and box.y1 <= bounds.y1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert not any(box.overlaps(mark) for mark in marks)
    assert placed == place_labels(points, sizes, bounds, marks, lines)


def label_boxes(figure, dpi: int) -> list[Box]:
    """Where the labels of a Pareto picture are when it is written at `dpi`."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [t for axes in figure.axes for t in axes.texts if (t.get_gid() or "").startswith("label:")]
    extents = [Text.get_window_extent(t, renderer) for t in texts]  # an annotation's own would include its line
    return [Box(e.x0, e.y0, e.x1, e.y1) for e in extents]


def crowd(n: int) -> list[pareto_plot.Point]:
    """So many variants, half of them in a heap."""
    rng = np.random.default_rng(n)
    points = []
    for i in range(n):
        base = VARIANTS[i % len(VARIANTS)]
        x, y = (0.3, 24.0) if i % 2 else (0.1, 24.0)
        x, y = x * rng.uniform(0.9, 1.4), y * rng.uniform(0.98, 1.3)
        name = f"{base['name']}-{i}"
        points.append(
            pareto_plot.Point(
                name, base["engine"], base["precision"], x, x * 0.98, x * 1.02, y, y - 1, y + 1, baseline=i == 0
            )
        )
    front = min(range(n), key=lambda i: points[i].x)
    points[front] = replace(points[front], standing=pareto_plot.ON_FRONT)
    return points


@pytest.mark.parametrize("n", [1, 2, 17, 60])
@pytest.mark.parametrize("dpi", [100, 144])
def test_pareto_labels_do_not_collide(n, dpi):
    with style.use_style():
        axis = pareto_plot.Axis("latency, ms", 1e3)
        figure = pareto_plot.draw(crowd(n), axis, pareto_plot.Axis("FID"), style.Frame("title", "subtitle", "footnote"))
        boxes = label_boxes(figure, dpi)
    assert len(boxes) >= min(n, 15)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_what_lies_far_above_is_named_at_the_edge_and_squeezes_nothing():
    near = [replace(p, name=f"near-{i}", y=24 + i, y_low=23 + i, y_high=25 + i) for i, p in enumerate(crowd(4))]
    near[1] = replace(near[1], standing=pareto_plot.ON_FRONT)
    far = replace(near[2], name="far", y=90.0, y_low=80.0, y_high=100.0, standing=pareto_plot.CONTENDER)
    draw = partial(pareto_plot.draw, x_axis=pareto_plot.Axis("latency"), frame=style.Frame("title", "", ""))
    with style.use_style():
        axes = draw([*near, far], y_axis=pareto_plot.Axis("cost", prefix="$")).axes[0]
        alone = draw([near[1], replace(far, baseline=True)], y_axis=pareto_plot.Axis(""))
    heights = {line.get_gid(): line.get_ydata()[0] for line in axes.get_lines() if line.get_gid()}
    assert 28 < heights["point:far"] < axes.get_ylim()[1] < 40
    assert any(text.get_text() == r"far (\$90 ↑)" for text in axes.texts)
    assert all(heights[f"point:{p.name}"] == p.y for p in near)
    assert alone.axes[0].get_ylim()[1] > 100  # what one chooses from has its place, however far it lies


# --- colours --------------------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes 2009, severity 1: protanopia, deuteranopia, tritanopia, on linear RGB.
DEFICIENCIES = (
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
)


def linear(colour: str) -> np.ndarray:
    rgb = np.asarray(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.asarray(to_xyz) @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.asarray([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", [np.eye(3), *map(np.asarray, DEFICIENCIES)])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_engines_are_told_apart_by_everybody(deficiency, theme):
    themed = css_colours(REPORT_CSS.read_text(), theme)
    colours = [lab(deficiency @ linear(c)) for name, c in themed.items() if name.startswith("engine-")]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(colours) for b in colours[i + 1 :]]
    assert min(gaps) > 15  # a difference of 2.3 is just noticeable


def css_colours(css: str, theme: str) -> dict[str, str]:
    block = css.split("@media (prefers-color-scheme: dark)")[0 if theme == "light" else 1].split("}")[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def contrast(a: str, b: str) -> float:
    """WCAG 2's contrast ratio."""
    light = sorted(float(np.asarray([0.2126, 0.7152, 0.0722]) @ linear(c)) + 0.05 for c in (a, b))
    return light[1] / light[0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_in_both_themes(theme):
    colours = css_colours(REPORT_CSS.read_text(), theme)
    assert set(palette.THEMED.values()) <= set(colours)
    for name in ("ink", "muted", "alarm", "good", "warn", "link"):
        assert min(contrast(colours[name], colours[back]) for back in ("paper", "page", "band")) >= 4.5, name
    for name in (n for n in colours if n.startswith("engine-")):
        assert contrast(colours[name], colours["paper"]) >= 3, name


def test_light_theme_is_the_pictures_own():
    colours = css_colours(REPORT_CSS.read_text(), "light")
    assert {colours[name]: name for name in palette.THEMED.values()} == palette.THEMED
