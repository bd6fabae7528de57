"""What a call asks to be done again although nothing changed: failed cells, stale cells, of all or of named variants.

A request becomes a number in a stage's spec, its `attempt`: that it is larger than the recorded one makes the job run,
and the number that the job then records is what later calls find.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Requests:
    """failed, stale: whether such cells are to be done again; only: the variants that are meant, empty for all."""

    failed: bool = False
    stale: bool = False
    only: frozenset[str] = frozenset()

    def mean(self, variants: Iterable[str]) -> bool:
        """Is one of `variants` among those that are meant?"""
        return not self.only or not self.only.isdisjoint(variants)


def requests_of(config: Mapping) -> Requests:
    """The requests of this call of Snakemake, from its config; the plan has checked them."""
    only = config.get("only") or ()
    return Requests(config.get("failed") == "retry", config.get("stale") == "rerun", frozenset(only))


def attempt_after(document: Mapping | None, requests: Requests, variants: Iterable[str], stale: bool = False) -> int:
    """The attempt that a stage is at, given what it recorded last time: one more where it is to be done again.

    `variants` are those that the stage's result is for. A stage that left nothing is at its first attempt, 0.
    """
    if document is None:
        return 0
    outcome = document["outcome"]
    again = (requests.failed and outcome["status"] == "failed") or (requests.stale and stale)
    return outcome["attempt"] + (again and requests.mean(variants))
