"""Records of a search -> its runs, the highest rate within the objective and its interval; the summary's columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffsweep.analysis.columns import Row, put
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.arrivals import Limits, Trial, service_of, summarise_trial
from diffsweep.measure.records import CapacityRecord, read_capacity
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


def read_arrivals(folder: Path) -> Arrivals | None:
    """The search of a cell; None when none was made."""
    try:
        notes = read_json(folder / "arrivals.json")
        outcome = notes["outcome"]
        if outcome["status"] != "ok":
            return Arrivals(notes.get("objective_s"), reason=outcome["reason"] or outcome["status"])
        return arrivals_of(notes, read_capacity(folder / "arrivals.jsonl"))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        return Arrivals(None, reason=f"the results cannot be read: {error}")


def arrivals_of(notes: Mapping, records: Sequence[CapacityRecord]) -> Arrivals:
    """The search again from its raw records, by the rules that it was made by."""
    unloaded = [r.done_s - r.sent_s for r in records if r.scenario == "steps" and r.steady and r.status == "ok"]
    limits = Limits(notes["objective_s"], service_of(unloaded), notes["arrivals"]["lateness"])
    by_trial: dict[int, list[CapacityRecord]] = {}
    for record in records:
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


def rate_estimate(found: Arrivals) -> Estimate | None:
    """The highest rate on which two runs agreed that it is within the objective; no interval is claimed for it."""
    return None if found.rate is None else Estimate(found.rate)


def arrivals_fields(found: Arrivals | None) -> Row:
    """The summary's columns of a search; empty without one. One request is one image."""
    row: Row = {"objective_s": found.objective_s if found else None}
    put(row, "rate_within_objective_images_per_s", rate_estimate(found) if found else None)
    agreed = [t for t in found.trials if t.valid and t.rate_per_s == found.rate] if found else []
    row["goodput_images_per_s"] = float(np.mean([t.good_images_per_s for t in agreed])) if agreed else None
    row["arrivals_runs"] = len(found.trials) if found else None
    row["arrivals_warnings"] = warnings(found) if found else []
    return row


def warnings(found: Arrivals) -> list[str]:
    told = [f"no highest rate within the objective: {found.reason}"] if found.rate is None else []
    if found.disturbed:
        told.append(f"the machine was not quiet during {found.disturbed} of {len(found.trials)} runs of arrivals")
    return told


def trial_rows(found: Arrivals | None) -> list[Row]:
    """A row per run, for tables/arrivals.csv."""
    return [
        {
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
            "objective_s": found.objective_s,
            "is_within": t.within,
            "valid": t.valid,
            "is_answer": t.valid and t.rate_per_s == found.rate,
            "reason": t.reason or None,
        }
        for t in (found.trials if found else ())
    ]
