"""Pareto fronts: which variants are not beaten on every objective at once. Pure; every objective is minimised.

A point is a tuple of objectives. A hole (None) in any of them keeps the point off the front and from beating others.
"""

from collections.abc import Sequence

Point = Sequence[float | None]
Interval = tuple[float | None, float | None]


def whole(point: Point) -> bool:
    """Were all objectives of the point measured?"""
    return all(value is not None and value == value for value in point)


def dominates(a: Point, b: Point) -> bool:
    """Is `a` nowhere worse than `b`, and better on one objective? (Ehrgott 2005, Multicriteria Optimization)"""
    pairs = list(zip(a, b, strict=True))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def front(points: Sequence[Point]) -> list[bool]:
    """For each point, whether it is on the front. Equal points are all on it, or none of them."""
    complete = [tuple(p) for p in points if whole(p)]
    # Sorted, a point can only be dominated by an earlier one; and by transitivity by one that is itself on the front.
    kept: list[tuple] = []
    for candidate in sorted(set(complete)):
        if not any(dominates(other, candidate) for other in kept):
            kept.append(candidate)
    best = set(kept)
    return [whole(p) and tuple(p) in best for p in points]


def surely_dominates(a: Sequence[Interval], b: Sequence[Interval]) -> bool:
    """Is `a` better than `b` on every objective even at the unfavourable ends of the intervals?

    Where the intervals overlap the order is not known. An objective on which both are one and the same exact value
    (both intervals a single equal point) does not stand in the way. A missing end decides nothing.
    """
    strictly = False
    for (a_low, a_high), (b_low, b_high) in zip(a, b, strict=True):
        if a_high is None or b_low is None:
            return False
        if a_high < b_low:
            strictly = True
        elif not (a_low == a_high == b_low == b_high):
            return False
    return strictly


def surely_dominated(intervals: Sequence[Sequence[Interval]]) -> list[bool]:
    """For each point, whether another one beats it beyond the intervals of both."""
    return [
        any(surely_dominates(other, mine) for j, other in enumerate(intervals) if j != i)
        for i, mine in enumerate(intervals)
    ]
