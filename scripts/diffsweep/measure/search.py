"""The search for the highest rate within the objective: bracket, bisection, agreement. Pure.

The search has no state but the votes so far: each run at a rate says "within the objective" or not. Runs are noisy, so
a rate is judged by the majority of its votes, and both ends of the answer need two that agree.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

STEP = 1.5  # between the rates of the bracket
AGREEING = 2
LEAST_SHARE = 1 / 64  # of the first rate: below it the search gives up


class Vote(Protocol):
    """One run: requests per second, and whether it was within the objective; one that is not valid is no vote."""

    rate_per_s: float
    within: bool
    valid: bool


Run = TypeVar("Run", bound=Vote)


@dataclass(frozen=True)
class Bracket:
    """within: the highest rate below all rates that are over the objective; over: the lowest of those. None: none."""

    within: float | None
    over: float | None


def search(run: Callable[[int, float], Run], first: float, tolerance: float, most: int) -> tuple[list[Run], bool]:
    """All runs, and whether they settle the answer (which is their bracket) within `most` of them.

    `run` makes the run of a number, from 1, at a rate; `first` and `tolerance` as in next_rate.
    """
    runs: list[Run] = []
    while (rate := next_rate(runs, first, tolerance)) is not None and len(runs) < most:
        runs.append(run(len(runs) + 1, rate))
    return runs, rate is None


def bracket_of(runs: Sequence[Vote]) -> Bracket:
    votes = [run for run in runs if run.valid]
    over = min((r for r in {v.rate_per_s for v in votes} if _margin(votes, r) < 0), default=None)
    below = (r for r in {v.rate_per_s for v in votes} if _margin(votes, r) > 0 and (over is None or r < over))
    return Bracket(max(below, default=None), over)


def _margin(votes: Sequence[Vote], rate: float) -> int:
    """Votes for "within" less votes against it."""
    return sum(1 if vote.within else -1 for vote in votes if vote.rate_per_s == rate)


def _agreeing(votes: Sequence[Vote], rate: float, within: bool) -> int:
    return sum(vote.rate_per_s == rate and vote.within == within for vote in votes)


def next_rate(runs: Sequence[Vote], first: float, tolerance: float) -> float | None:
    """The rate to run next; None when the search has ended, with the bracket as its answer.

    It has when the two ends of the bracket are at most `tolerance` (a share) apart and two runs agree on each; or when
    not even a small share of `first`, the rate to begin with, is within the objective.
    """
    votes = [run for run in runs if run.valid]
    tied = [vote.rate_per_s for vote in votes if _margin(votes, vote.rate_per_s) == 0]
    if tied:
        return tied[0]
    bracket = bracket_of(votes)
    if bracket.within is None and bracket.over is None:
        return _rounded(first)
    if bracket.over is None:
        return _rounded(bracket.within * STEP)
    if bracket.within is None:
        return None if bracket.over <= first * LEAST_SHARE else _rounded(bracket.over / STEP)
    if bracket.over / bracket.within > 1 + tolerance:
        return _rounded(math.sqrt(bracket.over * bracket.within))
    for rate, within in ((bracket.within, True), (bracket.over, False)):
        if _agreeing(votes, rate, within) < AGREEING:
            return rate
    return None


def _rounded(rate: float) -> float:
    """Four digits: a rate that reads well, and the same number in a record."""
    return float(f"{rate:.4g}")
