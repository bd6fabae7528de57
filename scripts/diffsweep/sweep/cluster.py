"""Plan -> what each job asks of a cluster, and which targets this machine may stand for.

A target with a `slurm` section is a Slurm partition; one without is the machine that runs Snakemake. Everything here
but `leftover_jobs` and `end_jobs`, which ask Slurm, is pure.
"""

import math
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffsweep.sweep.specs import artifact_of

# Snakemake names a resource, the executor plugin turns it into an option of sbatch.
RESOURCES = ("slurm_partition", "constraint", "gpu", "gpu_model", "slurm_extra", "mem_mb", "runtime")

# Beside its own time limit a job starts Snakemake twice and may load a large environment from a busy file system. The
# program's own limit comes first by this much, so that it can say that it was exceeded.
MARGIN_MIN = 10

# The names of our Slurm jobs begin so (workflow/profiles/slurm).
JOB_PREFIX = "diffsweep"

PROFILE = "--workflow-profile workflow/profiles/slurm"


@dataclass(frozen=True)
class Stage:
    """What its jobs need. limit: the time limit of what they do, and times: how often they may do it; on_device: the
    target's GPU; alone: the node to itself."""

    limit: str
    times: int = 1
    on_device: bool = True
    alone: bool = False


STAGES = {
    "export": Stage("convert_s", on_device=False),
    "convert": Stage("convert_s"),
    "benchmark": Stage("replicate_s", alone=True),
    "arrivals": Stage("arrivals_s", alone=True),
    "calibrate": Stage("replicate_s", times=8, alone=True),  # goes on where it was when that is too short
    "images": Stage("images_s"),
    "score": Stage("score_s", on_device=False),
    "trace": Stage("trace_s", times=2),  # by the engine's profiler, and under nsys
}


def resources(plan: Mapping, stage: str, target: str) -> dict[str, int | str | None]:
    """What a job of `stage` for `target` asks for, by Snakemake's names; None, 0 and "" stand for nothing asked.

    Units: mem_mb in MB, runtime in minutes.
    """
    where, needs = plan["targets"][target], STAGES[stage]
    asked = where.get("slurm", {})
    gpus = asked.get("gpus", 1) if where["device"] == "cuda" and needs.on_device else None
    return {
        "slurm_partition": asked.get("partition"),
        "constraint": asked.get("constraint"),
        "gpu": gpus,
        "gpu_model": asked.get("gpu_model") if gpus else None,
        "slurm_extra": "--exclusive" if needs.alone else "",
        "mem_mb": asked.get("mem_mb", 0),
        "runtime": math.ceil(plan["limits"][needs.limit] * needs.times / 60) + MARGIN_MIN,
    }


def home_of(plan: Mapping, artifact: str) -> str:
    """The target that makes an artifact: the first that runs it. Compiled code is run, and so made, on one only."""
    return next(
        target
        for target in plan["targets"]
        for variant in plan["variants"]
        if artifact_of(plan, variant, target)["name"] == artifact
    )


def misplaced(target: Mapping, partition_here: str | None, submits_to_slurm: bool) -> str | None:
    """Why jobs of `target` must not run as this Snakemake would run them, in one line; None when they may.

    partition_here: the Slurm partition that this process is a job of, or None.
    """
    partition = target.get("slurm", {}).get("partition")
    if submits_to_slurm and partition is None:
        return "names no partition, so it means this machine; add `slurm: {partition: ...}` to it, or leave it out"
    if not submits_to_slurm and partition not in (None, partition_here):
        return f"is the Slurm partition {partition!r}, and this machine is not; add {PROFILE} to the command"
    return None


# --- jobs of a Snakemake that was killed ----------------------------------------------------------------------------


def leftover_jobs(folder: Path) -> list[str]:
    """The ids of this user's jobs that a sweep in `folder` submitted and that have not ended."""
    return parse_jobs(_ask("squeue", "--me", "--noheader", "--format=%i|%j|%Z"), folder)


def parse_jobs(listing: str, folder: Path) -> list[str]:
    """The ids in squeue's lines `id|name|working directory` of jobs that are named as ours and run in `folder`."""
    rows = [line.split("|", 2) for line in listing.splitlines() if line.count("|") >= 2]
    return [job for job, name, place in rows if name.startswith(f"{JOB_PREFIX}_") and Path(place) == folder]


def end_jobs(folder: Path, jobs: list[str], timeout_s: float = 180) -> bool:
    """Cancel `jobs` and wait until they have ended, so that none of them writes any more; whether they have."""
    _ask("scancel", *jobs)
    deadline = time.monotonic() + timeout_s
    while leftover_jobs(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def _ask(*command: str) -> str:
    """Raises OSError with Slurm's words when it does not answer."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout
