"""What jobs ask of a cluster, and which targets this machine may stand for. A real Slurm: tests/long/test_slurm.py."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.utils import format as format_command

from conftest import copy_project, snakemake
from diffsweep.sweep import cluster, specs
from diffsweep.sweep.documents import ConfigError, read_yaml
from diffsweep.sweep.environments import NO_BUILD, PROJECT, EnvironmentFailed, ensure_environment
from diffsweep.sweep.plan import make_plan
from diffsweep.sweep.variants import find_variant

SMOKE = read_yaml(PROJECT / "config" / "smoke.yaml")
LOCAL = read_yaml(PROJECT / "config" / "targets.yaml")["targets"]["local"]
NODES = {
    "cpu-a": {**LOCAL, "threads": 4, "slurm": {"partition": "alpha", "constraint": "icelake&ssd"}},
    "gpu-b": {
        **LOCAL,
        "threads": 8,
        "device": "cuda",
        "slurm": {"partition": "beta", "gpu_model": "h100", "mem_mb": 64000},
    },
}


def config_for(folder: Path, targets: dict, **changes) -> dict:
    """The smoke config on these targets, whose file is written into `folder`."""
    file = folder / "nodes.yaml"
    file.write_text(yaml.safe_dump({"targets": targets}, sort_keys=False))
    return {**SMOKE, "targets": list(targets), "targets_file": str(file), **changes}


@pytest.fixture
def plan(tmp_path) -> dict:
    variants = {**SMOKE["variants"], "compiled": {"parent": "fp32", "compile": True}}
    return make_plan(config_for(tmp_path, NODES, variants=variants, limits={"replicate_s": 90}))


def test_only_a_measuring_job_has_its_node_to_itself(plan):
    asked = {stage: cluster.resources(plan, stage, "cpu-a")["slurm_extra"] for stage in cluster.STAGES}
    assert {stage for stage in asked if asked[stage] == "--exclusive"} == {"benchmark", "arrivals", "calibrate"}


def test_a_job_goes_to_the_partition_of_its_target(plan):
    asked = cluster.resources(plan, "images", "cpu-a")
    assert (asked["slurm_partition"], asked["constraint"], asked["gpu"]) == ("alpha", "icelake&ssd", None)
    assert asked["mem_mb"] == 0  # the partition's own default
    assert cluster.resources(plan, "score", "gpu-b")["mem_mb"] == 64000


def test_a_gpu_is_asked_for_where_the_model_runs(plan):
    asked = {stage: cluster.resources(plan, stage, "gpu-b") for stage in cluster.STAGES}
    with_gpu = {stage for stage in asked if asked[stage]["gpu"] == 1}
    assert with_gpu == set(cluster.STAGES) - {"export", "score"}
    assert {stage for stage in asked if asked[stage]["gpu_model"] == "h100"} == with_gpu


def test_the_own_time_limit_comes_before_slurms(plan):
    """A job that exceeds its limit says so itself; Slurm's limit is for one that cannot."""
    assert cluster.resources(plan, "benchmark", "cpu-a")["runtime"] == 2 + cluster.MARGIN_MIN
    assert all(
        cluster.resources(plan, stage, "cpu-a")["runtime"] * 60 > plan["limits"][needs.limit]
        for stage, needs in cluster.STAGES.items()
    )


def test_compiled_code_is_made_where_it_runs(plan):
    assert cluster.home_of(plan, "torch-fp32-compile-gpu-b") == "gpu-b"
    assert cluster.home_of(plan, "torch-fp32-compile-cpu-a") == "cpu-a"
    assert cluster.home_of(plan, "torch-fp32") == "cpu-a"


def test_where_a_target_is_reached_changes_no_spec(plan, tmp_path):
    """Measured on a cluster or on the node itself: the same result, so nothing is measured again."""
    bare = {name: {key: value for key, value in target.items() if key != "slurm"} for name, target in NODES.items()}
    variants = {**SMOKE["variants"], "compiled": {"parent": "fp32", "compile": True}}
    other = make_plan(config_for(tmp_path, bare, variants=variants))
    for make in (
        lambda plan: specs.benchmark_spec(plan, "reference", "cpu-a", find_variant(plan, "ddim-4"), 1),
        lambda plan: specs.images_spec(plan, "reference", "gpu-b", find_variant(plan, "compiled")),
        lambda plan: specs.convert_spec(plan, "reference", "torch-fp32-compile-gpu-b", "digest"),
    ):
        assert make(plan) == make(other)


WRONG = {
    "threads: all": ({"threads": "all"}, ["targets.cpu-a.threads", "number of a node's cores"]),
    "gpus without a GPU": ({"slurm": {"partition": "a", "gpus": 2}}, ["targets.cpu-a.slurm.gpus", "device: cuda"]),
    "model without a GPU": ({"slurm": {"partition": "a", "gpu_model": "h100"}}, ["cpu-a.slurm.gpu_model", "cuda"]),
    "no partition": ({"slurm": {}}, ["targets.cpu-a.slurm", "'partition' is missing"]),
    "two partitions": ({"slurm": {"partition": "a,b"}}, ["targets.cpu-a.slurm.partition", "a,b"]),
    "an option as partition": ({"slurm": {"partition": "--wrap=id"}}, ["targets.cpu-a.slurm.partition"]),
    "a command as constraint": ({"slurm": {"partition": "a", "constraint": "x; id"}}, ["cpu-a.slurm.constraint"]),
    "unknown key": ({"slurm": {"partition": "a", "queue": "b"}}, ["targets.cpu-a.slurm", "unknown key 'queue'"]),
}


@pytest.mark.parametrize("change, words", WRONG.values(), ids=WRONG)
def test_a_wrong_partition_is_told_in_one_line_that_names_the_key(tmp_path, change, words):
    config = config_for(tmp_path, {"cpu-a": {**NODES["cpu-a"], **change}})
    with pytest.raises(ConfigError) as caught:
        make_plan(config)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_partition_is_measured_on_its_nodes_only():
    partition, machine = NODES["cpu-a"], LOCAL
    assert cluster.misplaced(partition, None, submits_to_slurm=True) is None
    assert cluster.misplaced(partition, "alpha", submits_to_slurm=False) is None  # inside a job of that partition
    assert cluster.misplaced(machine, None, submits_to_slurm=False) is None
    assert cluster.PROFILE in cluster.misplaced(partition, None, submits_to_slurm=False)
    assert cluster.PROFILE in cluster.misplaced(partition, "beta", submits_to_slurm=False)
    assert "names no partition" in cluster.misplaced(machine, None, submits_to_slurm=True)


def test_jobs_of_a_killed_run_are_those_of_this_folder_with_our_name():
    listing = "7|diffsweep_1b|/work/a\n8|diffsweep_1b|/work/b\n9|mine|/work/a\n\n10_3|diffsweep_2c|/work/a\n"
    assert cluster.parse_jobs(listing, Path("/work/a")) == ["7", "10_3"]


def test_a_job_on_a_node_builds_no_environment(monkeypatch):
    monkeypatch.setattr("diffsweep.sweep.environments.CACHE", Path("/nonexistent"))
    monkeypatch.setenv(NO_BUILD, "1")
    with pytest.raises(EnvironmentFailed, match="jobs of a cluster build none.*file system"):
        ensure_environment("scoring")


# --- the workflow ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A copy of the project with a config for two partitions."""
    folder = copy_project(tmp_path_factory.mktemp("cluster"))
    variants = {"fp32": SMOKE["variants"]["fp32"], "compiled": {"parent": "fp32", "compile": True}}
    (folder / "config/nodes-config.yaml").write_text(yaml.safe_dump(config_for(folder, NODES, variants=variants)))
    return folder


def test_every_job_of_the_profile_asks_for_its_partition(folder):
    for path in (folder / "workflow/rules").glob("*.smk"):  # of a rule with a message, Snakemake shows nothing else
        path.write_text(re.sub(r"^    message:\n        .*\n", "", path.read_text(), flags=re.MULTILINE))
    profile = ("--workflow-profile", "workflow/profiles/slurm", "--configfile", "config/nodes-config.yaml")
    done = snakemake(folder, *profile, "--dry-run")
    assert done.returncode == 0, done.stdout[-3000:]
    job = re.compile(r"^    output: results/([^\s,]+).*\n(?:    .*\n)*?    resources: (.*)", re.MULTILINE)
    asked = dict(job.findall(done.stdout))
    assert "slurm_partition=beta" in asked["artifacts/reference/torch-fp32-compile-gpu-b/manifest.json"]
    assert "slurm_partition=alpha" in asked["artifacts/reference/torch-fp32/manifest.json"]
    measuring = asked["smoke/reference/gpu-b/compiled/replicate-1/replicate.json"]
    assert all(word in measuring for word in ("slurm_partition=beta", "--exclusive", "gpu=1", "gpu_model=h100"))
    assert "slurm_partition=alpha" in asked["smoke/reference/cpu-a/compiled/quality.json"]
    assert "slurm_partition" not in asked["smoke/summary.csv"]  # on the machine that submits


def test_a_job_on_a_node_takes_its_attempt_from_the_submitting_side(folder):
    """The outcome it would count from is removed before it starts."""
    outcome = "results/smoke/reference/cpu-a/fp32/images.json"
    (folder / ".snakemake/diffsweep").mkdir(parents=True, exist_ok=True)
    (folder / ".snakemake/diffsweep/attempts.json").write_text(json.dumps({outcome: 3}))
    on_a_node = ("--mode", "remote", "--configfile", "config/nodes-config.yaml", "--printshellcmds", "--dry-run")
    done = snakemake(folder, *on_a_node, outcome)
    assert done.returncode == 0, done.stdout[-3000:]
    [command] = [line for line in done.stdout.splitlines() if "generate_images.py" in line]
    assert '"attempt": 3' in command


def test_what_was_measured_on_a_node_that_was_swapped_since_runs_again_when_asked(folder):
    """Which machine a partition is, is known from the last replicate there."""
    path = "results/smoke/reference/cpu-a/compiled/replicate-{}/replicate.json"
    for number, cpu in ((1, "Z80"), (2, "Z8000")):
        done = {"status": "ok", "reason": None, "stage": "benchmark", "attempt": 0}
        (folder / path.format(number)).parent.mkdir(parents=True, exist_ok=True)
        notes = {"outcome": done, "host": {"cpu": cpu}, "ended_unix_s": float(number)}
        (folder / path.format(number)).write_text(json.dumps(notes))

    def attempts(*asked: str) -> list[str]:
        dry = ("--configfile", "config/nodes-config.yaml", "--printshellcmds", "--dry-run", *asked)
        done = snakemake(folder, *dry, "--forcerun", "benchmark", "--", path.format(1), path.format(2))
        assert done.returncode == 0, done.stdout[-3000:]
        commands = [line for line in done.stdout.splitlines() if "scripts/benchmark.py" in line]
        told = (re.search(r'"attempt": (\d).*--out \S*/(replicate-\d)', line) for line in commands)
        return sorted(f"{found[2]}: {found[1]}" for found in told)

    assert attempts() == ["replicate-1: 0", "replicate-2: 0"]
    assert attempts("--config", "stale=rerun") == ["replicate-1: 1", "replicate-2: 0"]


def rules() -> dict[str, str]:
    """The body of every rule by its name, but for those that run on the machine that submits."""
    text = "\n".join(path.read_text() for path in sorted((PROJECT / "workflow/rules").glob("*.smk")))
    local = set(" ".join(re.findall(r"^localrules:\n((?:    \w+,\n)+)", text, re.MULTILINE)).replace(",", "").split())
    found = dict(re.findall(r"^rule (\w+):\n((?:(?:    .*)?\n)+)", text, re.MULTILINE))
    assert len(found) > 8
    return {name: body for name, body in found.items() if name not in local}


def test_every_rule_says_where_its_jobs_run():
    """A rule that says nothing would be sent to the default partition, with Snakemake's idea of its memory."""
    assert [name for name, body in rules().items() if "on_cluster(" not in body] == []


def test_a_measuring_job_has_its_node_to_itself_on_pbs_too(plan):
    """What the profile would run, formatted as the executor plugin does it, and expanded by a shell."""
    profile = read_yaml(PROJECT / "workflow/profiles/cluster-generic/config.yaml")
    asked = {}
    for name, body in rules().items():
        [stage] = re.findall(r'on_cluster\("(\w+)"\)', body)
        resources = SimpleNamespace(**cluster.resources(plan, stage, "cpu-a"))
        command = format_command(profile["cluster-generic-submit-cmd"], rule=name, threads=4, resources=resources)
        shown = subprocess.run(
            ["sh", "-c", command.replace("qsub", "printf '%s\\n'", 1)], capture_output=True, text=True
        )
        assert shown.returncode == 0 and shown.stderr == "", shown.stderr
        asked[name] = shown.stdout.splitlines()
    alone = {name for name, words in asked.items() if "place=excl" in words}
    assert alone == {"benchmark", "arrival_rate", "calibrate"}
    assert all("place=free" in words for name, words in asked.items() if name not in alone)
    assert all({"alpha", "select=1:ncpus=4"} <= set(words) for words in asked.values())
    assert f"walltime={(2 + cluster.MARGIN_MIN) * 60}" in asked["benchmark"]
