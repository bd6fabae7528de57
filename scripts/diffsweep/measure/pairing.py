"""Which request goes to which server, and when: blocks A B B A, the same prompts and seeds on both sides.

Pure: the order is decided before anything runs, and depends on the protocol and the number of the replicate only.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

ROLES = ("variant", "baseline")
# Variants that share the baseline's requests, at most. With each more, a pair lies farther apart in time, a killed job
# has lost more, and less of the baseline's time is spared. Simulated, the interval of the farthest of six holds as that
# of a neighbour does; it is up to a sixth wider on a machine whose pace walks (tests/long/test_coverage.py). With two
# servers, only the variant beside the baseline ever finds its own just left idle, as the baseline does every other
# time: that slows a median by about 1 %, and the fastest quarter, which the speed-up is of, not measurably.
SHARERS = 6

T = TypeVar("T")


@dataclass(frozen=True)
class Planned:
    """One request that is going to be made; block 0 is warm-up."""

    role: str
    block: int
    prompt_id: str
    prompt: str
    seed: int

    @property
    def warmup(self) -> bool:
        return self.block == 0


@dataclass(frozen=True)
class Prompt:
    """prompt_id: its place in the suite, as the quality stage names its images."""

    prompt_id: str
    text: str


def block_sizes(requests: int, block: int) -> list[int]:
    """Sizes of one side's blocks: `block` each, the last one smaller where they do not divide."""
    full, rest = divmod(requests, block)
    return [block] * full + [rest] * (rest > 0)


def block_roles(pairs: int, first: str) -> list[str]:
    """Roles of 2 x `pairs` blocks, A B B A A B B A ...: a drift that is linear in time cancels over each four.

    `first` is A. Replicates swap it, so that being first cancels too (asv reverses every other round).
    """
    second = ROLES[1 - ROLES.index(first)]
    return [role for pair in range(pairs) for role in ((first, second) if pair % 2 == 0 else (second, first))]


def first_role(replicate: int) -> str:
    return "baseline" if replicate % 2 else "variant"


def plan_requests(
    prompts: Sequence[Prompt], *, replicate: int, warmup: int, requests: int, block: int
) -> list[Planned]:
    """All requests of a replicate: `warmup` to each side, then `requests` to each side in blocks, in order.

    Prompts are cycled, and each cycle has the next seed. The count goes on from replicate to replicate: 3 x 24
    requests over 10 prompts use every prompt 7 or 8 times, and no pair of prompt and seed twice.
    """
    first = first_role(replicate)
    planned: list[Planned] = []
    for role in block_roles(1, first):
        for j in range(warmup):
            _add(planned, role, 0, prompts, j)
    sizes = block_sizes(requests, block)
    begin = [sum(sizes[:i]) for i in range(len(sizes))]
    seen = dict.fromkeys(ROLES, 0)
    for number, role in enumerate(block_roles(len(sizes), first), start=1):
        side = seen[role]
        for j in range(begin[side], begin[side] + sizes[side]):
            _add(planned, role, number, prompts, (replicate - 1) * requests + j)
        seen[role] += 1
    return planned


def sets_of(variants: Sequence[T]) -> list[Sequence[T]]:
    """Which of the variants on the same servers share the baseline's requests; about as many in each set."""
    number = math.ceil(len(variants) / SHARERS)
    return [variants[place::number] for place in range(number)]


def _add(planned: list[Planned], role: str, block: int, prompts: Sequence[Prompt], count: int) -> None:
    cycle, index = divmod(count, len(prompts))
    planned.append(Planned(role, block, prompts[index].prompt_id, prompts[index].text, cycle))


def blocks(planned: Sequence[Planned]) -> Iterator[tuple[int, str, list[Planned]]]:
    """(block, role, requests) of the measured blocks, in order."""
    measured = (request for request in planned if not request.warmup)
    for (number, role), group in groupby(measured, key=lambda request: (request.block, request.role)):
        yield number, role, list(group)
