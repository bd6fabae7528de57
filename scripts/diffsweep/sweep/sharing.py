"""Variants that have one baseline share the start of its server, and of what scores their images; those that differ
only in what a request carries (steps, scheduler, guidance) share the start of what runs them, too.

Snakemake has a job for each replicate of each variant, one for its images and one for their scores, so that a variant
that is added or changed is the only one measured. Before the jobs run, the workflow notes which of them need the same
baseline's server, the same loaded pipeline, or the same baseline's scores. The first of those jobs does the work of all
of them, and puts the others' results aside; each of the other jobs takes its own from there. A job that finds nothing
of its own does it itself.

Paths are relative to the folder that Snakemake works in. What is put aside is named by all that Snakemake looks at to
decide whether a job is done again, so that what a killed run has left is either what the next one wants or nothing.
Each is put aside as soon as it is there: what ends the first job later costs none of it.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import ClassVar

from diffsweep.sweep.digests import data_digest
from diffsweep.sweep.files import copy_whole, read_json, write_json
from diffsweep.sweep.options import resolve_threads
from diffsweep.sweep.outcomes import Outcome

FOLDER = Path(".snakemake/diffsweep/shared")
LIMITS = ("timeout_s", "request_timeout_s")  # in what a job is told, not in what it is noted by


def server_of(spec: Mapping) -> str:
    """A digest of what decides which server a variant's replicate needs beside the baseline's.

    The baseline against itself needs one of its own, so it shares that with nobody.
    """
    variant, baseline = spec["variant"], spec["baseline"]
    itself = variant["name"] == baseline["name"]
    return data_digest([spec["variant_artifact"], spec["environments"]["variant"], variant.get("batching"), itself])


def baseline_of(spec: Mapping) -> str:
    """A digest of what replicates must have in common to be measured together: the baseline's server, and how they are
    measured beside it.

    On a GPU also the variant's server: there the models of others would take memory from the one under load.
    """
    needed = {key: value for key, value in _needed(spec).items() if key not in ("variant_artifact", "environments")}
    own = None if spec["target"]["device"] == "cpu" else server_of(spec)
    return data_digest([needed, spec["environments"]["baseline"], own])


def settings_of(spec: Mapping) -> str:
    """A digest of all that a job is told but its variant: which pipeline makes which images, or with which baseline and
    by which scorers they are judged."""
    return data_digest(_needed(spec))


def _needed(spec: Mapping) -> dict:
    return {key: value for key, value in spec.items() if key not in ("variant", "attempt", *LIMITS)}


@dataclass(frozen=True)
class Stage:
    """needs: of a job's spec, a digest of what it can share; document: its output, which is written last."""

    needs: Callable[[Mapping], str]
    document: str


STAGES = {
    "benchmark": Stage(baseline_of, "replicate.json"),
    "images": Stage(settings_of, "images.json"),
    "score": Stage(settings_of, "quality.json"),
}


@dataclass(frozen=True)
class Job:
    """A job that is going to run. folder: of its results; key: what those are put aside under; needs: what it can
    share."""

    variant: str
    needs: str
    key: str
    folder: str
    spec: Mapping


def job_of(stage: str, spec: Mapping, folder: str, others: Sequence[str]) -> Job:
    """others: what else makes Snakemake run the job again (the code's digest, its inputs)."""
    spec = resolve_threads(spec)
    needs = STAGES[stage].needs(spec)
    return Job(spec["variant"]["name"], needs, data_digest([spec, folder, *others]), folder, spec)


def note_jobs(stage: str, jobs: Iterable[Job], folder: Path = FOLDER) -> None:
    """Note which of a stage's jobs in this run share something, and forget what was put aside for none of them."""
    folder, document = folder / stage, STAGES[stage].document
    jobs = sorted(jobs, key=attrgetter("needs", "variant"))
    wanted, aside = {job.key for job in jobs}, set()
    for path in (folder / "done").glob("*"):
        if path.name in wanted and (path / document).exists():
            aside.add(path.name)
        else:
            forget(path, document)
    shutil.rmtree(folder / "jobs", ignore_errors=True)
    for needs, members in groupby(jobs, key=attrgetter("needs")):
        sharing = list(members)
        if len(sharing) > 1 or sharing[0].key in aside:
            write_json(folder / "jobs" / f"{needs}.json", [asdict(job) for job in sharing])


def forget(aside: Path, document: str) -> None:
    """Remove what was put aside, the document first: without it nobody takes what a kill leaves of the rest."""
    (aside / document).unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)


class Work:
    """The work of one job. stage: its name in STAGES; out: the folder of its results."""

    stage: ClassVar[str]
    out: Path

    @property
    def document(self) -> Path:
        return self.out / STAGES[self.stage].document

    @property
    def begun(self) -> bool:
        """False where it is known that nothing of it has run yet."""
        return True

    @property
    def finished(self) -> bool:
        return self.document.exists()


class Shared:
    """The jobs that share with the one of `stage` that is told `spec` and leaves its results in `out`."""

    def __init__(self, stage: str, spec: Mapping, out: Path, folder: Path) -> None:
        self._out, self._folder, self._document = out, folder / stage, STAGES[stage].document
        self._noted = self._folder / "jobs" / f"{STAGES[stage].needs(spec)}.json"
        self._limits = {key: spec[key] for key in LIMITS if key in spec}
        jobs = [Job(**job) for job in read_json(self._noted)] if self._noted.exists() else []
        told = {key: value for key, value in spec.items() if key not in LIMITS}
        self._ours = next((job for job in jobs if Path(job.folder) == out and job.spec == told), None)
        self._others = [job for job in jobs if self._ours is not None and job is not self._ours]

    def others(self) -> list[Job]:
        """Each other job that nobody has done yet, its spec with the limits that ours has."""
        return [replace(job, spec={**job.spec, **self._limits}) for job in self._others if not self._is_done(job)]

    def _is_done(self, job: Job) -> bool:
        return (self.aside(job) / self._document).exists()

    def aside(self, job: Job) -> Path:
        """The folder that the results of another job are put into."""
        return self._folder / "done" / job.key

    def take(self, inputs: Mapping) -> bool:
        """Bring what was put aside for this job to its place; False when there is nothing, or it was made from other
        `inputs`. It is copied, and forgotten at the end: results/ may lie on another disk, where a move that is killed
        leaves half of it on either side."""
        aside = self._ours and self.aside(self._ours)
        if aside is None or not (aside / self._document).exists():
            return False
        fits = read_json(aside / self._document)["inputs"] == inputs
        if fits:
            for path in sorted(aside.iterdir(), key=lambda path: path.name == self._document):  # the document last
                copy_whole(path, self._out / path.name)
        forget(aside, self._document)
        return fits

    def work_through(
        self, ours: Work, others: Sequence[Work], supervise: Callable[[Sequence[Work]], Outcome]
    ) -> Outcome:
        """Have `supervise` do our work together with that of `others`; should that not end well, ours alone. Returns
        how the last of it ended, which is for ours where that is not finished."""
        outcome = supervise([*others, ours])
        if others and not outcome.ok:
            print(f"{outcome.reason}; what had begun and is not done goes alone", flush=True)
            self.give_up(others)
            if not ours.finished:
                outcome = supervise([ours])
        return outcome

    def give_up(self, others: Sequence[Work]) -> None:
        """Let each job of `others` that had begun, and is not done, go alone from now on: one of them has brought down
        what they share."""
        alone = [work.out for work in others if work.begun and not work.finished]
        for path in alone:
            forget(path, self._document)
        self._others = [job for job in self._others if self.aside(job) not in alone]
        write_json(self._noted, [asdict(job) for job in self._others])
