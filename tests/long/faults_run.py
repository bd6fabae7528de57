"""Kill parts of a running sweep at random moments, and see that the same command always completes it.

    .venv/bin/python tests/long/faults_run.py --faults 50 --out results/published/faults.json

Each fault: some results are taken away, the sweep is started, and at a random moment one process is killed with signal
9: Snakemake itself, a server, a job, or the build of an environment. Then: no process and no lock is left over, the
same command ends well, every cell is measured, nothing is half-written, and scripts/verify finds nothing wrong. Seeded:
--seed 0 plans the same faults each time.

--out is written after every fault, and the same command goes on after the last one that stands there, by the same code.
A fault that is not got over ends the run; its number and its folder are printed, and the folder stays as it was.
"""

import argparse
import csv
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "benchmarks"), str(TESTS.parent / "scripts")]

from figures import circumstances  # noqa: E402

from conftest import copy_project, processes_in  # noqa: E402
from diffsweep.sweep.files import partial_paths, read_json, write_json  # noqa: E402

# The smallest sweep that goes through every stage, with two engines, and variants that share servers and a pipeline.
SWEEP = {
    "sweep": "faults",
    "models": {"reference": {"path": "resources/reference-model", "width": 64, "height": 64}},
    "targets": ["local"],
    "baseline": "fp32",
    "variants": {
        "fp32": {"engine": "torch", "precision": "fp32", "compile": False}
        | {"scheduler": "ddim", "steps": 2, "guidance": 3.0},
        "ddim-3": {"parent": "fp32", "steps": 3},
        "bf16": {"parent": "fp32", "precision": "bf16"},
        "bf16-3": {"parent": "bf16", "steps": 3},
        "onnxruntime": {"parent": "fp32", "engine": "onnxruntime"},
    },
    "protocol": {"distinct_prompts": 2, "warmup": 1, "replicates": 1, "requests": 2, "block": 1, "levels": [1]}
    | {"requests_per_level": 2},
    "quality": {"images": 4, "bootstrap": 100},
}
CELLS = "results/faults/reference/local/*"
SUMMARY = "results/faults/summary.csv"
IMAGES, SCORES = f"{CELLS}/images.json", f"{CELLS}/quality.json"
REPLICATES = f"{CELLS}/replicate-1/replicate.json"
# What is taken away, so that the sweep has something to do, and about how long it then takes. Snakemake does not miss
# an intermediate file while what was made from it is there, so that goes, too.
ONNX = ("results/artifacts/reference/onnx/manifest.json", "results/artifacts/reference/onnxruntime-fp32/manifest.json")
OF_ONNX = tuple(path.replace("/*/", "/onnxruntime/") for path in (REPLICATES, IMAGES, SCORES))
STAGES = {
    "export": ((*ONNX, *OF_ONNX, SUMMARY), 60.0),
    "convert": (("results/artifacts/reference/torch-fp32/manifest.json", REPLICATES, IMAGES, SCORES, SUMMARY), 60.0),
    "measure": ((REPLICATES, SUMMARY), 30.0),
    "images": ((IMAGES, SCORES, SUMMARY), 30.0),
    "score": ((SCORES, SUMMARY), 20.0),
    "report": ((SUMMARY,), 10.0),
}
KINDS = {
    "snakemake": tuple(STAGES),
    "job": tuple(STAGES),
    "server": ("export", "convert", "measure"),
    "environment": ("convert", "measure", "score"),
}
# The environment whose build is killed in a stage.
ENVIRONMENTS = {"convert": "torch", "measure": "onnxruntime", "score": "scoring"}
# How long the first server and the build of an environment live, which are there for a part of a sweep only.
LIVES_S = {"server": 15.0, "environment": 1.5}
# The job that is killed in each stage, and about how long the first of them lives.
JOBS = {
    "export": ("export_onnx.py", 15.0),
    "convert": ("convert.py", 15.0),
    "measure": ("benchmark.py", 15.0),
    "images": ("generate_images.py", 10.0),
    "score": ("score.py", 10.0),
    "report": ("aggregate.py", 2.0),
}
LEFT_OVER_S = 20.0
LIMIT_S = 900.0  # beside other work, PyTorch on all cores becomes many times slower


@dataclass(frozen=True)
class Fault:
    """What was killed, when (since the sweep's start), and how the same command got over it."""

    number: int
    kind: str
    stage: str
    moment_s: float
    victim: str
    exit_code: int
    recovery_s: float


class Broken(Exception):
    """A fault that was not got over; the message says what was found."""


def prepare(folder: Path) -> None:
    """A copy of the project with the smallest sweep, whose environments can be taken away one by one."""
    copy_project(folder)
    shared = (folder / ".envs").resolve()
    (folder / ".envs").unlink()
    (folder / ".envs").mkdir()
    for path in shared.iterdir():
        if path.is_dir():
            (folder / ".envs" / path.name).symlink_to(path)
    (folder / "config" / "faults.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False))


def command(*targets: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "all", *targets, "--configfile", "config/faults.yaml"]


def start(folder: Path) -> subprocess.Popen:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DIFFSWEEP_")}
    with open(folder / "sweep.out", "w") as out:
        return subprocess.Popen(
            command(), cwd=folder, env=environ, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


def end_of(process: subprocess.Popen) -> int:
    """The exit code of a sweep, which does not outlive this wait. Raises Broken when it does not end."""
    try:
        return process.wait(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise Broken(f"the sweep did not end within {LIMIT_S:g} s") from None
    finally:  # after Ctrl-C, too
        process.kill()
        process.wait()


def complete(folder: Path) -> float:
    """The seconds that the same command took to end well. Raises Broken."""
    began_s = time.monotonic()
    code = end_of(start(folder))
    if code:
        raise Broken(f"the same command ended with code {code}:\n{(folder / 'sweep.out').read_text()[-4000:]}")
    return time.monotonic() - began_s


def victims(kind: str, stage: str, folder: Path, main: int) -> list[tuple[int, str]]:
    if kind == "snakemake":
        return [(main, "snakemake")]
    if kind == "environment" and any(path.joinpath(".complete").exists() for path in environments(folder, stage)):
        return []  # built
    wanted = {"server": ("serve.py",), "job": JOBS[stage][:1], "environment": ("uv venv", "uv pip", "in_env")}[kind]
    found = [(pid, line) for pid, line in processes_in(folder) if pid != main and any(w in line for w in wanted)]
    # A server's and a build's command line stand in that of the shell and the job that started them, too.
    own = [(pid, line) for pid, line in found if Path(line.split(" ")[0]).name not in ("bash", "sh")]
    return [(pid, next(w for w in wanted if w in line)) for pid, line in own]


def environments(folder: Path, stage: str) -> list[Path]:
    """What there is of the environment whose build is killed in `stage`."""
    return [path for path in (folder / ".envs").glob(f"{ENVIRONMENTS[stage]}-*") if path.is_dir()]


def strike(folder: Path, kind: str, stage: str, moment_s: float, rng: random.Random) -> tuple[float, str, int]:
    """Start the sweep, wait for the first process of a kind, and `moment_s` later kill one.

    Returns the moment since the sweep's start, what was killed, and how Snakemake ended; "" when the sweep ended first.
    """
    for path in (path for pattern in STAGES[stage][0] for path in folder.glob(pattern)):
        path.unlink()
    if kind == "environment":
        for path in environments(folder, stage):
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
    began_s = time.monotonic()
    process = start(folder)
    while process.poll() is None and not victims(kind, stage, folder, process.pid):
        time.sleep(0.05)
    time.sleep(moment_s)
    while process.poll() is None:
        found = victims(kind, stage, folder, process.pid)
        if found:
            pid, name = rng.choice(found)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return time.monotonic() - began_s, name, end_of(process)
        time.sleep(0.05)
    return time.monotonic() - began_s, "", process.wait()


def check_left_over(folder: Path) -> None:
    deadline = time.monotonic() + LEFT_OVER_S
    while left := list(processes_in(folder)):
        if time.monotonic() > deadline:
            raise Broken(f"processes were left over: {left}")
        time.sleep(0.2)
    for path in (folder / ".snakemake/diffsweep/lock", *(folder / ".envs").glob("*.flock")):
        with open(path, "a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Broken(f"{path} is still locked") from None


def check_results(folder: Path) -> None:
    verify = [sys.executable, "scripts/verify", "results/faults"]
    done = subprocess.run(verify, cwd=folder, text=True, capture_output=True)
    if done.returncode:
        raise Broken(f"scripts/verify:\n{done.stdout}{done.stderr}")
    with open(folder / SUMMARY, newline="") as handle:
        failed = {row["variant"]: row["reason"] for row in csv.DictReader(handle) if row["status"] != "ok"}
    if failed:
        raise Broken(f"cells that the same command does not do again: {failed}")
    if halves := partial_paths(folder / "results"):
        raise Broken(f"half-written: {halves}")


def plan_fault(number: int, seed: int) -> tuple[str, str, float, random.Random]:
    rng = random.Random(f"{seed} {number}")
    kind = tuple(KINDS)[number % len(KINDS)]
    stage = rng.choice(KINDS[kind])
    lives_s = JOBS[stage][1] if kind == "job" else LIVES_S.get(kind, STAGES[stage][1])
    return kind, stage, rng.uniform(0.0, lives_s), rng


def run_fault(folder: Path, number: int, seed: int) -> Fault:
    """One fault and its recovery. Raises Broken."""
    kind, stage, moment_s, rng = plan_fault(number, seed)
    for _ in range(4):  # a moment after the end of what is to be killed is none; take an earlier one
        struck_s, victim, code = strike(folder, kind, stage, moment_s, rng)
        if victim:
            break
        moment_s = rng.uniform(0.2, 0.7) * min(moment_s, struck_s)
    else:
        raise Broken(f"no {kind} was there to be killed in stage {stage}")
    check_left_over(folder)
    recovery_s = complete(folder)
    check_left_over(folder)
    check_results(folder)
    return Fault(number, kind, stage, round(struck_s, 2), victim, code, round(recovery_s, 1))


def run(folder: Path, numbers: Iterable[int], seed: int = 0, say=print) -> Iterator[Fault]:
    """Prepare `folder`, let the sweep end once, then strike. Raises Broken with the fault's number."""
    prepare(folder)
    say(f"the whole sweep, undisturbed: {complete(folder):.1f} s")
    check_results(folder)
    for number in numbers:
        try:
            fault = run_fault(folder, number, seed)
        except Broken as problem:
            planned = ", ".join(plan_fault(number, seed)[:2])
            raise Broken(f"fault {number} of seed {seed} ({planned}), in {folder}: {problem}") from None
        say(" ".join(f"{key}={value}" for key, value in asdict(fault).items()))
        yield fault


def begun(out: Path | None, seed: int) -> tuple[list[dict], float]:
    """The faults that an earlier run of the same seed has left in its document, and the seconds that it took."""
    if out is None or not out.exists():
        return [], 0.0
    document = read_json(out)
    if (document["seed"], document["git_revision"]) != (seed, circumstances()["git_revision"]):
        sys.exit(f"faults_run: {out} holds faults of another seed or by other code; name another file")
    return document["faults"], document["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of them only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the faults and their recoveries go, as JSON")
    options = parser.parse_args()
    faults, earlier_s = begun(options.out, options.seed)
    began_s = time.monotonic()
    planned = [n for n in range(options.faults) if plan_fault(n, options.seed)[0] in options.kinds]
    numbers = planned[len(faults) :]
    folder = Path(tempfile.mkdtemp(prefix="diffsweep-faults-")).resolve()
    try:
        for fault in run(folder, numbers, options.seed, lambda text: print(text, flush=True)):
            faults.append(asdict(fault))
            if options.out:
                known = {"schema": 3, "seed": options.seed, "planned": len(planned), "got_over": len(faults)}
                seconds = round(earlier_s + time.monotonic() - began_s, 1)
                write_json(options.out, {**known, **circumstances(), "seconds": seconds, "faults": faults})
    except Broken as problem:
        sys.exit(f"faults_run: {problem}")
    shutil.rmtree(folder)
    kinds = {kind: sum(fault["kind"] == kind for fault in faults) for kind in KINDS}
    print(f"{len(faults)} faults, all got over: {json.dumps(kinds)}")


if __name__ == "__main__":
    main()
