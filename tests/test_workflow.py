"""The workflow as its user runs it: a whole sweep, killed half-way and resumed; and what reruns after which change."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml

import explain
from conftest import copy_project, processes_in, servers_in, snakemake
from diffsweep.show import words as wording

SMOKE = ("--configfile", "config/smoke.yaml")
REFERENCE = "results/smoke/reference/local"


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A project whose smoke sweep was killed (signal 9) while a replicate was being measured."""
    folder = copy_project(tmp_path_factory.mktemp("smoke"))
    command = [sys.executable, "-m", "snakemake", "--cores", "all", *SMOKE]
    with open(folder / "killed.out", "w") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_for(lambda: measured(folder) and servers_in(folder), process, folder / "killed.out")
        before = threads(process)
        time.sleep(2.5)
        (folder / "new-threads.json").write_text(json.dumps(sorted(threads(process) - before)))
    finally:  # also when it took too long: it would go on beside the other tests
        process.kill()
        process.wait()
    return folder


@pytest.fixture(scope="module")
def smoke(killed) -> Path:
    """The same project after the same command was given again and ended well; its output lies in resumed.out."""
    done = snakemake(killed, *SMOKE, "--rerun-incomplete")
    (killed / "resumed.out").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    return killed


def wait_for(condition, process: subprocess.Popen, log: Path, timeout_s: float = 1200) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"ended before it could be killed:\n{log.read_text()[-6000:]}"
        assert time.monotonic() < deadline, f"took too long:\n{log.read_text()[-6000:]}"
        time.sleep(0.2)


def measured(folder: Path) -> list[Path]:
    return list((folder / REFERENCE).glob("*/replicate-*/replicate.json"))


def threads(process: subprocess.Popen) -> set[str]:
    return {path.name for path in Path(f"/proc/{process.pid}/task").iterdir()}


def test_snakemake_sleeps_while_a_replicate_is_measured(killed):
    """It starts a thread whenever its scheduler is to look again, by itself once a second per job that has ended."""
    assert json.loads((killed / "new-threads.json").read_text()) == []


def test_a_killed_sweep_leaves_no_process(killed):
    deadline = time.monotonic() + 10  # the job that was running ends by itself, and its servers with it
    while processes_in(killed) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_in(killed) == []


def test_a_resumed_sweep_keeps_what_was_measured(smoke):
    """What was complete before the kill was not measured again: its run is another than that of the rest."""
    runs = {json.loads(line)["run"] for path in latency_files(smoke) for line in path.read_text().splitlines()}
    assert len(runs) == 2


def latency_files(folder: Path) -> list[Path]:
    return sorted((folder / REFERENCE).glob("*/replicate-*/latency.jsonl"))


def rows(folder: Path) -> dict[str, dict]:
    with open(folder / "results/smoke/summary.csv", newline="") as handle:
        return {row["variant"]: row for row in csv.DictReader(handle)}


def test_the_summary_has_a_measured_row_per_variant(smoke):
    table = rows(smoke)
    assert set(table) == {"fp32", "ddim-4", "onnxruntime"}
    for row in table.values():
        assert row["status"] == "ok", row["reason"]
        for column in ("latency_e2e_p50_s", "speedup", "images_per_s", "usd_per_1000_images_on_demand", "clip_score"):
            assert float(row[column]) > 0, column
        assert row["fid"]
        assert int(row["requests"]) == 2 * 4
        assert row["verdict"]


def test_half_the_steps_take_less_time_and_change_the_images(smoke):
    row = rows(smoke)["ddim-4"]
    assert float(row["speedup"]) > 1.2
    quality = json.loads((smoke / REFERENCE / "ddim-4" / "quality.json").read_text())
    assert quality["outcome"]["status"] == "ok"


def test_the_clocks_add_up(smoke):
    for path in latency_files(smoke):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            parts = ("queue_s", "prompt_encode_s", "setup_s", "decode_s", "image_encode_s", "residual_s")
            total = sum(record[part] for part in parts) + sum(record["step_s"]) + record.get("transfer_s", 0)
            assert total == pytest.approx(record["e2e_s"], abs=1e-6)


def test_the_report_is_whole_and_self_contained(smoke):
    html = (smoke / "results/smoke/report.html").read_text()
    assert all(variant in html for variant in rows(smoke))
    assert not re.search(r"""(?:src|href)=["']?https?://""", html)


def test_no_result_names_the_folder_it_was_made_in(smoke):
    for path in (smoke / "results").rglob("*"):
        if path.suffix in (".json", ".jsonl", ".csv", ".html", ".svg", ".txt"):
            assert str(smoke) not in path.read_text(errors="replace"), path


def test_a_finished_sweep_is_whole_and_of_one_piece(smoke):
    assert not_whole(smoke) == []


def not_whole(folder: Path, *arguments: str) -> list[str]:
    """What scripts/verify says of the smoke sweep in `folder`."""
    command = [sys.executable, "scripts/verify", "results/smoke", *arguments]
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, check=False)
    return done.stdout.splitlines()[:-1]


def test_a_bundle_opens_elsewhere_with_nothing_to_do(smoke, tmp_path):
    done = snakemake(smoke, "bundle", *SMOKE)
    assert done.returncode == 0, done.stdout[-4000:]
    clone = copy_project(tmp_path / "clone")
    with zipfile.ZipFile(smoke / "results/smoke/bundle.zip") as bundle:
        bundle.extractall(clone)
    done = snakemake(clone, "--configfile", "results/smoke/provenance/config.json", "--dry-run")
    assert "Nothing to be done" in done.stdout, done.stdout[-4000:]
    assert not_whole(clone, "--without-models") == []
    replicate = clone / REFERENCE / "ddim-4" / "replicate-1" / "replicate.json"
    replicate.write_text(replicate.read_text().replace('"artifact": "sha256:', '"artifact": "sha256:0'))
    assert [line for line in not_whole(clone, "--without-models") if "mixed from two runs" in line]


def both_outputs(folder: Path) -> str:
    """What the killed sweep and the resumed one printed: how far the first came is not the same each time."""
    return "".join((folder / name).read_text() for name in ("killed.out", "resumed.out"))


def test_progress_is_shown_overall_and_inside_long_jobs(smoke):
    out = both_outputs(smoke)
    assert re.search(r"\d+ of \d+ steps \(\d+%\) done", out)
    assert re.search(r"^onnxruntime replicate 2: block (\d+) of \1: ", out, re.MULTILINE)
    assert re.search(r"^images: onnxruntime: 64 of 64 images", out, re.MULTILINE)
    assert "Logfile" not in out  # of jobs that failed only


def test_a_conversion_says_what_it_is_at(smoke):
    said = re.findall(r"^convert: onnxruntime-fp32: (\w+)", both_outputs(smoke), re.MULTILINE)
    assert said[-6:] == ["converting", "built", "loaded", "denoiser", "99", "ok"]


def test_the_sweep_ends_with_the_reports_place_and_a_whole_row_per_variant(smoke):
    *_, last = (smoke / "resumed.out").read_text().partition("reference on local\n")
    assert "Report: results/smoke/report.html" in last.splitlines()[-5:]
    shown = {line.split()[0]: re.split(r" {2,}", line.strip()) for line in last.splitlines() if line.startswith("  ")}
    for variant, row in rows(smoke).items():
        _, speed, speedup, _, _, *others = shown[variant]
        assert speed == ("baseline" if variant == "fp32" else row["verdict"])
        factors = [float(row[column]) for column in ("speedup", "speedup_low", "speedup_high")]
        assert speedup == wording.with_interval(*factors, wording.factor)
        assert others == [
            wording.number(row["fid"]),
            wording.number(row["clip_score"]),
            wording.money(row["usd_per_1000_images_on_demand"]),
        ]
        assert wording.NOT_MEASURED not in shown[variant]


# --- what reruns ----------------------------------------------------------------------------------------------------


AGGREGATES = {
    "resolve the plan",
    "aggregate the sweep",
    "keep the results, compare them with those before the last update",
    "plot the sweep",
    "report on the sweep",
}


def jobs(folder: Path, config: dict | None = None, *requests: str) -> set[str]:
    """What a dry run would do in `folder`, with the smoke config or another: the message of every job.

    `requests`: what is asked for of this call (`failed=retry`).
    """
    name = "config/smoke.yaml"
    if config is not None:
        name = "config/changed.yaml"
        (folder / name).write_text(yaml.safe_dump(config, sort_keys=False))
    asked = ("--config", *requests) if requests else ()
    done = snakemake(folder, "--configfile", name, "--dry-run", *asked)
    assert done.returncode == 0, done.stdout[-4000:]
    return set(re.findall(r"^Job \d+: (.+)$", done.stdout, re.MULTILINE))


def work(found: set[str]) -> set[str]:
    """The jobs that convert, measure or score."""
    return found - AGGREGATES


def smoke_config(folder: Path) -> dict:
    return yaml.safe_load((folder / "config/smoke.yaml").read_text())


def test_a_second_call_finds_nothing_to_do(smoke):
    done = snakemake(smoke, *SMOKE)
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout


def test_traces_are_made_only_when_asked_for(smoke):
    done = snakemake(smoke, "traces", *SMOKE, "--dry-run")
    found = set(re.findall(r"^Job \d+: (.+)$", done.stdout, re.MULTILINE))
    assert {f"trace {variant} on local" for variant in rows(smoke)} <= found
    assert not any(job.startswith(("measure", "convert", "images")) for job in found)


def test_the_order_of_variants_reruns_nothing(smoke):
    config = smoke_config(smoke)
    config["variants"] = dict(reversed(config["variants"].items()))
    assert jobs(smoke, config) == set()


def test_a_price_reruns_the_aggregates_only(smoke):
    targets = yaml.safe_load((smoke / "config/targets.yaml").read_text())
    targets["targets"]["local"]["price"] = "aws-g5.xlarge"
    (smoke / "config/other-targets.yaml").write_text(yaml.safe_dump(targets))
    assert jobs(smoke, {**smoke_config(smoke), "targets_file": "config/other-targets.yaml"}) == AGGREGATES


def all_of(*variants: str, stages: tuple[str, ...] = ("measure", "images", "score")) -> set[str]:
    """The jobs of some stages of some variants."""
    measured = {f"measure {name} on local, replicate {number}" for name in variants for number in (1, 2)}
    images = {f"images of {name} on local" for name in variants}
    scores = {f"score {name} on local" for name in variants}
    return set().union(*({"measure": measured, "images": images, "score": scores}[stage] for stage in stages))


OF_ONNXRUNTIME = {"convert reference to onnxruntime-fp32"} | all_of("onnxruntime")


def test_a_new_or_renamed_variant_runs_alone(smoke):
    """Renamed, it is new, and nothing else is; its old results stay where they are, under the old name."""
    config = smoke_config(smoke)
    config["variants"]["four-steps"] = config["variants"].pop("ddim-4")
    assert work(jobs(smoke, config)) == all_of("four-steps")


def test_an_axis_reruns_its_variant_and_a_prompt_the_images(smoke):
    """Steps of one variant, and a prompt that latency does not use: two changes, two kinds of jobs, in one dry run."""
    suite = yaml.safe_load((smoke / "config/prompts/default.yaml").read_text())
    suite["prompts"].insert(10, "a large plain blue circle on a white background, once more")
    (smoke / "config/prompts/changed.yaml").write_text(yaml.safe_dump(suite))
    config = smoke_config(smoke)
    config["variants"]["ddim-4"]["steps"] = 3
    config["quality"]["prompts"] = "config/prompts/changed.yaml"
    found = work(jobs(smoke, config))
    everybody = ("fp32", "ddim-4", "onnxruntime")
    assert found == all_of("ddim-4", stages=("measure",)) | all_of(*everybody, stages=("images", "score"))


def test_another_baseline_converts_nothing_and_makes_no_image(smoke):
    config = smoke_config(smoke)
    four = {**config["variants"]["fp32"], "steps": 4}
    config["variants"] = {
        "ddim-4": four,
        "fp32": {"parent": "ddim-4", "steps": 8},
        "onnxruntime": {"parent": "fp32", "engine": "onnxruntime"},
    }
    config["baseline"] = "ddim-4"
    assert work(jobs(smoke, config)) == all_of(*config["variants"], stages=("measure", "score"))


def test_more_replicates_run_only_the_missing_ones(smoke):
    config = smoke_config(smoke)
    config["protocol"]["replicates"] = 4
    missing = {f"measure {variant} on local, replicate {n}" for variant in rows(smoke) for n in (3, 4)}
    assert work(jobs(smoke, config)) == missing


def test_more_replicates_of_the_baseline_against_itself_are_its_own(smoke):
    config = smoke_config(smoke)
    config["protocol"]["aa_replicates"] = 4
    assert work(jobs(smoke, config)) == {f"measure fp32 on local, replicate {number}" for number in (3, 4)}


def test_more_images_rerun_no_latency(smoke):
    config = smoke_config(smoke)
    assert config["quality"]["images"] < 80
    config["quality"]["images"] = 80
    assert work(jobs(smoke, config)) == all_of("fp32", "ddim-4", "onnxruntime", stages=("images", "score"))


def test_a_time_limit_reruns_nothing(smoke):
    config = {**smoke_config(smoke), "limits": {"replicate_s": 1234}}
    assert work(jobs(smoke, config)) == set()


@pytest.fixture
def copy_of_smoke(smoke, tmp_path) -> Path:
    """A copy of the finished sweep with other modification times, as `cp -r` makes it, sharing the environments."""
    folder = tmp_path / "copy"
    shutil.copytree(smoke, folder, copy_function=shutil.copyfile, symlinks=True)
    return folder


def test_a_copy_finds_nothing_to_do(copy_of_smoke):
    assert jobs(copy_of_smoke) == set()


@pytest.mark.parametrize(
    ("taken", "again"),
    [
        ("results/smoke/plots/index.json", "plot the sweep"),
        ("results/smoke/update.html", "keep the results, compare them with those before the last update"),
        (f"{REFERENCE}/ddim-4/replicate-1/replicate.json", "measure ddim-4 on local, replicate 1"),
        (f"{REFERENCE}/ddim-4/images.json", "images of ddim-4 on local"),
        ("results/artifacts/reference/onnx/manifest.json", "export reference to ONNX"),
    ],
)
def test_what_a_killed_job_took_with_it_is_made_again(copy_of_smoke, taken, again):
    """Snakemake removes a job's old files before it runs, and does not miss those from which nothing is to be made."""
    path = copy_of_smoke / taken
    content = path.read_bytes()
    path.unlink()
    found = jobs(copy_of_smoke)
    path.write_bytes(content)
    assert again in found
    assert jobs(copy_of_smoke) == set()


def test_a_bumped_lock_reruns_the_variants_of_that_environment_only(copy_of_smoke):
    lock = copy_of_smoke / "envs/onnxruntime.lock"
    text = lock.read_text()
    lock.write_text("# a comment\n" + text)
    assert jobs(copy_of_smoke) == set()
    lock.write_text(re.sub(r"^idna==\S+", "idna==0.0.1", text, flags=re.MULTILINE))
    assert work(jobs(copy_of_smoke)) == {"environment onnxruntime"} | OF_ONNXRUNTIME
    lock.write_text(text)
    assert jobs(copy_of_smoke) == set()


def test_a_bump_of_what_draws_makes_tables_and_pictures_again_and_measures_nothing(copy_of_smoke):
    lock = copy_of_smoke / "envs/workflow.lock"
    lock.write_text(re.sub(r"^matplotlib==\S+", "matplotlib==0.0.1", lock.read_text(), flags=re.MULTILINE))
    assert jobs(copy_of_smoke) == {"environment workflow"} | AGGREGATES - {"resolve the plan"}


def test_code_reruns_what_runs_it_and_comments_nothing(copy_of_smoke):
    engine = copy_of_smoke / "scripts/diffsweep/engines/ort.py"
    text = engine.read_text()
    assert text.startswith('"""')
    engine.write_text('"""Another docstring. ' + text[3:] + "\n# a comment\n")
    assert jobs(copy_of_smoke) == set()
    engine.write_text(text + "\nADDED = 1\n")
    assert work(jobs(copy_of_smoke)) == OF_ONNXRUNTIME


def test_the_log_of_a_failed_job_stands_in_the_terminal_once(copy_of_smoke):
    """Which package cannot be had is read there, without looking for a file."""
    shared = (copy_of_smoke / ".envs").resolve()
    (copy_of_smoke / ".envs").unlink()
    (copy_of_smoke / ".envs").mkdir()  # for what is left of the one that cannot be built
    for path in filter(Path.is_dir, shared.iterdir()):
        (copy_of_smoke / ".envs" / path.name).symlink_to(path)
    with open(copy_of_smoke / "envs/scoring.lock", "a") as lock:
        lock.write("no-such-package-of-diffsweep==1.0\n")
    done = snakemake(copy_of_smoke, *SMOKE)
    assert done.returncode == 1
    assert done.stdout.count("in_env: environment 'scoring' could not be built from envs/scoring.lock") == 1
    assert "no-such-package-of-diffsweep" in done.stdout and "Traceback" not in done.stdout


def edit(path: Path, **changes) -> None:
    """Change some entries of a JSON file; a mapping is merged into what is there."""
    document = json.loads(path.read_text())
    for key, value in changes.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(document))


def test_failed_cells_run_again_when_asked_for_all_or_by_name(copy_of_smoke):
    outcome = {"status": "failed", "reason": "was killed (signal 9)"}
    for variant, replicate in (("ddim-4", 1), ("onnxruntime", 2)):
        edit(copy_of_smoke / REFERENCE / variant / f"replicate-{replicate}" / "replicate.json", outcome=outcome)
    both = {"measure ddim-4 on local, replicate 1", "measure onnxruntime on local, replicate 2"}
    assert work(jobs(copy_of_smoke)) == set()
    assert work(jobs(copy_of_smoke, None, "failed=retry")) == both
    named = work(jobs(copy_of_smoke, None, "failed=retry", "only=[ddim-4]"))
    assert named == {"measure ddim-4 on local, replicate 1"}


def test_another_machine_marks_cells_stale_and_reruns_them_when_asked(copy_of_smoke):
    for path in copy_of_smoke.glob(f"{REFERENCE}/onnxruntime/replicate-*/replicate.json"):
        edit(path, host={"cpu": "Z80"})
    done = snakemake(copy_of_smoke, "results/smoke/summary.csv", *SMOKE)
    assert done.returncode == 0, done.stdout[-3000:]
    row = rows(copy_of_smoke)["onnxruntime"]
    assert row["status"] == "stale" and "measured on another machine: CPU was Z80, is " in row["reason"]
    assert float(row["speedup"]) > 0 and row["competes"] == "false"
    assert rows(copy_of_smoke)["ddim-4"]["status"] == "ok"
    assert work(jobs(copy_of_smoke, None, "stale=rerun")) == all_of("onnxruntime", stages=("measure",))


def test_explain_says_what_reruns_because_of_what_and_how_long_it_took(smoke):
    config = smoke_config(smoke)
    config["variants"]["ddim-4"]["steps"] = 3
    config["variants"]["ort"] = config["variants"].pop("onnxruntime")
    (smoke / "config/changed.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "scripts/explain.py", "--configfile", "config/changed.yaml"]
    done = subprocess.run(command, cwd=smoke, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    lines = [re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()]
    measure = next(line for line in lines if line[:2] == ["measure", "reference/local/ddim-4"])
    replicates = smoke.glob("results/smoke/reference/local/ddim-4/replicate-*/replicate.json")
    notes = [json.loads(path.read_text()) for path in replicates]
    took_s = sum(value for note in notes for phase, value in note["seconds"].items() if phase != "start")
    took_s += sum(note["servers"]["variant"]["start_s"] for note in notes)  # on the server that both sides share
    assert measure[2:5] == ["2", explain.seconds(took_s), "steps: 4 -> 3"]
    renamed = next(line for line in lines if line[:2] == ["images", "reference/local/ort"])
    assert renamed[3:] == ["n/a", "new (the settings of 'onnxruntime', whose results stay under that name)"]
    assert not any(line[0] == "convert" for line in lines)
    assert "last time" in done.stdout.splitlines()[-1]


def test_a_wrong_config_ends_with_one_line(project):
    config = smoke_config(project)
    config["variants"]["ddim-4"]["stepps"] = 4
    (project / "config/wrong.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(project, "--configfile", "config/wrong.yaml")
    assert done.returncode == 1
    *announced, message = done.stdout.strip().splitlines()
    assert message == "diffsweep: config: variants.ddim-4: unknown key 'stepps'; did you mean 'steps'?"
    assert all(line.startswith("Using workflow specific profile") for line in announced)


BROKEN = {
    "no UTF-8": (b"\xff\xfe\x00", "cannot be read as YAML"),
    "no end of brackets": (b"[" * 20_000, "cannot be read as YAML"),
    "no YAML": (b"a: b: c", "cannot be read as YAML"),
    "a tag": (b'a: !!python/object/apply:os.system ["true"]', "could not determine a constructor for the tag"),
    "a key twice": (b"sweep: x\nsweep: y", "line 2: the key 'sweep' is there twice"),
    "nothing there": (None, "there is no such file"),
}


def end_of(folder: Path, program: tuple[str, ...]) -> list[str]:
    """What a call that must fail says, without Snakemake's announcements."""
    done = subprocess.run(
        [sys.executable, *program], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 1, done.stdout
    return [line for line in done.stdout.splitlines() if not line.startswith(("Using workflow specific", "Assuming"))]


def test_a_broken_default_config_ends_with_one_line(tmp_path):
    folder = copy_project(tmp_path / "project")
    for content, words in BROKEN.values():
        (folder / "config/config.yaml").unlink(missing_ok=True)
        if content is not None:
            (folder / "config/config.yaml").write_bytes(content)
        [line] = end_of(folder, ("-m", "snakemake", "--cores", "all", "--dry-run"))
        assert line.startswith("diffsweep: config/config.yaml: ") and words in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"sweep: x\nsweep: y", ["broken.yaml: line 2: the key 'sweep' is there twice; remove or rename one of them"]),
        (b"a: b: c", ["WorkflowError:", "Config file is not valid JSON or YAML"]),
        (BROKEN["a tag"][0], ["WorkflowError:", "Config file is not valid JSON or YAML"]),
        (b"- a", ["WorkflowError:", "Config file must be given as JSON or YAML with keys at top level"]),
        (b"", ["WorkflowError:", "Config file must be given as JSON or YAML with keys at top level"]),
    ],
)
def test_another_broken_config_ends_in_a_line_or_in_snakemakes_own_words(project, content, words):
    """Snakemake reads a --configfile before any of our code. Where there is no text to read it shows a traceback."""
    (project / "config/broken.yaml").write_bytes(content)
    lines = end_of(project, ("-m", "snakemake", "--cores", "all", "--dry-run", "--configfile", "config/broken.yaml"))
    assert len(lines) == len(words) and all(word in line for word, line in zip(words, lines, strict=True)), lines


def test_explain_and_plan_meet_what_snakemake_cannot_read_with_one_line(project):
    (project / "config/bytes.yaml").write_bytes(BROKEN["no UTF-8"][0])
    for name, words in (("bytes.yaml", "can't decode byte 0xff"), ("missing.yaml", "o such file")):
        [line] = end_of(project, ("scripts/explain.py", "--configfile", f"config/{name}"))
        assert line.startswith("explain: ") and words in line
        [line] = end_of(project, ("scripts/plan.py", "--config", f"config/{name}"))
        assert f"config/{name}" in line and words in line
