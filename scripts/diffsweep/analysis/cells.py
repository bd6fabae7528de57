"""What a sweep left on disk for each model x target x variant, read as it is, holes and failures included."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffsweep.analysis.arrivals import Arrivals, read_searches
from diffsweep.engines import ENGINES
from diffsweep.measure import machines, records
from diffsweep.measure.records import CapacityRecord, LatencyRecord, ResourceSample
from diffsweep.sweep.files import read_json
from diffsweep.sweep.plan import replicates_of
from diffsweep.sweep.variants import artifact_name

OK, UNSUPPORTED, FAILED, STALE = "ok", "unsupported", "failed", "stale"
# The worst of the stages' outcomes is the cell's.
SEVERITY = {OK: 0, UNSUPPORTED: 1, STALE: 2, FAILED: 3}


@dataclass(frozen=True)
class Ending:
    """How one stage ended. status: ok, unsupported, failed, stale; reason: None when ok."""

    status: str
    reason: str | None = None


@dataclass(frozen=True)
class Replicate:
    """One replicate that ended well. `notes` is its replicate.json; `latency` and `capacity` have
    the valid records only.

    resources: empty where nothing was sampled, as in results of earlier versions.
    """

    number: int
    notes: Mapping
    latency: list[LatencyRecord]
    capacity: list[CapacityRecord]
    resources: list[ResourceSample] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """One model x target x variant. A document that is missing, unreadable or of a failed stage may be None.

    endings: how the stages ended, in their order. quality is kept after a failure, since it counts the defects. export:
    the manifest of the ONNX that the artifact was made from, None for an engine that needs none.
    searches: for the highest rate; empty where none was made, which is no stage of every sweep.
    A replicate from another machine than this one is kept, and its ending says that it is stale.
    """

    model: str
    target: str
    variant: Mapping
    endings: list[Ending]
    manifest: Mapping | None
    replicates: list[Replicate]
    images: Mapping | None
    quality: Mapping | None
    export: Mapping | None = None
    searches: Sequence[Arrivals] = ()

    @property
    def name(self) -> str:
        return self.variant["name"]

    @property
    def loads(self) -> list[list[CapacityRecord]]:
        """The load records of each replicate that was put under load (protocol.load_replicates)."""
        return [replicate.capacity for replicate in self.replicates if replicate.capacity]

    @property
    def machine(self) -> str | None:
        """The machines it was measured on, in words: with more than one, its figures belong to none."""
        found = {r.notes["host"].get("cpu") or "unknown" for r in self.replicates if "host" in r.notes}
        return ", ".join(sorted(found)) or None

    @property
    def status(self) -> str:
        return max((ending.status for ending in self.endings), key=SEVERITY.__getitem__, default=FAILED)

    @property
    def reason(self) -> str:
        """Why the status is not ok: the first stage that ended so (later ones repeat it)."""
        return next((ending.reason or "" for ending in self.endings if ending.status == self.status != OK), "")


@dataclass(frozen=True)
class Source:
    """Where cells are read from. machines: target -> the machine that its figures should be from, None for any."""

    plan: Mapping
    results: Path
    artifacts: Path
    machines: Mapping[str, Mapping | None] = field(default_factory=dict)

    def cell(self, model: str, target: str, variant: Mapping) -> Cell:
        return read_cell(self, model, target, variant)


def machines_of(plan: Mapping, results: Path, here: Mapping[str, Mapping | None]) -> dict[str, Mapping | None]:
    """target -> the machine that its figures should be from. here: those that are known, None for a target elsewhere,
    of which is taken where it was measured last: what was measured on another node before is not compared with that."""
    found = dict(here)
    for target in (name for name in plan["targets"] if name in here and here[name] is None):
        places = (results / model / target for model in plan["models"])
        replicates = (path for place in places for path in place.glob("*/replicate-*/replicate.json"))
        found[target] = machines.latest((read_stage(path, "")[0] for path in replicates), plan["targets"][target])
    return found


def read_cells(plan: Mapping, results: Path, artifacts: Path, machines: Mapping | None = None) -> Iterator[Cell]:
    """All cells of a plan, in its order."""
    source = Source(plan, results, artifacts, machines or {})
    for model in plan["models"]:
        for target in plan["targets"]:
            for variant in plan["variants"]:
                yield source.cell(model, target, variant)


def read_cell(source: Source, model: str, target: str, variant: Mapping) -> Cell:
    folder = source.results / model / target / variant["name"]
    manifest = source.artifacts / model / artifact_name(variant, target) / "manifest.json"
    built, built_ending = read_stage(manifest, "convert")
    replicates, endings = read_replicates(source, target, folder)
    images, images_ending = read_stage(folder / "images.json", "images")
    quality, quality_ending = read_stage(folder / "quality.json", "score")
    from_onnx = ENGINES[variant["engine"]].from_onnx
    exported, export_ending = read_stage(manifest.parents[1] / "onnx" / "manifest.json", "export")
    return Cell(
        model=model,
        target=target,
        variant=variant,
        endings=[built_ending, *endings, images_ending, quality_ending],
        manifest=built if built_ending.status == OK else None,
        replicates=replicates,
        images=images if images_ending.status == OK else None,
        quality=quality,
        export=exported if from_onnx and export_ending.status == OK else None,
        searches=read_searches(folder),
    )


def read_stage(path: Path, stage: str) -> tuple[Mapping | None, Ending]:
    """The JSON document that a stage wrote, and how it ended."""
    try:
        document = read_json(path)
    except FileNotFoundError:
        return None, Ending(FAILED, f"{stage}: no result ({path.name} is missing)")
    except ValueError as error:
        return None, Ending(FAILED, f"{stage}: {error}")
    try:
        return document, ending_of(document, stage)
    except (KeyError, TypeError):
        return None, Ending(FAILED, f"{stage}: {path}: it does not say how the stage ended")


def ending_of(document: Mapping, stage: str) -> Ending:
    """The outcome in a document; its reason begins with the stage, unless it is one handed on from a stage before."""
    outcome = document["outcome"]
    if outcome["status"] == OK:
        return Ending(OK)
    reason = outcome["reason"] or "no reason was given"
    handed_on = any(reason.startswith(f"{before}: ") for before in ("convert", "images", "baseline"))
    return Ending(outcome["status"], reason if handed_on else f"{stage}: {reason}")


def read_replicates(source: Source, target: str, folder: Path) -> tuple[list[Replicate], list[Ending]]:
    """The replicates that ended well, and how each one ended. Records of a failed replicate are not used."""
    replicates, endings = [], []
    for number in replicates_of(source.plan, folder.name):
        where = folder / f"replicate-{number}"
        notes, ending = read_stage(where / "replicate.json", f"benchmark, replicate {number}")
        if notes is not None and ending.status == OK:
            ending = staleness(source.plan, notes)
        usable = ending.status == OK
        if usable:
            ending = from_another_machine(source, target, notes)
            try:
                replicates.append(read_replicate(number, notes, where))
            except (FileNotFoundError, ValueError) as error:
                ending = Ending(FAILED, f"benchmark, replicate {number}: {error}")
        endings.append(ending)
    return replicates, endings


def read_replicate(number: int, notes: Mapping, where: Path) -> Replicate:
    """A replicate with its records. Raises FileNotFoundError and CorruptRecords."""
    resources = where / "resources.jsonl"
    sampled = resources.exists() or resources.name in notes.get("files", {})
    return Replicate(
        number,
        notes,
        latency=records.valid(records.read_latency(where / "latency.jsonl", notes)),
        capacity=records.valid(records.read_capacity(where / "capacity.jsonl", notes)),
        resources=records.read_resources(resources, notes) if sampled else [],
    )


def staleness(plan: Mapping, notes: Mapping) -> Ending:
    """Were these records made for this plan? A speed-up over another baseline must not stand in this table."""
    against = notes.get("baseline", plan["baseline"])
    if against != plan["baseline"]:
        return Ending(STALE, f"benchmark: measured against the baseline {against!r}; run the sweep again")
    return Ending(OK)


def from_another_machine(source: Source, target: str, notes: Mapping) -> Ending:
    """Were these records measured on the machine that this target is now?"""
    here = source.machines.get(target)
    if here is None or "host" not in notes:
        return Ending(OK)
    differs = machines.difference(machines.identity(notes["host"], source.plan["targets"][target]), here)
    return Ending(OK) if differs is None else Ending(STALE, f"benchmark: measured on another machine: {differs}")
