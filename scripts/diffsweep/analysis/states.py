"""States of a sweep: its results as they were each time that a sweep ended, kept so that they can be compared later.

What identifies a state, and whether an update lies between two of them. analysis/keeping.py keeps and finds them.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from diffsweep.sweep.environments import EnvironmentFailed, lock_digest
from diffsweep.sweep.files import read_json
from diffsweep.sweep.plan import replicates_of

RAW = {".jsonl", ".json", ".parquet", ".npy"}
SCORES = {"images.json", "quality.json", "scores.parquet", "features.npy"}
# Environments that no server runs in, so that no record names them.
UNRECORDED = ("export", "scoring")

Key = tuple[str, str, str]  # model, target, variant


@dataclass(frozen=True)
class State:
    """A state that can be read. notes: see `describe`; results: its sweep's folder, beside artifacts/ and envs/."""

    notes: Mapping[str, Any]
    plan: Mapping[str, Any]
    results: Path

    @cached_property
    def variants(self) -> dict[str, Mapping[str, Any]]:
        return {variant["name"]: variant for variant in self.plan["variants"]}

    @cached_property
    def keys(self) -> dict[Key, None]:
        """All cells of the plan, in its order."""
        return dict.fromkeys(keys_of(self.plan))

    def facts(self, key: Key) -> Mapping[str, Any]:
        """What the notes say of a cell."""
        return self.notes["cells"]["/".join(key)]

    def folder(self, key: Key) -> Path:
        return self.results.joinpath(*key)

    def receipt(self, environment: str) -> dict[str, str] | None:
        """Package -> version in an environment ("torch-d074381f73f5"); None where its receipt is not at hand."""
        try:
            text = (self.results.parent / "envs" / f"{environment}.txt").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return dict(line.split("==", 1) for line in text.splitlines() if "==" in line)


def keys_of(plan: Mapping) -> list[Key]:
    return [(m, t, v["name"]) for m in plan["models"] for t in plan["targets"] for v in plan["variants"]]


# --- what identifies a state ----------------------------------------------------------------------------------------


def current_locks() -> dict[str, str]:
    """The environments that no record names, by their locks as they are now; the rerun rules keep that they were used.

    {"scoring": "scoring-4f23573218bc", ...}
    """
    found = {}
    for name in UNRECORDED:
        with suppress(EnvironmentFailed):
            found[name] = f"{name}-{lock_digest(name)}"
    return found


def describe(results: Path, plan: Mapping, locks: Mapping[str, str], kept_unix_s: float) -> dict:
    """What identifies the results in `results`: the state.json of a state.

    cells: per model/target/variant the digests of its replicates, of its scores and of all its records, the
    environments it and its baseline ran in, machine, git revision; environments: name -> lock digests. The state's name
    holds a digest over the results, so the same results are the same state, whenever and wherever they are looked at.
    """
    cells = {"/".join(key): _describe_cell(results.joinpath(*key), plan) for key in keys_of(plan)}
    contents = {key: [cell["replicates"], cell["records"]] for key, cell in cells.items()}
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:8]
    names = {cell[side] for cell in cells.values() for side in ("environment", "baseline_environment")} - {None}
    environments: dict[str, list[str]] = {}
    for name in sorted({*names, *locks.values()}):
        environments.setdefault(name.rsplit("-", 1)[0], []).append(name)
    return {
        "schema": 1,
        "state": f"{datetime.fromtimestamp(kept_unix_s, UTC):%Y%m%dT%H%M%S.%f}"[:-3] + f"Z-{digest}",
        "sweep": plan["sweep"],
        "kept_unix_s": kept_unix_s,
        "environments": environments,
        "cells": cells,
    }


def _describe_cell(folder: Path, plan: Mapping) -> dict:
    numbers = replicates_of(plan, folder.name)
    notes = [document for n in numbers if (document := read_or_none(folder / f"replicate-{n}" / "replicate.json"))]
    servers = [document.get("servers") or {} for document in notes]
    hosts = [document.get("host") or {} for document in notes]
    return {
        "replicates": {str(n): _digest(folder / f"replicate-{n}") for n in numbers},
        "quality": _digest(folder, SCORES),
        "records": _digest(folder),
        "environment": _the_one(s.get("variant", {}).get("environment") for s in servers),
        "baseline_environment": _the_one(_baseline_of(s).get("environment") for s in servers),
        "machine": _the_one(machine_of(host) for host in hosts),
        "revision": _the_one(_revision(host) for host in hosts),
        "run": _the_one(document.get("run") for document in notes),
    }


def _baseline_of(servers: Mapping) -> Mapping:
    """The baseline's server; where both sides share one, it is the variant's."""
    return servers.get("baseline") or servers.get("variant") or {}


def read_or_none(path: Path) -> dict | None:
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):  # the cell's status tells
        return None


def _the_one(values: Iterator[str | None]) -> str | None:
    """The value that all replicates have; several are joined, so that they equal no single one."""
    return ", ".join(sorted({value for value in values if value})) or None


def _revision(host: Mapping) -> str | None:
    revision = host.get("git_revision")
    return revision and revision[:12] + (" with changes" if host.get("git_dirty") else "")


def machine_of(host: Mapping) -> str | None:
    """The machine in words, as far as it decides a measurement: processor, cores, GPUs with their driver."""
    cores = host.get("cores_usable")
    gpus = [f"{gpu.get('name')} (driver {gpu.get('driver')})" for gpu in host.get("gpus") or ()]
    return ", ".join(filter(None, [host.get("cpu"), cores and f"{cores} cores", *gpus])) or None


def raw_files(folder: Path) -> list[Path]:
    """The records and scores right in `folder`, sorted."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in RAW and path.is_file())


def _digest(folder: Path, names: Collection[str] = ()) -> str | None:
    """16 hex digits over the records in `folder`, or those with the given names; None when there are none."""
    digest, files = hashlib.sha256(), [path for path in raw_files(folder) if not names or path.name in names]
    for path in files:
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16] if files else None


# --- what lies between two states -----------------------------------------------------------------------------------


def is_update(earlier: Mapping, notes: Mapping) -> bool:
    """Do environment, machine or revision tell two states apart, and was any cell measured or scored anew?"""
    return _conditions(earlier) != _conditions(notes) and _renewed(earlier, notes)


def _conditions(notes: Mapping) -> Sequence[object]:
    cells = notes["cells"].values()
    return [notes["environments"], *({cell[what] for cell in cells} for what in ("machine", "revision"))]


def _renewed(earlier: Mapping, notes: Mapping) -> bool:
    """Was any cell measured or scored again? (Replicates that were only added do not count.)"""
    both = earlier["cells"].keys() & notes["cells"].keys()
    pairs = [(earlier["cells"][key], notes["cells"][key]) for key in both]
    return any(a["quality"] != b["quality"] or measured_anew(a, b) for a, b in pairs)


def shared_replicates(a: Mapping, b: Mapping) -> set[str]:
    """The digests of replicates that two states of a cell have in common."""
    return (set(a["replicates"].values()) & set(b["replicates"].values())) - {None}


def measured_anew(a: Mapping, b: Mapping) -> bool:
    """Do two states of a cell hold different measurements, none of them in both?"""
    return a["replicates"] != b["replicates"] and not shared_replicates(a, b)
