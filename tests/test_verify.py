"""scripts/verify: a whole tree passes, and every kind of damage is one line that names the file."""

import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import synthetic
from diffsweep.analysis.verification import verify
from signed import add_what_is_asked_for, rewrite, sign
from test_show import aggregated, run, shown

PROJECT = Path(__file__).resolve().parents[1]
CELL = "reference/local/bf16"
CALIBRATION = "calibration/reference/local"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """results/ of a finished sweep of two variants, as the programs leave it, with a calibration and a trace."""
    folder = tmp_path_factory.mktemp("whole")
    plan = synthetic.make_plan(synthetic.make_variants()[:2], replicates=1, requests=6, images=4)
    sweep = synthetic.make_results(folder, plan)
    sign(sweep)
    tables = ("--results", sweep, "--artifacts", sweep.parent / "artifacts", "--out", sweep)
    run("aggregate.py", "--plan", sweep / "plan.json", *tables)
    run("update.py", "--results", sweep)
    shown(sweep)
    add_what_is_asked_for(sweep, CELL)
    return folder / "results"


@pytest.fixture
def results(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "results"))


def problems(results: Path, **options) -> list[str]:
    return verify(results, [results / "default"], **options)


def test_a_finished_sweep_is_whole(whole):
    assert problems(whole) == []


def test_it_goes_on_in_the_environment_that_it_needs(whole):
    """As `scripts/verify` does in a shell where nothing is activated."""
    command = [sys._base_executable, PROJECT / "scripts" / "verify", whole / "default"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("verified default: 0 problems\n", 0), done.stderr


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def cut(path: Path) -> None:
    """The last 20 bytes, or half of a small file."""
    content = path.read_bytes()
    path.write_bytes(content[: -min(20, len(content) // 2 + 1)])


def break_line(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = "{" + lines[2]
    path.write_text("".join(lines))


def mix_in(path: Path) -> None:
    """A record of another run among the others, the digest put right."""
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = json.dumps({**json.loads(lines[1]), "run": "another"}) + "\n"
    path.write_text("".join(lines))


def take_out(path: Path) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in document.items() if key != "inputs"}))


DAMAGE = {
    "a record file cut off": (f"{CELL}/replicate-1/latency.jsonl", cut, "cut off"),
    "a corrupt record": (f"{CELL}/replicate-1/latency.jsonl", break_line, "latency.jsonl:3: not a record"),
    "a corrupt load record": (f"{CELL}/replicate-1/capacity.jsonl", break_line, "capacity.jsonl:3: not a record"),
    "another run's record": (f"{CELL}/replicate-1/latency.jsonl", mix_in, "latency.jsonl:2: mixed from two runs"),
    "records of another job": (
        f"{CELL}/replicate-1/capacity.jsonl",
        lambda path: path.write_text(""),
        "is not the file that was made",
    ),
    "a missing replicate": (f"{CELL}/replicate-1/replicate.json", Path.unlink, "missing; make it anew"),
    "a half-written document": (f"{CELL}/quality.json", cut, "not valid JSON"),
    "no inputs named": (f"{CELL}/images.json", take_out, "does not name its run"),
    "an image that was changed": (f"{CELL}/images/0001-1.png", cut, "is not the file that was made"),
    "a missing image": (f"{CELL}/images/0001-1.png", Path.unlink, "missing"),
    "a foreign image": (f"{CELL}/images/9999-9.png", Path.touch, "is not in images.json"),
    "a changed table": (f"{CELL}/scores.parquet", cut, "is not the file that was made"),
    "a newer artifact": (
        "../artifacts/reference/torch-bf16/manifest.json",
        lambda path: rewrite(path, build_s=99.0),
        "mixed from two runs: it was made from another",
    ),
    "changed model files": (
        "../artifacts/reference/torch-bf16/unet/model",
        lambda path: path.write_text("other"),
        "is not the file that was made",
    ),
    "a foreign model file": ("../artifacts/reference/torch-bf16/unet/more", Path.touch, "is not in the manifest"),
    "newer images": (
        f"{CELL}/images.json",
        lambda path: rewrite(path, load_s=1.0),
        "quality.json: mixed from two runs",
    ),
    "newer scores": (f"{CELL}/quality.json", lambda path: rewrite(path, seconds=9.0), "inputs.json: mixed from two"),
    "another plan": ("plan.json", lambda path: rewrite(path, note=1), "inputs.json: mixed from two runs"),
    "another summary": ("summary.parquet", cut, "report.html: mixed from two runs"),
    "a report cut off": ("report.html", cut, "report.html: is cut off"),
    "a missing picture": ("plots/latency.png", Path.unlink, "latency.png: missing"),
    "summary.csv cut off": ("summary.csv", cut, "summary.csv: is not the file that was made"),
    "no summary.csv": ("summary.csv", Path.unlink, "summary.csv: missing"),
    "a table cut off": ("tables/cost.csv", cut, "cost.csv: is not the file that was made"),
    "requests cut off": ("tables/latency.parquet", cut, "latency.parquet: is not the file that was made"),
    "a changed table of targets": ("tables/targets.json", lambda path: path.write_text("[]"), "targets.json: is not"),
    "a picture cut off": ("plots/latency.png", cut, "latency.png: is not the file that was made"),
    "a missing trace": (f"{CELL}/trace/operators.csv", Path.unlink, "operators.csv: missing"),
    "a changed trace": (f"{CELL}/trace/operators.csv", cut, "operators.csv: is not the file that was made"),
    "a trace cut off": (f"{CELL}/trace.json", cut, "trace.json: cannot be read (not valid JSON"),
    "a calibration cut off": (f"{CALIBRATION}/calibration.json", cut, "calibration.json: cannot be read (not valid"),
    "a calibration's records": (f"{CALIBRATION}/aa/replicate-1/latency.jsonl", cut, "the last record is cut off"),
    "a calibration's picture": (f"{CALIBRATION}/power.png", Path.unlink, "power.png: missing"),
    "a calibration's report": (f"{CALIBRATION}/report.html", cut, "report.html: is cut off"),
    "a page of updates cut off": ("update.html", cut, "update.html: is cut off"),
    "a state cut off": ("state.json", cut, "state.json: cannot be read (not valid JSON"),
    "a receipt cut off": ("../envs/torch-1a2b3c.txt", cut, "is no whole receipt"),
    "a half-written file": (".summary.csv.123.partial", Path.touch, "left half-written"),
    "half-written records": (f"{CELL}/replicate-1/latency.jsonl.partial", Path.touch, "left half-written"),
    "a home folder": (
        "summary.csv",
        lambda path: path.write_text(path.read_text() + "/home/alice/x"),
        "holds somebody's home folder",
    ),
    "a token": (
        "report.html",
        lambda path: replace_text(path, "</body>", "hf_" + "a1" * 17 + "</body>"),
        "holds a token or password",
    ),
}


@pytest.mark.parametrize("name, damage, words", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found(results, name, damage, words):
    damage(results / "default" / name)
    found = problems(results)
    assert any(words in line for line in found), found
    assert all("\n" not in line and line.startswith(str(results)) for line in found)


def test_results_of_an_earlier_version_are_told_from_damaged_ones(tmp_path):
    plan = synthetic.make_plan(synthetic.make_variants()[:1], replicates=1, requests=6, images=4)
    sweep = aggregated(tmp_path, plan)
    found = verify(sweep.parent, [sweep])
    assert any("an earlier version made it" in line for line in found)


def test_results_without_digests_of_tables_pictures_and_traces_still_verify(results):
    """As earlier versions left them: only that the files are there is known."""
    for name in ("tables/inputs.json", "plots/index.json", f"{CELL}/trace.json"):
        path = results / "default" / name
        document = json.loads(path.read_text())
        del document["files"]
        path.write_text(json.dumps(document))
    assert problems(results) == []
    for name in ("summary.csv", "plots/latency.png", f"{CELL}/trace/operators.csv"):
        (results / "default" / name).unlink()
    assert len([line for line in problems(results) if "missing" in line]) == 3


def test_model_files_that_were_left_behind_are_no_damage(results):
    shutil.rmtree(results / "artifacts/reference/torch-bf16/unet")
    assert any("missing" in line for line in problems(results))
    assert problems(results, models_here=False) == []


def verify_program(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, PROJECT / "scripts" / "verify", *arguments]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True)


def test_the_program_prints_a_line_a_problem_and_cleans_up(results):
    left = results / "default" / ".images.77.partial"
    left.mkdir()
    (left / "0.png").touch()
    done = verify_program(results.parent)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith("results/default/.images.77.partial: left half-written")
    claim = results.parent / ".snakemake/diffsweep/lock"
    claim.parent.mkdir(parents=True)
    with open(claim, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = verify_program(results.parent, "--clean")
        assert done.returncode == 1 and "a sweep is running in this folder" in done.stderr and left.exists()
    done = verify_program(results.parent, "results/default", "--clean")
    assert done.returncode == 0, done.stdout
    assert not left.exists()
    assert "Traceback" not in verify_program(results.parent, "results/nothing").stderr
