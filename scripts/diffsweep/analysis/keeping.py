"""Where states of a sweep are kept, and how they are found again.

results/<sweep>/states/<state>/ is a results folder of its own: state.json says what the state is; <sweep>/, artifacts/
and envs/ hold the records, scores, manifests and receipts that it rests on. The files are hard links: every program
replaces its files by renaming new ones into place (sweep/files.py), so a kept file stays as it was, and one that no
update touched takes no room. Images and model files are not kept; scores, features and digests of the images are.

A state is written when the tables are made, since Snakemake deletes what it is about to make again.
"""

import os
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from diffsweep.analysis.states import State, current_locks, describe, is_update, keys_of, raw_files, read_or_none
from diffsweep.sweep.files import atomic_folder, read_json, write_json
from diffsweep.sweep.variants import artifact_name

STATES, NOTES, ARCHIVE = "states", "state.json", "records.tar.gz"


class NoState(ValueError):
    """There is no such state; the message is one line that says what was looked for, and how to mend it."""


def keep(results: Path, plan: Mapping, locks: Mapping[str, str]) -> dict:
    """Keep the results in the folder `results` as a state, if they are not kept already; returns its notes.

    A state is whole or not there: it grows under another name, and what a killed process left of one is removed.
    """
    notes = describe(results, plan, locks, time.time())
    digest = notes["state"].rsplit("-", 1)[1]
    for leftover in (results / STATES).glob(".*.partial"):
        shutil.rmtree(leftover)
    for path in kept(results):
        if path.name.endswith(f"-{digest}"):
            return read_json(path / NOTES)
    with atomic_folder(results / STATES / notes["state"]) as folder:
        for source in _files_of(results, plan, notes):
            _link(source, folder / source.relative_to(results.parent))
        write_json(folder / NOTES, notes)
    return notes


def _files_of(results: Path, plan: Mapping, notes: Mapping) -> Iterator[Path]:
    yield from (path for name in ("plan.json", "summary.csv") if (path := results / name).exists())
    for key in keys_of(plan):
        cell = results.joinpath(*key)
        for folder in [cell, *sorted(cell.glob("replicate-*"))]:
            yield from raw_files(folder)
    beside = results.parent
    for model in plan["models"]:
        names = {artifact_name(variant, target) for variant in plan["variants"] for target in plan["targets"]}
        manifests = (beside / "artifacts" / model / name / "manifest.json" for name in sorted({*names, "onnx"}))
        yield from (path for path in manifests if path.exists())
    receipts = (beside / "envs" / f"{name}.txt" for names in notes["environments"].values() for name in names)
    yield from (path for path in receipts if path.exists())


def _link(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError:  # a file system without hard links, or another's file
        shutil.copy2(source, destination)


# --- finding --------------------------------------------------------------------------------------------------------


def kept(results: Path) -> list[Path]:
    """The states that a sweep keeps, the newest first."""
    found = [path for path in (results / STATES).glob("*") if (path / NOTES).is_file() and path.name[0] != "."]
    return sorted(found, key=lambda path: path.name, reverse=True)


def altered(folder: Path) -> list[str]:
    """The cells of the kept state in `folder` whose records are not the ones that were kept: "model/target/variant"."""
    notes = read_json(folder / NOTES)
    results = folder / notes["sweep"]
    found = describe(results, read_json(results / "plan.json"), {}, notes["kept_unix_s"])["cells"]
    parts = ("replicates", "records")
    return [key for key, cell in notes["cells"].items() if any(cell[part] != found[key][part] for part in parts)]


def kept_folder(results: Path, notes: Mapping) -> Path:
    return results / STATES / notes["state"]


def find(reference: str, root: Path) -> Path:
    """The folder that `reference` means: a folder; a sweep; the start of a state's name; an environment's lock.

    `root`: the results folder. An environment ("onnxruntime-ad701f") stands for the newest state that was measured in
    it. Raises NoState.
    """
    for folder in (Path(reference), root / reference):
        if folder.is_dir():
            return folder
    states = [path for results in sorted(root.glob("*")) for path in kept(results)]
    matches = [path for path in states if path.name.startswith(reference)]
    if len(matches) > 1:
        raise NoState(f"{reference!r} may be any of {', '.join(path.name for path in matches)}; give more of its name")
    ran_in = [path for path in states if any(e.startswith(reference) for e in _environments(read_json(path / NOTES)))]
    for path in [*matches, *sorted(ran_in, key=lambda path: path.name, reverse=True)]:
        return path
    raise NoState(f"{reference!r} is no folder, no sweep, no kept state and no environment of one; see compare --list")


def _environments(notes: Mapping) -> list[str]:
    return [name for names in notes["environments"].values() for name in names]


def open_state(folder: Path, scratch: Path) -> State:
    """The state in `folder`: one that is kept, a sweep's results as they are now, or published results.

    `scratch`: where published records are unpacked. Raises NoState when it is none of these.
    """
    try:
        if (folder / ARCHIVE).is_file():
            return _open_published(folder, scratch)
        if (folder / "plan.json").is_file():
            plan = read_json(folder / "plan.json")
            return State(describe(folder, plan, current_locks(), time.time()), plan, folder)
        notes = read_json(folder / NOTES)
        results = folder / notes["sweep"]
        return State(notes, read_json(results / "plan.json"), results)
    except FileNotFoundError as error:
        raise NoState(f"{folder}: {Path(error.filename).name} is missing; give a sweep's folder or a state's") from None
    except (KeyError, ValueError, tarfile.TarError) as error:
        raise NoState(f"{folder}: not a state that can be read: {type(error).__name__}: {error}") from None


def _open_published(folder: Path, scratch: Path) -> State:
    plan = read_json(folder / "plan.json")
    target = scratch / folder.name
    with tarfile.open(folder / ARCHIVE) as tar:
        tar.extractall(target, filter="data")
    results = target / "results" / plan["sweep"]
    described = describe(results, plan, {}, time.time())
    # What the records do not say (the scoring environment), the published notes may.
    notes = read_or_none(folder / NOTES) or {}
    return State(
        {**described, **{k: notes[k] for k in ("environments", "state", "kept_unix_s") if k in notes}}, plan, results
    )


def before_update(notes: Mapping, results: Path) -> Path | None:
    """The newest kept state that another environment, machine or revision tells apart, with results made anew since."""
    return next((path for path in kept(results) if is_update(read_json(path / NOTES), notes)), None)
