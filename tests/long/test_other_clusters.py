"""Snakemake takes the profile of every cluster: it plans the sweep with it (dry run) and lints the workflow.

It refuses a profile with a key that neither it nor the profile's plugins know. A real Slurm: test_slurm.py; for the
others there is no cluster here.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import copy_project
from diffsweep.sweep.environments import PROJECT, find_uv, uv_environment

PROFILES = sorted(path.name for path in (PROJECT / "workflow/profiles").iterdir())
IN_THE_LOCK = "slurm"  # its plugin is part of the workflow environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return copy_project(tmp_path_factory.mktemp("profiles"))


@pytest.fixture(scope="module", params=PROFILES)
def profile(request, folder, tmp_path_factory) -> tuple[Path, dict]:
    """A profile's folder, and an environ with the plugins that its own comment tells the user to install."""
    profile = folder / "workflow/profiles" / request.param
    plugins = re.findall(r"snakemake-\S+==\S+", (profile / "config.yaml").read_text())
    assert bool(plugins) == (request.param != IN_THE_LOCK)
    if not plugins:
        return profile, dict(os.environ)
    place = tmp_path_factory.mktemp("plugins")
    environ = uv_environment(dict(os.environ))
    subprocess.run([find_uv(), "pip", "install", "--quiet", "--target", place, *plugins], check=True, env=environ)
    return profile, {**os.environ, "PYTHONPATH": str(place)}


def said(folder: Path, profile: tuple[Path, dict], *program: str) -> str:
    command = [sys.executable, *program, "--workflow-profile", profile[0], "--configfile", "config/smoke.yaml"]
    done = subprocess.run(
        command, cwd=folder, env=profile[1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_a_dry_run_with_the_profile_plans_the_sweep(folder, profile):
    assert "measure ddim-4 on local, replicate 1" in said(folder, profile, "-m", "snakemake", "--dry-run")


def test_lint_has_nothing_to_say_with_the_profile(folder, profile):
    assert " 0 unexpected" in said(folder, profile, "tests/lint_workflow.py")
