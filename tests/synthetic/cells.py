"""One model x target x variant with its truth, and how its stages ended."""

import json
from dataclasses import dataclass
from pathlib import Path

from synthetic.plan import Truth, truth_of


@dataclass(frozen=True)
class Failure:
    """A stage (convert, benchmark, images, score) that ended badly, in one `replicate` of the benchmark or in all."""

    stage: str
    status: str = "failed"
    reason: str = "ran out of memory"
    replicate: int | None = None


OK = {"status": "ok", "reason": None}


def outcome(stage: str, failure: Failure | None = None) -> dict:
    """The outcome of `stage`, given what failed at or before it."""
    if failure is None:
        return {**OK, "stage": stage, "attempt": 0}
    reason = failure.reason if failure.stage == stage else f"{failure.stage}: {failure.reason}"
    return {"status": failure.status, "reason": reason, "stage": failure.stage, "attempt": 0}


@dataclass(frozen=True)
class Cell:
    """One model x target x variant, with its truth."""

    plan: dict
    model: str
    target: str
    variant: dict
    truths: dict
    failure: Failure | None
    seed: int

    @property
    def truth(self) -> Truth:
        return self.truths.get(self.variant["name"]) or truth_of(self.variant)

    @property
    def baseline(self) -> dict:
        return next(v for v in self.plan["variants"] if v["name"] == self.plan["baseline"])

    @property
    def baseline_truth(self) -> Truth:
        return self.truths.get(self.baseline["name"]) or truth_of(self.baseline)

    def failure_at(self, *stages: str, replicate: int | None = None) -> Failure | None:
        failure = self.failure
        if failure is None or failure.stage not in stages:
            return None
        return failure if failure.replicate in (None, replicate) else None


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
