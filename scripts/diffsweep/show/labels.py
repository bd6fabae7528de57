"""Labels beside points that cover neither each other nor the points: a small greedy placement, always the same.

Pure geometry in pixels; y grows upwards. The most important label chooses first. Each tries positions around its point,
nearest first, and takes the one that costs least; a position that covers a label, a point or the border is never taken.
A label that finds no place is not drawn, and the caller says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Directions in which a label may lie, as (x, y): to the right first, since that is read most easily.
DIRECTIONS = ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 0), (-1, 1), (-1, -1), (2, 1), (2, -1), (-2, 1), (-2, -1))
DISTANCES = (5, 9, 14, 20, 28, 38, 50, 64, 80, 100, 125, 155, 190, 230)  # pixels between point and label
LEADER_FROM = 19.0  # pixels: from here on a line joins point and label
PAD = 2.0  # pixels kept free around a label

LEADER_CROSSES_LABEL = 400.0
LEADER_CROSSES_LEADER = 150.0
LEADER_CROSSES_POINT = 60.0


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: "Box", pad: float = 0.0) -> bool:
        apart = self.x1 + pad <= other.x0 or other.x1 + pad <= self.x0
        return not (apart or self.y1 + pad <= other.y0 or other.y1 + pad <= self.y0)


@dataclass(frozen=True)
class Placement:
    """Where a label lies, and where its leader line touches it (None: near enough to need none)."""

    box: Box
    leader: tuple[float, float] | None


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    bounds: Box,
    obstacles: Sequence[Box] = (),
    lines: Sequence[tuple[float, float, float, float, float]] = (),
    reaches: Sequence[float] | None = None,
) -> list[Placement | None]:
    """Place one label of `sizes` (width, height) for each of `points`, the first ones with the first choice.

    `reaches`: how far from its point each label may lie at most; one that finds no place within is None.
    `obstacles` (markers, notes) are never covered; `lines` (whiskers, the front) are segments x0, y0, x1, y1
    and what it costs to cover them, in pixels of distance.
    """
    segments = np.asarray(lines, float).reshape(-1, 5)
    blocked = np.asarray([(b.x0, b.y0, b.x1, b.y1) for b in obstacles], float).reshape(-1, 4)
    marks = np.asarray(points, float).reshape(-1, 2)
    placed: list[Placement | None] = []
    taken, leaders = np.empty((0, 4)), np.empty((0, 4))
    for index, (point, size) in enumerate(zip(points, sizes, strict=True)):
        others = np.delete(marks, index, axis=0)
        boxes, ends, distance = _candidates(point, size)
        near = distance <= (reaches[index] if reaches else np.inf)
        free = near & _inside(boxes, bounds) & ~_any_overlap(boxes, taken, PAD) & ~_any_overlap(boxes, blocked, PAD)
        boxes, ends, distance = boxes[free], ends[free], distance[free]
        if not len(boxes):
            placed.append(None)
            continue
        cost = distance + _crossings(point, boxes, ends, distance, segments, taken, leaders, others)
        best = int(np.argmin(cost))
        led = bool(distance[best] >= LEADER_FROM)
        placed.append(Placement(Box(*map(float, boxes[best])), tuple(map(float, ends[best])) if led else None))
        taken = np.vstack([taken, boxes[best]])
        if led:
            leaders = np.vstack([leaders, [*point, *ends[best]]])
    return placed


def _candidates(point: tuple[float, float], size: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All positions of one label: boxes (K, 4), where a leader would touch them (K, 2), their cost of distance (K,)."""
    width, height = size
    boxes, ends, costs = [], [], []
    for step, distance in enumerate(DISTANCES):
        for rank, (dx, dy) in enumerate(DIRECTIONS):
            norm = float(np.hypot(dx, dy))
            x, y = point[0] + dx / norm * distance, point[1] + dy / norm * distance
            # The side of the box that faces the point touches (x, y).
            x0 = x if dx > 0 else x - width if dx < 0 else x - width / 2
            y0 = y - height / 2 + (0.5 * height * np.sign(dy) if abs(dx) < 2 else 0)
            boxes.append((x0, y0, x0 + width, y0 + height))
            ends.append((min(max(point[0], x0), x0 + width), min(max(point[1], y0), y0 + height)))
            costs.append(distance + 0.6 * rank + 0.2 * step)
    return np.asarray(boxes), np.asarray(ends), np.asarray(costs)


def _inside(boxes: np.ndarray, bounds: Box) -> np.ndarray:
    horizontal = (boxes[:, 0] >= bounds.x0) & (boxes[:, 2] <= bounds.x1)
    return horizontal & (boxes[:, 1] >= bounds.y0) & (boxes[:, 3] <= bounds.y1)


def _any_overlap(boxes: np.ndarray, others: np.ndarray, pad: float) -> np.ndarray:
    """For each of `boxes` (K, 4): does it come within `pad` of any of `others` (M, 4)?"""
    a, b = boxes[:, None, :], others[None, :, :]
    apart_x = (a[..., 2] + pad <= b[..., 0]) | (b[..., 2] + pad <= a[..., 0])
    apart_y = (a[..., 3] + pad <= b[..., 1]) | (b[..., 3] + pad <= a[..., 1])
    return (~(apart_x | apart_y)).any(axis=1)


def _crossings(point, boxes, ends, distance, lines, taken, leaders, others) -> np.ndarray:
    """What each position costs beyond its distance: lines under the label, and what its leader would run across."""
    cost = _hits(lines[:, :4], boxes) @ lines[:, 4]
    cost = cost + LEADER_CROSSES_LABEL * _hits(leaders, boxes).sum(axis=1)
    led = distance >= LEADER_FROM
    leader = np.column_stack([np.tile(point, (len(ends), 1)), ends])
    reach = 5.0  # pixels: a leader this near to another point seems to belong to it
    marks = np.column_stack([others - reach, others + reach])
    cost = cost + led * LEADER_CROSSES_LABEL * _hits(leader, taken).sum(axis=0)
    cost = cost + led * LEADER_CROSSES_POINT * _hits(leader, marks).sum(axis=0)
    return cost + led * LEADER_CROSSES_LEADER * _cross(leader, leaders).sum(axis=1)


def _hits(segments: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(boxes, segments) transposed to what the caller sums: does a segment (S, 4) enter a box (K, 4)? -> (K, S)

    Liang and Barsky's clipping: a segment enters a box when the clipped interval of its parameter is not empty.
    """
    s, b = segments[None, :, :], boxes[:, None, :]
    low, high = np.zeros((len(boxes), len(segments))), np.ones((len(boxes), len(segments)))
    for axis in (0, 1):
        start, delta = s[..., axis], s[..., axis + 2] - s[..., axis]
        with np.errstate(divide="ignore", invalid="ignore"):
            t0, t1 = (b[..., axis] - start) / delta, (b[..., axis + 2] - start) / delta
        parallel_in = (b[..., axis] < start) & (start < b[..., axis + 2])
        near = np.where(delta == 0, np.where(parallel_in, -np.inf, np.inf), np.minimum(t0, t1))
        far = np.where(delta == 0, np.where(parallel_in, np.inf, -np.inf), np.maximum(t0, t1))
        low, high = np.maximum(low, near), np.minimum(high, far)
    return low < high


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Does segment a (K, 4) cross segment b (M, 4)? -> (K, M)"""
    p, q, r, s = a[:, None, :2], a[:, None, 2:], b[None, :, :2], b[None, :, 2:]

    def side(origin, end, third):
        return np.sign(
            (end[..., 0] - origin[..., 0]) * (third[..., 1] - origin[..., 1])
            - (end[..., 1] - origin[..., 1]) * (third[..., 0] - origin[..., 0])
        )

    return (side(p, q, r) != side(p, q, s)) & (side(r, s, p) != side(r, s, q))
