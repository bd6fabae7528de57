"""Pareto fronts: which variants are not beaten on every objective at once. Pure; every objective is minimised.

A point is a tuple of objectives. A hole (None) in any of them keeps the point off the front and from beating others.
"""

from collections.abc import Sequence

import numpy as np

Point = Sequence[float | None]
Interval = tuple[float | None, float | None]


def whole(point: Point) -> bool:
    """Were all objectives of the point measured?"""
    return all(value is not None and value == value for value in point)


def front(points: Sequence[Point]) -> list[bool]:
    """For each point, whether it is on the front: nobody is nowhere worse and better on one objective (Ehrgott 2005,
    Multicriteria Optimization). Equal points are all on it, or none of them."""
    complete = [tuple(p) for p in points if whole(p)]
    # Sorted, a point can only be dominated by an earlier one, and by transitivity by one that is itself on the front;
    # and since none are equal, an earlier one that is nowhere worse does.
    candidates = sorted(set(complete))
    kept = np.empty((0, len(candidates[0]) if candidates else 0))
    for candidate in candidates:
        if not (kept <= candidate).all(axis=1).any():
            kept = np.vstack([kept, candidate])
    best = set(map(tuple, kept.tolist()))
    return [whole(p) and tuple(p) in best for p in points]


def surely_dominated(intervals: Sequence[Sequence[Interval]]) -> list[bool]:
    """For each point, whether another one is better on every objective even at the unfavourable ends of the intervals.

    Where the intervals overlap the order is not known. An objective on which both are one and the same exact value
    (both intervals a single equal point) does not stand in the way. A missing end decides nothing.
    """
    if not intervals:
        return []
    ends = np.array([[(np.nan if v is None else v) for v in interval] for p in intervals for interval in p], float)
    low, high = ends.reshape(len(intervals), -1, 2).transpose(2, 0, 1)  # (points, objectives) each
    exact = low == high
    beaten = []
    for mine_low, mine_exact in zip(low, exact, strict=True):  # comparisons with NaN are false: it decides nothing
        better = high < mine_low
        same = exact & mine_exact & (high == mine_low)
        beaten.append(bool(((better | same).all(axis=1) & better.any(axis=1)).any()))
    return beaten
