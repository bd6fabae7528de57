"""What a sweep left on disk for each model x target x variant, read as it is, holes and failures included."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffsweep.analysis.arrivals import Arrivals, read_arrivals
from diffsweep.engines import ENGINES
from diffsweep.measure import records
from diffsweep.measure.records import CapacityRecord, LatencyRecord, ResourceSample
from diffsweep.sweep.files import read_json
from diffsweep.sweep.plan import artifact_name

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
    """One replicate that ended well. `notes` is its replicate.json; `latency` has the valid blocks only.

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
    arrivals: None where no highest rate was searched, which is no stage of every sweep.
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
    arrivals: Arrivals | None = None

    @property
    def name(self) -> str:
        return self.variant["name"]

    @property
    def loads(self) -> list[list[CapacityRecord]]:
        """The load records of each replicate that was put under load (protocol.load_replicates)."""
        return [replicate.capacity for replicate in self.replicates if replicate.capacity]

    @property
    def status(self) -> str:
        return max((ending.status for ending in self.endings), key=SEVERITY.__getitem__, default=FAILED)

    @property
    def reason(self) -> str:
        """Why the status is not ok: the first stage that ended so (later ones repeat it)."""
        return next((ending.reason or "" for ending in self.endings if ending.status == self.status != OK), "")


def read_cells(plan: Mapping, results: Path, artifacts: Path) -> Iterator[Cell]:
    """All cells of a plan, in its order."""
    for model in plan["models"]:
        for target in plan["targets"]:
            for variant in plan["variants"]:
                folder = results / model / target / variant["name"]
                manifest = artifacts / model / artifact_name(variant, target) / "manifest.json"
                yield read_cell(plan, model, target, variant, folder, manifest)


def read_cell(plan: Mapping, model: str, target: str, variant: Mapping, folder: Path, manifest: Path) -> Cell:
    built, built_ending = read_stage(manifest, "convert")
    replicates, endings = read_replicates(plan, folder)
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
        arrivals=read_arrivals(folder),
    )


def read_stage(path: Path, stage: str) -> tuple[Mapping | None, Ending]:
    """The JSON document that a stage wrote, and how it ended."""
    try:
        document = read_json(path)
    except FileNotFoundError:
        return None, Ending(FAILED, f"{stage}: no result ({path.name} is missing)")
    except ValueError as error:
        return None, Ending(FAILED, f"{stage}: {error}")
    return document, ending_of(document, stage)


def ending_of(document: Mapping, stage: str) -> Ending:
    """The outcome in a document; its reason begins with the stage, unless it is one handed on from a stage before."""
    outcome = document["outcome"]
    if outcome["status"] == OK:
        return Ending(OK)
    reason = outcome["reason"] or "no reason was given"
    handed_on = any(reason.startswith(f"{before}: ") for before in ("convert", "images", "baseline"))
    return Ending(outcome["status"], reason if handed_on else f"{stage}: {reason}")


def read_replicates(plan: Mapping, folder: Path) -> tuple[list[Replicate], list[Ending]]:
    """The replicates that ended well, and how each one ended. Records of a failed replicate are not used."""
    replicates, endings = [], []
    for number in range(1, plan["protocol"]["replicates"] + 1):
        where = folder / f"replicate-{number}"
        notes, ending = read_stage(where / "replicate.json", f"benchmark, replicate {number}")
        if notes is not None and ending.status == OK:
            ending = staleness(plan, notes)
        if ending.status == OK:
            try:
                replicates.append(read_replicate(number, notes, where))
            except (FileNotFoundError, ValueError) as error:
                ending = Ending(FAILED, f"benchmark, replicate {number}: {error}")
        endings.append(ending)
    return replicates, endings


def read_replicate(number: int, notes: Mapping, where: Path) -> Replicate:
    """A replicate with its records. Raises FileNotFoundError and CorruptRecords."""
    resources = where / "resources.jsonl"
    return Replicate(
        number,
        notes,
        latency=records.valid(records.read_latency(where / "latency.jsonl")),
        capacity=records.read_capacity(where / "capacity.jsonl"),
        resources=records.read_resources(resources) if resources.exists() else [],
    )


def staleness(plan: Mapping, notes: Mapping) -> Ending:
    """Were these records made for this plan? A speed-up over another baseline must not stand in this table."""
    against = notes.get("baseline", plan["baseline"])
    if against != plan["baseline"]:
        return Ending(STALE, f"benchmark: measured against the baseline {against!r}; run the sweep again")
    return Ending(OK)
