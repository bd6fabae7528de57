"""Records of searches -> their runs, the highest rate within the objective and its interval; the summary's columns."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import special

from diffsweep.analysis import stats
from diffsweep.analysis.columns import Row, put
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.arrivals import Limits, Trial, service_of, summarise_trial
from diffsweep.measure.capacity import ERROR_SHARE_LIMIT
from diffsweep.measure.records import CapacityRecord, read_capacity, valid
from diffsweep.measure.search import STEP, Bracket, bracket_of
from diffsweep.sweep.files import read_json

LATE_SHARE = 0.05  # of the requests, where P95 reaches the objective
LOGIT_LATE = math.log(LATE_SHARE / (1 - LATE_SHARE))
# By how much shares of late requests vary more than independent requests would, in multiples of `_within_objective`:
# usually, and where runs contradict each other. Of simulated servers that keep their pace the limit withholds the
# interval in 1 case of 100, of those that drift in the course of a run in 19 of 20 (tests/long/test_coverage.py).
USUAL_DISPERSION, DISPERSION_LIMIT = 3.0, 6.0


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
    runs contradict each other (`dispersion`). Simulated coverage: tests/long/test_coverage.py.
    """
    searches = [search for search in searches if search.rate is not None]
    if not searches:
        return None
    found = stats.replicate_interval([math.log(crossing(search)) for search in searches])
    if found.low is None or dispersion(searches) > DISPERSION_LIMIT:
        return stats.exponential(Estimate(found.value))
    bracket = float(np.mean([math.log(search.bracket.over / search.bracket.within) for search in searches])) / 2
    half = math.hypot(found.half_width, bracket)
    return stats.exponential(Estimate(found.value, found.value - half, found.value + half))


def bad_share(trial: Trial) -> float:
    """What share of a run's requests was late or failed; up to a twentieth, P95 is within the objective. Of failures
    only 1 % may be, so each counts for five."""
    late = 1 - trial.good_images_per_s / trial.rate_per_s
    failed = sum(trial.errors.values()) / trial.requests
    return min(max(late, failed * LATE_SHARE / ERROR_SHARE_LIMIT), 1.0)


def crossing(search: Arrivals) -> float:
    """The rate at which a twentieth of the requests is late, by a logistic fit to all valid runs of a search.

    Not the highest rate that held (`rate`): late requests come in bursts, so that most runs hold at a rate at which all
    of them together do not, and it is 2 to 3 % too high in simulations. The fit also varies by a third less between
    searches. Where it leads further from the answer than a step of the search, runs contradict each other: it ends
    there.
    """
    level, slope = _fitted(search)
    found = (LOGIT_LATE - level) / slope if slope > 0 else 0.0
    return search.rate * math.exp(min(max(found, -math.log(STEP)), math.log(STEP)))


def _observed(search: Arrivals) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each valid run: the log of its rate to the answer's, the share of bad requests, the number of requests."""
    trials = [trial for trial in search.trials if trial.valid]
    rates = np.log([trial.rate_per_s / search.rate for trial in trials])
    return rates, np.array([bad_share(t) for t in trials]), np.array([float(t.requests) for t in trials])


def _fitted(search: Arrivals) -> tuple[float, float]:
    return stats.logistic_fit(*_observed(search), USUAL_DISPERSION * _within_objective(search))


def _within_objective(search: Arrivals) -> float:
    """How many requests come within the objective at the answer, one at least: a queue that is long stays so for about
    that time, so late requests come in bursts of about that length."""
    return max(search.rate * search.objective_s, 1.0)


def dispersion(searches: Sequence[Arrivals]) -> float:
    """By how much the shares of runs near the answer vary more than independent requests would (Pearson's chi-square
    over its degrees of freedom), in multiples of `_within_objective`; 0 where there are too few runs to tell."""
    squares, freedom = 0.0, 0
    for search in searches:
        rates, shares, requests = _observed(search)
        level, slope = _fitted(search)
        near = np.abs(rates) <= math.log(STEP) + 0.01
        expected = special.expit(level + slope * rates)
        variance = np.maximum(expected * (1 - expected), 1e-3) / requests
        squares += float(((shares - expected) ** 2 / variance)[near].sum()) / _within_objective(search)
        freedom += max(int(near.sum()) - 2, 0)
    return squares / freedom if freedom else 0.0


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
    known = [search for search in searches if search.rate is not None]
    if known and dispersion(known) > DISPERSION_LIMIT:
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
