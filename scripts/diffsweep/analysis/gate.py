"""The regression gate: does a comparison of two states pass the config's thresholds? Pure.

It uses the verdicts of the comparison itself, so a threshold is never below what the noise allows, and only a proven
regression fails: what cannot be told passes, unless the config says that it must stop.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from diffsweep.analysis.comparison import Limits
from diffsweep.analysis.updates import BROKE, GONE, NEW, RENEWED, Change, Comparison
from diffsweep.analysis.verdicts import CANNOT_TELL, REGRESSED
from diffsweep.quality.resampling import WORSE

PASSED, FAILED, NO_COMPARISON = 0, 1, 2  # exit codes


@dataclass(frozen=True)
class Judgement:
    """exit_code; regressed: variant and what regressed; undecided: variant and what cannot be told."""

    exit_code: int
    regressed: list[tuple[Change, str]]
    undecided: list[tuple[Change, str]]
    judged: int


def limits_of(settings: Mapping) -> Limits:
    """The thresholds of the config's `gate`."""
    return Limits(
        speed=settings["speed"],
        unpaired=settings["unpaired"],
        clip_score=settings["clip_score"],
        fid=settings["fid"],
        memory=settings["memory"],
        size=settings["size"],
    )


def judge(comparison: Comparison, undecided: str) -> Judgement:
    """`undecided`: the setting, "pass" or "stop"."""
    changes = comparison.changes
    regressed = [(change, what) for change in changes for what in _regressions(change)]
    open_ = [(change, what) for change in changes for what in _open(change)]
    timed = [change for change in changes if change.speed is not None]
    # Something was measured, and nothing of it can be set beside the state before.
    mute = bool(timed) and not any(change.speed.comparable for change in timed)
    nothing_shared = all(change.kind in (NEW, GONE) for change in changes)
    if regressed:
        code = FAILED
    elif nothing_shared or mute or (open_ and undecided == "stop"):
        code = NO_COMPARISON
    else:
        code = PASSED
    return Judgement(code, regressed, open_, sum(change.kind == RENEWED for change in changes))


def _regressions(change: Change) -> list[str]:
    """What of a variant is proven to be worse than before."""
    found = [name for name in ("speed", "memory", "size") if _verdict(change, name) == REGRESSED]
    found += ["images"] if _verdict(change, "quality") == WORSE else []
    return found + (["no result any more"] if change.kind == BROKE else [])


def _open(change: Change) -> list[str]:
    names = {"speed": "speed", "quality": "images"}
    return [told for name, told in names.items() if _verdict(change, name) == CANNOT_TELL]


def _verdict(change: Change, name: str) -> str | None:
    part = getattr(change, name)
    return part.verdict if part is not None else None
