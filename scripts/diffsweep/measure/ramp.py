"""The ramp of the closed loop: how many clients next, and when the knee is passed (METHOD.md, "Load"). Pure.

Each replicate climbs by what it has measured itself, since jobs do not see each other; the analysis uses the levels
that most replicates have.

More clients never raise the throughput of a full server: a gain after a flat level is doubted, since a machine that
has changed its pace looks like that, and would send the ramp on, each level at twice the cost of the one before. The
level that was the best until then is run again at once, beside the one that gained.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffsweep.measure.capacity import ERROR_SHARE_LIMIT

GAIN = 0.03  # a level that raises the best throughput by less is flat
FLAT_LEVELS = 2
OVER_OBJECTIVE = 2.0


@dataclass(frozen=True)
class Step:
    """One level of a ramp. noise: relative standard error of images_per_s, 0 where unknown; rate 0: no success."""

    clients: int
    images_per_s: float
    noise: float
    error_share: float
    p95_s: float | None


def step_of(level: Mapping) -> Step:
    """A level as measure/capacity.py's summarise_level tells it."""
    errors = sum(level["errors"].values())
    share = errors / level["requests"] if level["requests"] else 1.0
    rate, noise = level["images_per_s"] or 0.0, level["noise"] or 0.0
    return Step(level["level"], rate, noise, share, level["latency_p95_s"])


def next_clients(steps: Sequence[Step], maximum: int, objective_s: float | None) -> tuple[int | None, str]:
    """(clients of the next level, "") or (None, why the ramp has ended). Clients double from 1; a level that was run
    before is to be run again. steps: the newest run of each level, in the order of running."""
    if not steps:
        return 1, ""
    newest = steps[-1]
    steps = sorted(steps, key=lambda step: step.clients)
    last, flat = steps[-1], flat_levels(steps)
    if last.error_share > ERROR_SHARE_LIMIT or not last.images_per_s:
        return None, f"more than 1 % of the requests of {last.clients} clients failed"
    if flat >= FLAT_LEVELS:
        return None, f"the last {flat} levels raised the throughput by less than 3 %"
    slow = [step for step in steps if objective_s and step.p95_s and step.p95_s > OVER_OBJECTIVE * objective_s]
    if slow and (flat or slow[0] is not last):  # one level past the knee is always run
        return None, f"P95 of {slow[0].clients} clients is over twice the objective of {objective_s:g} s"
    if newest is last and not flat and flat_levels(steps[:-1]):  # a gain after a flat level
        return best_of(steps[:-1]).clients, ""
    if 2 * last.clients > maximum:
        return None, f"{maximum} clients are the most that the protocol allows"
    return 2 * last.clients, ""


def flat_levels(steps: Sequence[Step]) -> int:
    """How many levels at the end of the ramp did not raise the best throughput before them."""
    flat = 0
    for place in range(1, len(steps)):
        flat = 0 if gain(steps[place], best_of(steps[:place])) >= GAIN else flat + 1
    return flat


def best_of(steps: Sequence[Step]) -> Step:
    return max(steps, key=lambda step: step.images_per_s)


def gain(step: Step, best: Step) -> float:
    """By which share `step` has more throughput than `best`, less two standard errors of the difference.

    Without that a few requests a level would send ramps on by chance, each time at twice the cost.
    """
    if not best.images_per_s:
        return math.inf
    return step.images_per_s / best.images_per_s - 1 - 2 * math.hypot(step.noise, best.noise)
