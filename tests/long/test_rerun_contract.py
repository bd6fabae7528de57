"""The rest of the rerun contract: every environment's lock, every way to copy a sweep, and what needs real runs."""

import csv
import hashlib
import html
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from conftest import copy_project, processes_in, servers_in, snakemake, wait_for

CELLS = "results/smoke/reference/local"
EVERYBODY = ("fp32", "ddim-4", "onnxruntime")
AGGREGATES = {
    "resolve the plan",
    "aggregate the sweep",
    "keep the results, compare them with those before the last update",
    "plot the sweep",
    "report on the sweep",
}


CTRL_C_S = 20  # a limit, far above what it takes


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> tuple[Path, int | None, list]:
    """A project whose smoke sweep got Ctrl-C during a measurement; its exit code, None when it had not ended in time,
    and the processes that were left over then."""
    folder = copy_project(tmp_path_factory.mktemp("finished"))
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--configfile", "config/smoke.yaml"]
    with open(folder / "interrupted.out", "w") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # what a shell starts by & ignores it
        )
    try:
        wait_for(lambda: requests_answered(folder) and servers_in(folder), timeout_s=1200)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does it
        code = process.wait(timeout=CTRL_C_S)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        left = processes_in(folder)
        process.kill()
        process.wait()
    return folder, code, left


def requests_answered(folder: Path) -> bool:
    return any(path.stat().st_size for path in (folder / CELLS).glob("*/replicate-*/latency.jsonl.partial"))


@pytest.fixture(scope="module")
def finished(interrupted) -> Path:
    """That project after the same command was given again and ended well."""
    folder, *_ = interrupted
    sweep(folder)
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of it for a test that changes files."""
    return shutil.copytree(finished, tmp_path / "copy", symlinks=True)


def config_of(folder: Path, **changes) -> str:
    """The smoke config with some top-level keys changed (a mapping is merged), as a file's name."""
    config = yaml.safe_load((folder / "config/smoke.yaml").read_text())
    for key, value in changes.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    (folder / "config/changed.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return "config/changed.yaml"


def sweep(folder: Path, *arguments: str, config: str = "config/smoke.yaml") -> str:
    done = snakemake(folder, *arguments, "--configfile", config)
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def jobs(folder: Path, *arguments: str, config: str = "config/smoke.yaml") -> set[str]:
    return set(re.findall(r"^Job \d+: (.+)$", sweep(folder, "--dry-run", *arguments, config=config), re.MULTILINE))


def rows(folder: Path) -> dict[str, dict]:
    with open(folder / "results/smoke/summary.csv", newline="") as handle:
        return {row["variant"]: row for row in csv.DictReader(handle)}


def run_of(path: Path) -> str:
    return json.loads(path.read_text())["run"]


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_sweep_within_seconds_and_leaves_no_process(interrupted):
    folder, code, left = interrupted
    assert code not in (None, 0), (folder / "interrupted.out").read_text()[-3000:]
    assert left == []


def test_the_same_command_completes_what_ctrl_c_ended(finished):
    assert {row["status"] for row in rows(finished).values()} == {"ok"}
    assert set(rows(finished)) == set(EVERYBODY)


# --- locks, code ----------------------------------------------------------------------------------------------------


def measured(*variants: str) -> set[str]:
    return {f"measure {name} on local, replicate {number}" for name in variants for number in (1, 2)}


def made(stage: str, *variants: str) -> set[str]:
    """stage: "images of" or "score"."""
    return {f"{stage} {name} on local" for name in variants}


OF_ONNXRUNTIME = {
    "convert reference to onnxruntime-fp32",
    *measured("onnxruntime"),
    *made("images of", "onnxruntime"),
    *made("score", "onnxruntime"),
}
USERS = {
    "torch": {  # the baseline's: all are paired with it
        "convert reference to torch-fp32",
        *measured(*EVERYBODY),
        *made("images of", "fp32", "ddim-4"),
        *made("score", *EVERYBODY),
    },
    "onnxruntime": OF_ONNXRUNTIME,
    "export": {"export reference to ONNX", *OF_ONNXRUNTIME},
    "scoring": made("score", *EVERYBODY),
    "workflow": set(),  # tables and pictures
}
TABLES = AGGREGATES - {"resolve the plan"}


def bump(folder: Path, environment: str) -> tuple[str, str]:
    """Give the first package of a lock another version; what stood there, and what stands there now."""
    lock = folder / f"envs/{environment}.lock"
    text = lock.read_text()
    package = re.search(r"^([a-z0-9-]+)==\S+", text, re.MULTILINE)
    lock.write_text(text.replace(package[0], f"{package[1]}==0.0.1", 1))
    return package[0], f"{package[1]}==0.0.1"


@pytest.mark.parametrize(("environment", "users"), USERS.items(), ids=USERS)
def test_a_lock_reruns_what_uses_it(copy, environment, users):
    lock = copy / f"envs/{environment}.lock"
    text = lock.read_text()
    bump(copy, environment)
    assert jobs(copy) == {f"environment {environment}"} | users | TABLES
    lock.write_text(text)
    assert jobs(copy) == set()


def test_locks_that_no_variant_uses_rerun_nothing(copy):
    others = {path.stem for path in (copy / "envs").glob("*.lock")} - USERS.keys()
    assert others >= {"openvino", "bundle", "cloudwatch", "locust"}
    for environment in others:
        bump(copy, environment)
    assert jobs(copy) == set()


def test_the_lock_of_openvino_reruns_its_variants(copy):
    variants = yaml.safe_load((copy / "config/smoke.yaml").read_text())["variants"]
    config = config_of(
        copy, variants={**variants, "ov": {"parent": "fp32", "engine": "openvino"}}, protocol={"replicates": 1}
    )
    replicate = f"{CELLS}/ov/replicate-1/replicate.json"
    sweep(copy, replicate, config=config)
    assert jobs(copy, replicate, config=config) == set()
    bump(copy, "openvino")
    again = {"environment openvino", "convert reference to openvino-fp32", "measure ov on local, replicate 1"}
    assert jobs(copy, replicate, config=config) == again
    assert jobs(copy, config=config) - AGGREGATES == again | made("images of", "ov") | made("score", "ov")


CHANGED = {
    "a variant is added": ({"ddim-6": {"parent": "fp32", "steps": 6}}, set()),
    "another precision": (
        {"onnxruntime": {"parent": "fp32", "engine": "onnxruntime", "precision": "int8", "compound": True}},
        {"convert reference to onnxruntime-int8"},
    ),
}


@pytest.mark.parametrize(("changes", "conversion"), CHANGED.values(), ids=CHANGED)
def test_a_variant_that_is_new_or_needs_another_artifact_runs_alone(copy, changes, conversion):
    [name] = changes
    variants = yaml.safe_load((copy / "config/smoke.yaml").read_text())["variants"]
    found = jobs(copy, config=config_of(copy, variants={**variants, **changes}))
    assert found - AGGREGATES == conversion | measured(name) | made("images of", name) | made("score", name)


def explained(folder: Path, *arguments: str) -> list[list[str]]:
    """What scripts/explain.py says, line by line, in columns."""
    command = [sys.executable, "scripts/explain.py", "--configfile", "config/smoke.yaml", *arguments]
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return [re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()]


def test_explain_names_the_package_that_moved_and_how_a_cell_failed(copy):
    old, new = (requirement.split("==") for requirement in bump(copy, "onnxruntime"))
    lock = f"envs/onnxruntime.lock: {old[0]} {old[1]} -> {new[1]}"
    notes = copy / CELLS / "ddim-4/replicate-1/replicate.json"
    document = json.loads(notes.read_text())
    reason = "was killed (signal 9)"
    notes.write_text(json.dumps({**document, "outcome": {**document["outcome"], "status": "failed", "reason": reason}}))
    lines = explained(copy)
    because = {tuple(line[:2]): line[4:] for line in lines}
    assert because["convert", "reference/onnxruntime-fp32"] == [lock]
    assert because["measure", "reference/local/onnxruntime"][0] == lock
    assert ("measure", "reference/local/ddim-4") not in because
    kept = "failed, and kept as they are (--config failed=retry runs them again): reference/local/ddim-4: "
    assert lines[-1] == [kept + reason]
    again = {tuple(line[:2]): line[2:] for line in explained(copy, "--config", "failed=retry")}
    jobs_of_cell, _, *told = again["measure", "reference/local/ddim-4"]
    assert (jobs_of_cell, told) == ("1", [f"asked for again: {reason}"])


def test_a_plot_reruns_the_pictures_and_a_removed_variant_the_tables(copy):
    plot = copy / "scripts/diffsweep/show/throughput_plot.py"
    plot.write_text(plot.read_text() + "\nADDED = 1\n")
    assert jobs(copy) == {"plot the sweep", "report on the sweep"}
    variants = yaml.safe_load((copy / "config/smoke.yaml").read_text())["variants"]
    del variants["onnxruntime"]
    assert jobs(copy, config=config_of_variants(copy, variants)) == AGGREGATES


def config_of_variants(folder: Path, variants: dict) -> str:
    config = yaml.safe_load((folder / "config/smoke.yaml").read_text())
    (folder / "config/changed.yaml").write_text(yaml.safe_dump({**config, "variants": variants}, sort_keys=False))
    return "config/changed.yaml"


# --- copies ---------------------------------------------------------------------------------------------------------


def by_cp_r(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)


def by_rsync_a(source: Path, target: Path) -> None:
    if not shutil.which("rsync"):
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        subprocess.run(["apt-get", "-qq", "install", "--no-install-recommends", "rsync"], check=True)
    subprocess.run(["rsync", "-a", f"{source}/", target], check=True)


def by_tar(source: Path, target: Path) -> None:
    archive = target.with_suffix(".tar.gz")
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(source, target.name)
    with tarfile.open(archive) as tar:
        tar.extractall(target.parent, filter="fully_trusted")


def by_git_clone(source: Path, target: Path) -> None:
    """A fresh clone, into which results and Snakemake's records are copied."""
    repository = target.with_suffix(".git")
    git = ["git", f"--git-dir={repository}", f"--work-tree={source}", "-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=all"]):
        subprocess.run([*git, *command], cwd=source, check=True)
    subprocess.run(["git", "clone", "--quiet", repository, target], check=True)
    assert not (target / "results").exists()
    for name in ("results", ".snakemake"):
        subprocess.run(["cp", "-r", source / name, target / name], check=True)
    (target / ".envs").symlink_to((source / ".envs").resolve())


@pytest.mark.parametrize("environments", [True, False], ids=["with environments", "without environments"])
@pytest.mark.parametrize("way", [by_cp_r, by_rsync_a, by_tar, by_git_clone])
def test_a_copy_finds_nothing_to_do(finished, tmp_path, way: Callable, environments: bool):
    target = tmp_path / "copied"
    way(finished, target)
    if not environments:
        (target / ".envs").unlink()
    assert jobs(target) == set()
    assert jobs(target, config=config_of(target, protocol={"replicates": 3})) - AGGREGATES == {
        f"measure {variant} on local, replicate 3" for variant in EVERYBODY
    }


def test_files_from_the_future_and_out_of_order_rerun_nothing(copy):
    """As a clock leaves them that jumped back and forth by up to 30 hours."""
    rng = random.Random(0)
    for path in sorted(path for path in copy.rglob("*") if path.is_file() and not path.is_symlink()):
        jumped = time.time() + rng.uniform(-30, 30) * 3600
        os.utime(path, (jumped, jumped))
    assert jobs(copy) == set()


# Snakemake on a machine with another CPU, as far as this project asks for it.
ELSEWHERE = """
import sys
sys.path.insert(0, "scripts")
from diffsweep.measure import machines
from snakemake.cli import main
machines._this_machine = lambda: {"cpu": "Z80", "cores_usable": 64, "gpus": []}
main()
"""


def test_a_bundle_on_another_machine_has_its_tables_made_again_and_nothing_else(copy, tmp_path):
    """They mark the cells as stale, which is for whoever reads them there; what was measured stays."""
    sweep(copy, "bundle")
    opened = copy_project(tmp_path / "opened")
    with zipfile.ZipFile(copy / "results/smoke/bundle.zip") as bundle:
        bundle.extractall(opened)
    config = "results/smoke/provenance/config.json"
    assert jobs(opened, config=config) == set()
    notes = sorted(opened.glob(f"{CELLS}/*/replicate-*/replicate.json"))
    runs = [run_of(path) for path in notes]
    command = [sys.executable, "-c", ELSEWHERE, "--cores", "all", "--configfile", config]
    done = subprocess.run(command, cwd=opened, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-4000:]
    assert set(re.findall(r"^Job \d+: (.+)$", done.stdout, re.MULTILINE)) == TABLES
    assert [run_of(path) for path in notes] == runs
    assert {row["status"] for row in rows(opened).values()} == {"stale"}
    assert all(", is Z80" in row["reason"] for row in rows(opened).values())


# --- real runs ------------------------------------------------------------------------------------------------------


def images_of(folder: Path, variant: str) -> dict[str, str]:
    paths = (folder / CELLS / variant / "images").glob("*.png")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize("variant", ["ddim-4", "onnxruntime"])
def test_more_images_keep_those_that_are_there(copy, variant):
    """From 64 to 16 none is made; from 16 to 19 are 3, in the batches of a full run, and all are what that makes."""
    whole = images_of(copy, variant)
    assert (kept_of(copy, variant, images=16), len(images_of(copy, variant))) == (16, 16)
    assert images_of(copy, variant).items() <= whole.items()
    assert kept_of(copy, variant, images=19) == 16
    grown = images_of(copy, variant)
    assert kept_of(copy, variant, images=21) == 16  # the last batch, of 3, is not what a full run makes
    shutil.rmtree(copy / CELLS / variant)
    assert kept_of(copy, variant, images=19) == 0
    assert images_of(copy, variant) == grown and len(grown) == 19


def kept_of(folder: Path, variant: str, images: int) -> int:
    """Make so many images of a variant; how many were there already."""
    target = f"{CELLS}/{variant}/images.json"
    sweep(folder, target, config=config_of(folder, quality={"images": images}))
    document = json.loads((folder / target).read_text())
    assert len(document["images"]) == images
    return document["kept"]


def test_failed_cells_are_tried_again_by_name(copy):
    """Two variants that exceed their time limits do not stop the sweep, which names them with their logs at its end and
    in its report; one of them is tried again with enough time, then nothing is left."""
    steps = {"ddim-5": {"parent": "fp32", "steps": 5}, "ddim-6": {"parent": "fp32", "steps": 6}}
    protocol = {"replicates": 1}
    limits = {"replicate_s": 0.5, "images_s": 0.5}
    ending = sweep(copy, config=config_of(copy, variants=steps, protocol=protocol, limits=limits)).splitlines()[-15:]
    assert {rows(copy)[name]["status"] for name in steps} == {"failed"}
    report = html.unescape((copy / "results/smoke/report.html").read_text())
    for name in steps:
        (line,) = [line for line in ending if f"reference/local/{name}: failed: " in line]
        assert "did not end within its time limit of 0.5 s" in line
        log = re.search(r"\(log: (.+)\)", line)[1]
        assert (copy / log).is_file() and f"/{name}/" in log
        assert rows(copy)[name]["reason"] in report and log in report
    enough = config_of(copy, variants=steps, protocol=protocol)
    assert jobs(copy, config=enough) - AGGREGATES == set()
    sweep(copy, "--config", "failed=retry", "only=[ddim-6]", config=enough)
    assert rows(copy)["ddim-6"]["status"] == "ok" and rows(copy)["ddim-5"]["status"] == "failed"
    assert jobs(copy, config=enough) == set()


def test_stale_cells_are_measured_again_when_asked(copy):
    notes = copy / CELLS / "ddim-4/replicate-1/replicate.json"
    document = json.loads(notes.read_text())
    notes.write_text(json.dumps({**document, "host": {**document["host"], "cpu": "Z80"}}))
    sweep(copy)
    assert rows(copy)["ddim-4"]["status"] == "stale" and run_of(notes) == document["run"]
    sweep(copy, "--config", "stale=rerun")
    assert rows(copy)["ddim-4"]["status"] == "ok" and run_of(notes) != document["run"]
    assert run_of(copy / CELLS / "ddim-4/replicate-2/replicate.json") != run_of(notes)
    assert jobs(copy) == set()


def test_two_sweeps_share_their_artifacts(copy):
    """Another sweep of the same model with another baseline converts nothing anew, nor does the first after it."""
    config = yaml.safe_load((copy / "config/smoke.yaml").read_text())
    config |= {"sweep": "other", "protocol": {**config["protocol"], "replicates": 1}}
    config["variants"] = {"fp32": {**config["variants"]["fp32"], "steps": 2}, "ddim-3": {"parent": "fp32", "steps": 3}}
    (copy / "config/other.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert not any(job.startswith(("convert", "export")) for job in jobs(copy, config="config/other.yaml"))
    assert jobs(copy) == set()


PACKAGE = "sniffio==1.3.1"  # small, pure Python, and in no lock of the sweep


def test_the_page_of_an_update_compares_what_it_touched(copy):
    (receipt,) = (copy / "results/envs").glob("onnxruntime-*.txt")
    lock = copy / "envs/onnxruntime.lock"
    lock.write_text(f"{lock.read_text()}{PACKAGE}\n")
    sweep(copy)
    page = (copy / "results/smoke/update.html").read_text()
    assert "sniffio" in page and "onnxruntime" in page
    assert 'href="update.html"' in (copy / "results/smoke/report.html").read_text()
    command = [sys.executable, "scripts/compare", receipt.stem, "smoke"]
    told = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "environment onnxruntime: sniffio" in told.stdout
    (line,) = (line for line in told.stdout.splitlines() if line.split()[:1] == ["onnxruntime"])
    assert any(verdict in line for verdict in ("faster", "slower", "within noise", "cannot tell"))
    assert any("fp32" in line and "ddim-4" in line for line in told.stdout.splitlines() if "same" in line)
