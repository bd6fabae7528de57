"""The bundle of a sweep: a Workflow Run Crate, complete, the same each time, and without its maker's name."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from conftest import PROJECT, copy_project
from diffsweep.sweep.files import digest_file
from test_verify import whole  # noqa: F401  a fixture

CONFIG = {"sweep": "default", "targets_file": "config/targets.yaml"}
MEASURED_AT = "1" * 40
RECEIPT = b"python==3.11.7\nidna==1.0\n"
MAKER = {"HOME": "/data/people/zaphod", "USER": "zaphod", "LOGNAME": "zaphod", "HF_TOKEN": "hf_" + "z9" * 17}


@pytest.fixture(scope="module")
def project(whole, tmp_path_factory) -> Path:  # noqa: F811
    """A project with a finished synthetic sweep, Snakemake's record of its summary, and the config."""
    folder = copy_project(tmp_path_factory.mktemp("bundle") / "project")
    shutil.copytree(whole, folder / "results", dirs_exist_ok=True)
    (folder / "results/default/run.json").write_text('{"run": "r", "started_unix_s": 1.0}\n')
    (folder / "results/default/update.html").write_text("<!doctype html>")
    (folder / "results/default/state.json").write_text("{}")
    half = folder / "results/default/reference/local/bf16/.images.77.partial"
    half.mkdir()
    (half / "0001-1.png").write_text("half")
    (half / ".facts.json").write_text("{")
    (folder / "results/envs").mkdir(exist_ok=True)
    (folder / "results/envs/torch-aaaaaaaaaaaa.txt").write_bytes(RECEIPT)
    (folder / "results/envs/torch-aaaaaaaaaaaa.log").write_text("building")
    (folder / "results/default/plot.log").write_text("File /home/zaphod/x")
    notes = folder / "results/default/reference/local/bf16/replicate-1/replicate.json"
    document = json.loads(notes.read_text())
    notes.write_text(json.dumps({**document, "host": {**document["host"], "git_revision": MEASURED_AT}}))
    for command in (("init", "--quiet"), ("add", "LICENSE"), ("commit", "--quiet", "--message=all")):
        git(folder, "-c", "user.name=zaphod", "-c", "user.email=zaphod@example.org", *command)
    record = folder / ".snakemake/metadata" / urlsafe_b64encode(b"results/default/summary.csv").decode()
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"rule": "aggregate", "starttime": 1.7e9, "endtime": 1.7e9 + 60, "params": []}))
    (record.parent / "broken").write_text("{")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    subprocess.run([sys.executable, "scripts/in_env", "bundle", "true"], cwd=folder, check=True)
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, text=True, capture_output=True)
    return done.stdout.strip()


def bundle(folder: Path) -> subprocess.CompletedProcess:
    program = ["bundle", "python", "scripts/bundle.py", "--results", "results/default", "--config", "config.json"]
    command = [sys.executable, "scripts/in_env", *program, "--out", "results/default/bundle.zip"]
    return subprocess.run(command, cwd=folder, env={**os.environ, **MAKER}, text=True, capture_output=True)


@pytest.fixture(scope="module")
def archive(project) -> Path:
    done = bundle(project)
    assert done.returncode == 0, done.stderr
    return project / "results/default/bundle.zip"


@pytest.fixture(scope="module")
def contents(archive) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_everything_that_a_sweep_consists_of_is_in_it(project, contents):
    cell = "results/default/reference/local/bf16"
    wanted = ["plan.json", "run.json", "report.html", "summary.csv", "summary.parquet", "tables/inputs.json"]
    wanted = [f"results/default/{name}" for name in (*wanted, "provenance/config.json", "provenance/machine.json")]
    wanted += [f"{cell}/{name}" for name in ("quality.json", "features.npy", "images/0001-1.png")]
    wanted += [f"{cell}/replicate-1/{name}" for name in ("latency.jsonl", "capacity.jsonl", "replicate.json")]
    wanted += ["results/artifacts/reference/torch-bf16/manifest.json", "envs/torch.lock", "config/targets.yaml"]
    wanted += ["Snakefile", "scripts/in_env", "workflow/rules/common.smk", "config/prompts/default.yaml", "LICENSE"]
    assert set(wanted) <= contents.keys()
    assert json.loads(contents["results/default/provenance/config.json"]) == CONFIG
    assert json.loads(contents["results/default/provenance/machine.json"])["reference/local"]["cpu_model"]
    assert sum(name.startswith(".snakemake/metadata/") for name in contents) == 1
    assert contents["results/envs/torch-aaaaaaaaaaaa.txt"] == RECEIPT
    endings, parts = (".log", ".pyc", "unet/model", ".zip"), ("..", ".partial")
    left = [name for name in contents if name.endswith(endings) or any(part in name for part in parts)]
    assert left == [] and not any(name.startswith("/") for name in contents)


def test_it_names_the_revision_it_was_made_at_and_those_it_was_measured_at(project, contents):
    source = json.loads(contents["results/default/provenance/source.json"])
    assert source == {
        "git_revision": git(project, "rev-parse", "HEAD"),
        "git_dirty": False,
        "measured_at_revisions": [MEASURED_AT],
    }


def test_nothing_in_it_names_its_maker(contents):
    for name, content in contents.items():
        for value in ("zaphod", MAKER["HF_TOKEN"], str(Path.home()), str(PROJECT)):
            assert value.encode() not in content, name


def graph(contents) -> dict[str, dict]:
    return {entity["@id"]: entity for entity in json.loads(contents["ro-crate-metadata.json"])["@graph"]}


def ids(value) -> list[str]:
    return [entry["@id"] for entry in (value if isinstance(value, list) else [value])]


def test_it_is_a_workflow_run_crate(contents):
    """What the profile (https://w3id.org/ro/wfrun/workflow/0.6) says a crate must have."""
    entities = graph(contents)
    root, metadata = entities["./"], entities["ro-crate-metadata.json"]
    assert ids(metadata["about"]) == ["./"]
    assert set(ids(metadata["conformsTo"])) >= {"https://w3id.org/ro/crate/1.3"}
    profiles = ids(root["conformsTo"])
    assert {"https://w3id.org/ro/wfrun/process/0.6", "https://w3id.org/ro/wfrun/workflow/0.6"} <= set(profiles)
    assert all(entities[profile]["@type"] == "CreativeWork" for profile in profiles)
    assert all(root[key] for key in ("name", "description", "datePublished", "license"))
    (main,) = ids(root["mainEntity"])
    assert {"File", "SoftwareSourceCode", "ComputationalWorkflow"} <= set(entities[main]["@type"])
    assert "snakemake" in ids(entities[main]["programmingLanguage"])[0].lower()
    (run,) = ids(root["mentions"])
    action = entities[run]
    assert action["@type"] == "CreateAction" and ids(action["instrument"]) == [main] and "agent" not in action
    assert action["startTime"] < action["endTime"]
    assert "results/default/report.html" in ids(action["result"])
    assert "results/default/provenance/config.json" in ids(action["object"])
    for slot in (*ids(entities[main]["input"]), *ids(entities[main]["output"])):
        assert entities[slot]["@type"] == "FormalParameter" and entities[slot]["additionalType"] == "File"
    assert ids(entities["results/default/summary.csv"]["exampleOfWork"]) == ["#summary"]


def test_every_part_is_there_and_is_what_it_says(contents):
    entities = graph(contents)
    for part in ids(entities["./"]["hasPart"]):
        if part.endswith("/"):
            assert any(name.startswith(part) for name in contents), part
        else:
            assert int(entities[part]["contentSize"]) == len(contents[part]), part
    described = set(ids(entities["./"]["hasPart"]))
    folders = tuple(part for part in described if part.endswith("/"))
    assert [n for n in contents if n not in described and not n.startswith(folders)] == ["ro-crate-metadata.json"]


def test_the_library_opens_it(project, archive):
    text = "import sys; from rocrate.rocrate import ROCrate; print(ROCrate(sys.argv[1]).mainEntity.id)"
    command = [sys.executable, "scripts/in_env", "bundle", "python", "-c", text, str(archive)]
    done = subprocess.run(command, cwd=project, text=True, capture_output=True)
    assert done.stdout.strip() == "Snakefile", done.stderr


def test_it_is_the_same_each_time(project, archive):
    before = digest_file(archive)
    assert bundle(project).returncode == 0
    assert digest_file(archive) == before


def test_a_home_folder_is_refused_in_one_line(project, archive):
    plan = project / "results/default/plan.json"
    text = plan.read_text()
    plan.write_text(text.replace("resources/reference-model", "/home/zaphod/model"))
    done = bundle(project)
    plan.write_text(text)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [done.stderr.strip()] and "plan.json holds" in done.stderr
    assert "zaphod" not in done.stderr


def test_publishing_refuses_it_too(project, archive):
    report = project / "results/default/report.html"
    text = report.read_text()
    report.write_text(text.replace("</body>", "hf_" + "a1" * 17 + "</body>"))
    command = [sys.executable, "scripts/publish.py", "--results", "results/default", "--name", "x"]
    done = subprocess.run(command, cwd=project, text=True, capture_output=True)
    report.write_text(text)
    assert done.returncode == 1 and "report.html holds a token or password" in done.stderr
    assert subprocess.run(command, cwd=project).returncode == 0


def test_an_unfinished_sweep_is_one_line(project, archive):
    (project / "results/empty").mkdir()
    program = ["python", "scripts/bundle.py", "--results", "results/empty", "--config", "config.json", "--out", "x.zip"]
    command = [sys.executable, "scripts/in_env", "bundle", *program]
    done = subprocess.run(command, cwd=project, text=True, capture_output=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "no finished sweep" in done.stderr
