"""Records of searches -> their runs, the highest rate within the objective and its interval; the summary's columns."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from diffsweep.analysis import stats
from diffsweep.analysis.columns import Row, put
from diffsweep.analysis.crossing import Crossing, contradict, crossing_of
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.arrivals import Limits, Trial, service_of, summarise_trial
from diffsweep.measure.records import CapacityRecord, read_capacity, valid
from diffsweep.measure.search import Bracket, bracket_of
from diffsweep.sweep.files import read_json


@dataclass(frozen=True)
class Arrivals:
    """What one search found. trials: its runs; reason: why there is no answer, or what is wrong with it, else empty."""

    objective_s: float | None
    service_s: float | None = None
    trials: Sequence[Trial] = field(default_factory=list)
    bracket: Bracket = Bracket(None, None)
    settled: bool = False
    reason: str = ""
    disturbed: int = 0

    @property
    def rate(self) -> float | None:
        """The highest rate on which two runs agree that it is within the objective, in requests per second."""
        return self.bracket.within if self.settled else None

    @cached_property
    def crossing(self) -> Crossing | None:
        """Where P95 crosses the objective; None without a rate."""
        return None if self.rate is None else crossing_of(self.trials, self.rate, self.objective_s)


def read_searches(cell: Path) -> list[Arrivals]:
    """The searches of a cell, by number; empty when none was made."""
    found = sorted(cell.glob("search-*/arrivals.json"), key=lambda path: int(path.parent.name.partition("-")[2]))
    return [read_arrivals(path.parent) for path in found]


def read_arrivals(folder: Path) -> Arrivals:
    """One search."""
    try:
        notes = read_json(folder / "arrivals.json")
        outcome = notes["outcome"]
        if outcome["status"] != "ok":
            return Arrivals(notes.get("objective_s"), reason=outcome["reason"] or outcome["status"])
        return arrivals_of(notes, read_capacity(folder / "arrivals.jsonl", notes))
    except (FileNotFoundError, ValueError, KeyError) as error:
        return Arrivals(None, reason=f"the results cannot be read: {error}")


def arrivals_of(notes: Mapping, records: Sequence[CapacityRecord]) -> Arrivals:
    """The search again from its raw records, by the rules that it was made by."""
    unloaded = [r.done_s - r.sent_s for r in records if r.scenario == "steps" and r.steady and r.status == "ok"]
    limits = Limits(notes["objective_s"], service_of(unloaded), notes["arrivals"]["lateness"])
    by_trial: dict[int, list[CapacityRecord]] = {}
    for record in valid(records):
        if record.scenario == "arrivals":
            by_trial.setdefault(record.trial, []).append(record)
    trials = [summarise_trial(number, own[0].level, own, limits) for number, own in sorted(by_trial.items())]
    return Arrivals(
        objective_s=limits.objective_s,
        service_s=limits.service_s,
        trials=trials,
        bracket=bracket_of(trials),
        settled=bool(notes.get("settled")),
        reason=notes.get("ended") or "",
        disturbed=sum(bool(noted.get("disturbed")) for noted in notes.get("trials", ())),
    )


def rate_estimate(searches: Sequence[Arrivals]) -> Estimate | None:
    """The highest rate within the objective, requests per second: the geometric mean of what the searches' runs say.

    The interval comes from the variation between searches, on the log scale (Student's t), put together with half the
    bracket, which hides what searches of equal servers do not differ by. One search has none, and none is told where
    runs contradict each other. Simulated coverage: tests/long/test_coverage.py.
    """
    searches = [search for search in searches if search.rate is not None]
    if not searches:
        return None
    crossings = crossings_of(searches)
    found = stats.replicate_interval([math.log(crossing.rate) for crossing in crossings])
    if found.low is None or contradict(crossings):
        return stats.exponential(Estimate(found.value))
    bracket = float(np.mean([math.log(search.bracket.over / search.bracket.within) for search in searches])) / 2
    half = math.hypot(found.half_width, bracket)
    return stats.exponential(Estimate(found.value, found.value - half, found.value + half))


def crossings_of(searches: Sequence[Arrivals]) -> list[Crossing]:
    """Of the searches that have an answer."""
    return [search.crossing for search in searches if search.crossing is not None]


def arrivals_fields(searches: Sequence[Arrivals]) -> Row:
    """The summary's columns of a cell's searches; empty without any. One request is one image."""
    row: Row = {"objective_s": next((s.objective_s for s in searches if s.objective_s is not None), None)}
    put(row, "rate_within_objective_images_per_s", rate_estimate(searches))
    agreed = [trial.good_images_per_s for search in searches for trial in answers(search)]
    row["goodput_images_per_s"] = float(np.mean(agreed)) if agreed else None
    row["arrivals_runs"] = sum(len(search.trials) for search in searches) if searches else None
    row["arrivals_warnings"] = warnings(searches)
    return row


def answers(search: Arrivals) -> list[Trial]:
    """The runs at the highest rate within the objective."""
    return [trial for trial in search.trials if trial.valid and trial.rate_per_s == search.rate]


def warnings(searches: Sequence[Arrivals]) -> list[str]:
    without = [search for search in searches if search.rate is None]
    told = []
    if without:
        which = "" if len(searches) == len(without) else f" by {len(without)} of {len(searches)} searches"
        told.append(f"no highest rate within the objective{which}: {without[0].reason}")
    if contradict(crossings_of(searches)):
        told.append("runs of arrivals at equal rates contradict each other: the highest rate has no interval")
    disturbed = sum(search.disturbed for search in searches)
    if disturbed:
        runs = sum(len(search.trials) for search in searches)
        told.append(f"the machine was not quiet during {disturbed} of {runs} runs of arrivals")
    return told


def trial_rows(searches: Sequence[Arrivals]) -> Iterator[Row]:
    """A row per run, for tables/arrivals.csv."""
    for number, search in enumerate(searches, start=1):
        for t in search.trials:
            yield {
                "search": number,
                "trial": t.number,
                "rate_per_s": t.rate_per_s,
                "requests": t.requests,
                "errors": sum(t.errors.values()),
                "latency_mean_s": t.latency_mean_s,
                "latency_p95_s": t.latency_p95_s,
                "latency_p99_s": t.latency_p99_s,
                "latency_max_s": t.latency_max_s,
                "lateness_p99_s": t.lateness_p99_s,
                "goodput_images_per_s": t.good_images_per_s,
                "objective_s": search.objective_s,
                "is_within": t.within,
                "valid": t.valid,
                "is_answer": t in answers(search),
                "reason": t.reason or None,
            }
