"""The regression gate, and the page that says what an update did."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import synthetic
from diffsweep.analysis import comparison, gate
from diffsweep.analysis.cells import Replicate
from diffsweep.analysis.comparison import Images
from diffsweep.analysis.keeping import keep, kept
from diffsweep.analysis.stats import Estimate
from diffsweep.show import report
from diffsweep.show.cells import read_cells
from diffsweep.show.report import Sources
from diffsweep.show.update_page import render, render_first
from diffsweep.sweep.documents import ConfigError
from diffsweep.sweep.plan import gate_settings
from test_compare import BUMPED, CALM, LOCKS, SCRIPTS, change_of, comparison_of, make, plan_of, rerun, updated

# --- the gate -------------------------------------------------------------------------------------------------------


def test_a_threshold_is_never_below_the_noise(tmp_path):
    noisy = {"fp32": replace(CALM["fp32"], between_spread=0.08)}
    plan = plan_of(images=4)
    sweep = make(tmp_path / "before", plan, truths=noisy)
    keep(sweep, plan, LOCKS)
    rerun(sweep, make(tmp_path / "after", plan, 7, locks=BUMPED), "onnxruntime")
    found = comparison_of(sweep, gate.limits_of({**gate_settings({}, "test"), "speed": 0.0001}))
    assert change_of(found).speed.limit == found.thresholds["reference", "local"] > 0.02


def replicates_with(*peaks: int) -> list[Replicate]:
    return [Replicate(n, {"servers": {"variant": {"peak_memory_bytes": p}}}, [], []) for n, p in enumerate(peaks, 1)]


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ((100, 101), (107, 108), "regressed"),
        ((100, 110), (107, 118), "within noise"),  # 7 % more, where replicates of one state lie 10 % apart
        ((110, 109), (100, 118), "within noise"),  # it is the new state that scatters
        ((100,), (107,), None),  # nobody knows by how much it scatters
        ((100,), (107, 108), "regressed"),
    ],
)
def test_memory_is_not_judged_below_what_replicates_lie_apart(old, new, verdict):
    limits = gate.limits_of({**gate_settings({}, "test"), "memory": 1e-6})
    assert comparison.memory(replicates_with(*old), replicates_with(*new), limits).verdict == verdict


@pytest.mark.parametrize(
    ("drop", "fid_rise", "verdict"), [(0.05, 0.1, "cannot tell"), (3.0, 0.1, "worse"), (0.05, 20.0, "worse")]
)
def test_images_are_not_judged_below_what_their_scores_scatter(drop, fid_rise, verdict):
    """The least thresholds: of 60 images whose CLIP scores scatter by 2 and whose FID is known to 1."""
    limits = gate.limits_of({**gate_settings({}, "test"), "clip_score": 1e-6, "fid": 1e-6})
    scores = 30 + 2 * np.random.default_rng(0).standard_normal((2, 60))
    scores -= scores.mean(axis=1, keepdims=True)
    names = {"prompts": [str(n) for n in range(60)], "seeds": [1] * 60, "digests": ["a"] * 60, "scorers": {}}
    old, new = (
        Images(**names, clip_scores=list(found), features=np.empty((0, 4)), fid=Estimate(fid, fid - 1, fid + 1))
        for found, fid in ((scores[0], 50.0), (scores[1] - drop, 50.0 + fid_rise))
    )
    settings = {"clip_margin": 1.0, "bootstrap": 1000, "seed": 0}
    assert comparison.quality(old, new, settings, None, limits).verdict == verdict


def test_settings_are_checked():
    assert gate_settings({"speed": 0.03}, "config")["undecided"] == "pass"
    with pytest.raises(ConfigError, match="config: .*'sped'.*did you mean 'speed'"):
        gate_settings({"sped": 0.03}, "config")


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory) -> Path:
    """A folder whose results/default was slowed down by an update of 25 %."""
    folder = tmp_path_factory.mktemp("gate")
    updated(folder, {"onnxruntime": synthetic.slower(CALM["onnxruntime"], 1.25)})
    return folder / "before"


def run(program: str, folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, SCRIPTS / program, *arguments]
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def test_the_gate_as_ci_calls_it(sweeps):
    code, said = run("gate", sweeps, "default")
    assert code == 1 and said.startswith("gate: REGRESSED")
    assert re.search(r"regressed: reference/local/onnxruntime: speed 0\.\d+× .* limit 5\.\d %", said)
    (sweeps / "lenient.yaml").write_text("gate: {speed: 0.9}\n")
    before = kept(sweeps / "results/default")[-1].name
    code, said = run("gate", sweeps, before, "default", "--configfile", "lenient.yaml")
    assert code == 0 and said.startswith("gate: passed")
    code, said = run("gate", sweeps, "nothing", "default")
    assert code == 2 and said.startswith("gate: cannot compare: 'nothing' is no folder")


def test_the_comparison_as_a_user_calls_it(sweeps):
    code, said = run("compare", sweeps, "onnxruntime-aaaa", "default", "--html", "update.html")
    assert code == 0 and "environment onnxruntime: idna 1.0 → 1.1" in said
    assert "Not measured anew: the same results: fp32 and ddim-10" in said
    assert (sweeps / "update.html").exists()
    code, said = run("compare", sweeps, "--list")
    assert code == 0 and "onnxruntime-aaaaaaaaaaaa" in said and len(said.splitlines()) == 1
    assert run("compare", sweeps, "default")[0] == 1


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_is_self_contained(sweeps):
    found = comparison_of(sweeps / "results/default")
    html = render(found, "scripts/compare A B")
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", html) and "<script" not in html
    assert "idna 1.0 → 1.1" in html and "regressed" in html and found.old["state"] in html
    assert html.count("<svg") == 2 and "60 of 60 identical" in html
    evil = replace(found.changes[1], key=("reference", "local", "<img src=x>"))
    assert "<img" not in render(replace(found, changes=[evil]), "")


def test_the_first_state_has_nothing_to_be_compared_with(sweeps):
    html = render_first(json.loads((kept(sweeps / "results/default")[0] / "state.json").read_text()))
    assert "Nothing to compare yet" in html


def test_a_sweep_keeps_its_results_and_tells_of_the_update(sweeps, tmp_path):
    sweep = tmp_path / "results/default"
    shutil.copytree(sweeps / "results", sweep.parent)
    tables = (
        "--plan",
        sweep / "plan.json",
        "--results",
        sweep,
        "--artifacts",
        sweep.parent / "artifacts",
        "--out",
        sweep,
    )
    assert run("aggregate.py", tmp_path, *tables)[0] == 0
    code, said = run("update.py", tmp_path, "--results", "results/default")
    assert code == 0 and "1 slower" in said and len(kept(sweep)) == 2
    update = json.loads((sweep / "state.json").read_text())["update"]
    assert update["against"] == kept(sweep)[1].name and "idna 1.0 → 1.1" in update["cause"]
    assert "regressed" in (sweep / "update.html").read_text()
    sources = Sources(read_cells(sweep), [], sweep, None, 0.0, "snakemake --cores all", update)
    html = report.render(sources)
    assert '<a href="update.html">' in html and "idna 1.0 → 1.1" in html
    assert '<a href="update.html">' not in report.render(replace(sources, update=None))
    assert "1 slower" in run("console.py", tmp_path, "--results", "results/default")[1]
