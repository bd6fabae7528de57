"""Two states of a sweep, read and compared: what differs in how they were made, and what that did to each variant."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from diffsweep.analysis import comparison, summary, verdicts
from diffsweep.analysis.cells import OK, Cell, Source
from diffsweep.analysis.columns import estimate_in
from diffsweep.analysis.comparison import Amount, Ground, Images, Limits, Quality, Speed
from diffsweep.analysis.states import UNRECORDED, Key, State, measured_anew, shared_replicates
from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.files import digest_file, read_json
from diffsweep.sweep.variants import AXES

# What became of a variant.
RENEWED, SAME, NEW, GONE, REDEFINED, BROKE, MENDED, NO_RESULT = (
    "measured anew", "the same results", "new", "gone", "redefined", "broke", "mended", "no result",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One variant in both states. kind: RENEWED and so on; note: the reason where it is not simply measured anew.

    speed, quality, memory, size: None where the two states hold the same results, or nothing can be set side by side.
    """

    key: Key
    kind: str
    engine: str
    note: str = ""
    speed: Speed | None = None
    quality: Quality | None = None
    memory: Amount | None = None
    size: Amount | None = None

    @property
    def variant(self) -> str:
        return self.key[2]


@dataclass(frozen=True)
class Difference:
    """Something that differs in how the two states were made: "onnxruntime", ("numpy 2.3.4 → 2.3.5", ...)."""

    subject: str
    changes: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """Two states. thresholds: per (model, target), the least change of a speed-up that the A/A tests let pass."""

    old: Mapping[str, Any]
    new: Mapping[str, Any]
    differences: Sequence[Difference]
    changes: Sequence[Change]
    thresholds: Mapping[tuple[str, str], float | None]


def compare(old: State, new: State, limits: Limits | None = None) -> Comparison:
    """Everything that two states differ in. Only cells that were made anew are read."""
    limits = limits or Limits()
    order = list({**new.keys, **old.keys})
    grounds = {place: _common_ground(old, new, *place) for place in dict.fromkeys(key[:2] for key in order)}
    changes = [_change(old, new, key, grounds[key[:2]], limits) for key in order]
    thresholds = {place: ground.threshold for place, ground in grounds.items()}
    return Comparison(old.notes, new.notes, differences(old, new), changes, thresholds)


# --- one variant ----------------------------------------------------------------------------------------------------


def _change(old: State, new: State, key: Key, place: Ground, limits: Limits) -> Change:
    known = [state for state in (old, new) if key in state.keys]
    variants = [state.variants[key[2]] for state in known]
    engine = variants[-1]["engine"]
    if len(known) == 1:
        return Change(key, NEW if known[0] is new else GONE, engine)
    was, is_ = variants
    redefined = [f"{axis}: {was[axis]} → {is_[axis]}" for axis in AXES if axis in was and was[axis] != is_[axis]]
    if redefined:
        return Change(key, REDEFINED, engine, "; ".join(redefined))
    before, now = old.facts(key), new.facts(key)
    if before["replicates"] == now["replicates"] and before["quality"] == now["quality"]:
        return Change(key, SAME, engine)
    a, b = _read(old, key), _read(new, key)
    if OK not in (a.status, b.status):
        return Change(key, NO_RESULT, engine, f"{b.status}: {b.reason}")
    if a.status != OK:
        return Change(key, MENDED, engine, f"before: {a.status}: {a.reason}")
    if b.status != OK:
        return Change(key, BROKE, engine, f"{b.status}: {b.reason}")
    return _both(old, new, key, a, b, _ground(old, new, key, place), limits)


def _both(old: State, new: State, key: Key, a: Cell, b: Cell, ground: Ground, limits: Limits) -> Change:
    before, now = old.facts(key), new.facts(key)
    speed = memory = quality = None
    note = ""
    if measured_anew(before, now):
        speed = comparison.speed(a.replicates, b.replicates, ground, limits)
        memory = comparison.memory(a.replicates, b.replicates, limits)
    elif before["replicates"] != now["replicates"]:
        shared = len(shared_replicates(before, now))
        note = f"its speed is not compared: {shared} of {len(now['replicates'])} replicates are the same in both states"
    if before["quality"] != now["quality"]:
        quality = _quality(old, new, key, limits)
    size = comparison.size(a, b, limits)
    kind = RENEWED if speed or quality else SAME
    return Change(key, kind, b.variant["engine"], note, speed, quality, memory, size)


def _read(state: State, key: Key) -> Cell:
    model, target, name = key
    return Source(state.plan, state.results, state.results.parent / "artifacts").cell(
        model, target, state.variants[name]
    )


# --- what speed can be compared on ----------------------------------------------------------------------------------


def _common_ground(old: State, new: State, model: str, target: str) -> Ground:
    """What all variants of a model on a target share: the A/A tests of both states."""
    tests, unfit = [], ""
    for state, when in ((old, "before"), (new, "now")):
        key = (model, target, state.plan["baseline"])
        if key in state.keys:
            tests.append(summary.speedup_of(_read(state, key)))
            found = verdicts.unfit_sentence(tests[-1])
            unfit = unfit or (found and f"{when}: {found}")
    limits = [verdicts.threshold(verdicts.noise_floor(test)) for test in tests]
    threshold = max(limits) if limits and None not in limits else None
    return Ground(False, "", "", unfit, threshold)


def _ground(old: State, new: State, key: Key, place: Ground) -> Ground:
    before, now = old.facts(key), new.facts(key)
    other_machine = other_baseline = ""
    if before.get("machine") != now.get("machine"):
        other_machine = f"measured on another machine: {now.get('machine')}, before {before.get('machine')}"
    if old.plan["baseline"] != new.plan["baseline"]:
        other_baseline = f"the baseline is {new.plan['baseline']}, before {old.plan['baseline']}"
    elif before.get("baseline_environment") != now.get("baseline_environment"):
        other_baseline = "the baseline was updated too"
    return replace(
        place,
        is_baseline=key[2] == new.plan["baseline"],
        other_machine=other_machine,
        other_baseline=other_baseline,
    )


# --- images ---------------------------------------------------------------------------------------------------------


def _quality(old: State, new: State, key: Key, limits: Limits) -> Quality:
    try:
        images = [read_images(state.folder(key)) for state in (old, new)]
    except (OSError, ValueError, KeyError) as error:
        return Quality(verdicts.CANNOT_TELL, why=f"scores cannot be read: {type(error).__name__}: {error}")
    reference = reference_features(PROJECT / new.plan["quality"]["fid"] / "reference.safetensors")
    return comparison.quality(*images, new.plan["quality"], reference, limits)


def read_images(folder: Path) -> Images:
    """What a cell's images.json, scores.parquet and features.npy say of its images. Raises OSError, ValueError."""
    entries, scores = read_json(folder / "images.json")["images"], read_json(folder / "quality.json")
    for name, digest in scores.get("files", {}).items():
        if digest_file(folder / name) != digest:
            raise ValueError(f"{folder / name}: is not the file that was made: its digest differs from quality.json's")
    table = pyarrow.parquet.read_table(folder / "scores.parquet", columns=["seed", "clip_score"]).to_pydict()
    if table["seed"] != [entry["seed"] for entry in entries]:
        raise ValueError("scores.parquet and images.json are not of the same images")
    return Images(
        prompts=[entry["prompt"] for entry in entries],
        seeds=table["seed"],
        digests=[entry["sha256"] for entry in entries],
        clip_scores=table["clip_score"],
        features=np.load(folder / "features.npy", allow_pickle=False),
        fid=estimate_in(scores.get("fid")),
        scorers=(scores.get("provenance") or {}).get("weights") or {},
    )


@cache
def reference_features(path: Path) -> np.ndarray | None:
    """The features of the reference images, (n, d); None where the file is not at hand.

    Read without the safetensors library, which the workflow's environment does not have: eight bytes of length, a JSON
    header of that length, the numbers.
    """
    try:
        with open(path, "rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            entry = json.loads(handle.read(length))["features"]
            start, end = entry["data_offsets"]
            handle.seek(8 + length + start)
            kind = {"F32": "<f4", "F64": "<f8"}[entry["dtype"]]
            return np.frombuffer(handle.read(end - start), kind).reshape(entry["shape"]).astype(np.float64)
    except FileNotFoundError:
        return None


# --- what differs in how they were made -----------------------------------------------------------------------------


def differences(old: State, new: State) -> list[Difference]:
    """Packages per environment, machines, revisions of the code, and the plan's protocol, where they differ."""
    found = []
    before, now = old.notes["environments"], new.notes["environments"]
    for name in sorted({*before, *now}):
        unknown = name in UNRECORDED and not (name in before and name in now)
        if before.get(name) != now.get(name) and not unknown:
            found.append(Difference(f"environment {name}", _packages(old, new, before.get(name), now.get(name))))
    both = [key for key in new.keys if key in old.keys]
    anew = [key for key in both if measured_anew(old.facts(key), new.facts(key))]
    for subject in ("machine", "revision"):
        sides = [{known for key in anew if (known := state.facts(key)[subject])} or {"unknown"} for state in (old, new)]
        if sides[0] != sides[1]:
            found.append(Difference(subject, [" → ".join(", ".join(sorted(side)) for side in sides)]))
    for part in ("protocol", "quality"):
        lines = [
            f"{setting}: {old.plan[part].get(setting)} → {value}"
            for setting, value in new.plan[part].items()
            if old.plan[part].get(setting) != value
        ]
        if lines:
            found.append(Difference(part, lines))
    if old.plan["baseline"] != new.plan["baseline"]:
        found.append(Difference("baseline", [f"{old.plan['baseline']} → {new.plan['baseline']}"]))
    return found


def _packages(old: State, new: State, before: Sequence[str] | None, now: Sequence[str] | None) -> list[str]:
    """The packages that differ, from the receipts; the locks' digests where a receipt is missing."""
    if not before or not now:
        return ["not used now" if before else "not used before"]
    theirs, ours = old.receipt(before[-1]), new.receipt(now[-1])
    if theirs is None or ours is None:
        return [f"{before[-1]} → {now[-1]} (a receipt is missing, so the packages are not known)"]
    lines = []
    for package in sorted({*theirs, *ours}):
        a, b = theirs.get(package), ours.get(package)
        if a != b:
            lines.append(
                f"{package} {a} → {b}" if a and b else f"{package} {b} added" if b else f"{package} {a} removed"
            )
    return lines or [f"{before[-1]} → {now[-1]}: the same versions, other files"]
