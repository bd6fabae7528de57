"""Variants that differ only in what a request carries (steps, scheduler, guidance) are measured by one start.

Snakemake has a job for each replicate of each variant, so that a variant that is added or changed is the only one
measured. Before the jobs run, the workflow notes which of them need the same servers. The first of those jobs measures
all of them, one after the other, and puts the others' results aside; each of the other jobs takes its own from there.
A job that finds nothing of its own measures it.

Paths are relative to the folder that Snakemake works in. What is put aside is named by all that Snakemake looks at to
decide whether a job is done again, so that what a killed run has left is either what the next one wants or nothing.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from diffsweep.sweep.digests import data_digest
from diffsweep.sweep.files import read_json, write_json
from diffsweep.sweep.options import resolve_threads

FOLDER = Path(".snakemake/diffsweep/shared")
DOCUMENT = "replicate.json"
LIMITS = ("timeout_s", "request_timeout_s")  # in what a job is told, not in what it is noted by


@dataclass(frozen=True)
class Job:
    """A replicate that is going to be measured. folder: of its results; key: what it is put aside under."""

    variant: str
    servers: str
    key: str
    folder: str
    spec: Mapping


def job_of(spec: Mapping, folder: str, others: Sequence[str]) -> Job:
    """others: what else makes Snakemake run the job again (the code's digest, the receipts of its environments)."""
    spec = resolve_threads(spec)
    return Job(spec["variant"]["name"], servers_of(spec), data_digest([spec, folder, *others]), folder, spec)


def servers_of(spec: Mapping) -> str:
    """A digest of what decides which servers a replicate needs, and how it is measured on them.

    The baseline against itself needs two of its own, so it shares with nobody.
    """
    variant, baseline = spec["variant"], spec["baseline"]
    itself = variant["name"] == baseline["name"]
    needed = {key: value for key, value in spec.items() if key not in ("variant", "attempt", *LIMITS)}
    return data_digest([needed, variant.get("batching"), itself])


def note_jobs(jobs: Iterable[Job], folder: Path = FOLDER) -> None:
    """Note which of a run's jobs share servers, and forget what was put aside for none of them."""
    jobs = sorted(jobs, key=attrgetter("servers", "variant"))
    wanted, aside = {job.key for job in jobs}, set()
    for path in (folder / "measured").glob("*"):
        if path.name in wanted and (path / DOCUMENT).exists():
            aside.add(path.name)
        else:
            shutil.rmtree(path)
    shutil.rmtree(folder / "jobs", ignore_errors=True)
    for servers, members in groupby(jobs, key=attrgetter("servers")):
        sharing = list(members)
        if len(sharing) > 1 or sharing[0].key in aside:
            write_json(folder / "jobs" / f"{servers}.json", [asdict(job) for job in sharing])


class Shared:
    """The jobs that share servers with the one that is told `spec` and leaves its results in `out`."""

    def __init__(self, spec: Mapping, out: Path, folder: Path) -> None:
        self._folder, self._out = folder, out
        self._noted = folder / "jobs" / f"{servers_of(spec)}.json"
        self._limits = {key: spec[key] for key in LIMITS if key in spec}
        jobs = [Job(**job) for job in read_json(self._noted)] if self._noted.exists() else []
        told = {key: value for key, value in spec.items() if key not in LIMITS}
        self._ours = next((job for job in jobs if Path(job.folder) == out and job.spec == told), None)
        self._others = [job for job in jobs if self._ours is not None and job is not self._ours]

    def others(self) -> list[tuple[Path, dict]]:
        """(folder to put its results aside in, spec) of each other job that nobody has measured yet."""
        left = [job for job in self._others if not (self._aside(job) / DOCUMENT).exists()]
        return [(self._aside(job), {**job.spec, **self._limits}) for job in left]

    def take(self, inputs: Mapping) -> bool:
        """Move what was put aside for this job to its place; False when there is nothing, or it was made from other
        `inputs`."""
        aside = self._ours and self._aside(self._ours)
        if aside is None or not (aside / DOCUMENT).exists():
            return False
        fits = read_json(aside / DOCUMENT)["inputs"] == inputs
        if fits:
            self._out.mkdir(parents=True, exist_ok=True)
            for path in sorted(aside.iterdir(), key=lambda path: path.name == DOCUMENT):  # the document last
                shutil.move(path, self._out / path.name)  # results/ may lie on another disk
        shutil.rmtree(aside)
        return fits

    def give_up(self) -> None:
        """Let each of these jobs measure alone from now on: one of them has brought the servers down."""
        for folder, _ in self.others():
            shutil.rmtree(folder, ignore_errors=True)
        self._noted.unlink(missing_ok=True)
        self._others = []

    def _aside(self, job: Job) -> Path:
        return self._folder / "measured" / job.key
