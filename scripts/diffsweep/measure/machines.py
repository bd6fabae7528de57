"""Which machine a measurement was made on, as far as its figures depend on it, and how two differ, in words."""

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from diffsweep.measure import gpu
from diffsweep.measure.host import cpu_info

# What counts, by the name that a replicate's notes give it under "host", and the word for it.
PARTS = {"cpu": "CPU", "gpu": "GPU", "driver": "GPU driver", "cores_usable": "usable cores"}


@cache
def _this_machine() -> Mapping:
    host = {"cpu": cpu_info(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))["model"]}
    return {**host, "cores_usable": len(os.sched_getaffinity(0)), "gpus": gpu.describe(gpu.open_device())}


def this_machine(target: Mapping) -> dict | None:
    """The machine that this process runs on, as it matters for a target; None for a target elsewhere (a cluster)."""
    return None if target.get("slurm") else identity(_this_machine(), target)


def identity(host: Mapping, target: Mapping) -> dict:
    """What decides figures on a target, of a host as measure.host.describe gives it. Cores: where all are used."""
    found = {"cpu": host.get("cpu")}
    if target.get("device") == "cuda" and "gpus" in host:
        found |= {"gpu": _joined(host["gpus"], "name"), "driver": _joined(host["gpus"], "driver")}
    return found | ({"cores_usable": host.get("cores_usable")} if target.get("threads") == "all" else {})


def latest(replicates: Iterable[Mapping | None], target: Mapping) -> dict | None:
    """The machine that a target elsewhere is now, as far as that is known: where its last replicate was measured.

    replicates: the notes of all of the target's; None for one that is not there. None where nothing is known.
    """
    known = [notes for notes in replicates if notes and "host" in notes and "ended_unix_s" in notes]
    newest = max(known, key=lambda notes: notes["ended_unix_s"], default=None)
    return newest and identity(newest["host"], target)


def _joined(gpus: list[Mapping] | None, key: str) -> str:
    return ", ".join(sorted({str(device.get(key)) for device in gpus or ()})) or "none"


def difference(recorded: Mapping, here: Mapping) -> str | None:
    """How two identities differ ("CPU was A, is B"); None when they do not. What one of them lacks is not compared."""
    told = [
        f"{word} was {recorded[key]}, is {here[key]}"
        for key, word in PARTS.items()
        if recorded.get(key) is not None and here.get(key) is not None and recorded[key] != here[key]
    ]
    return "; ".join(told) or None
