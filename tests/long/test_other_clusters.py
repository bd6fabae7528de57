"""The profiles for which there is no cluster here: Snakemake takes each, and plans the sweep with it (dry run)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import copy_project
from diffsweep.sweep.environments import find_uv, uv_environment

PROFILES = ("cluster-generic", "kubernetes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return copy_project(tmp_path_factory.mktemp("profiles"))


@pytest.mark.parametrize("name", PROFILES)
def test_a_dry_run_with_the_profile_plans_the_sweep(folder, tmp_path, name):
    """The plugins are those that the profile's own comment tells the user to install."""
    profile = folder / "workflow/profiles" / name
    plugins = re.findall(r"snakemake-\S+==\S+", (profile / "config.yaml").read_text())
    assert plugins
    environ = uv_environment(dict(os.environ))
    subprocess.run([find_uv(), "pip", "install", "--quiet", "--target", tmp_path, *plugins], check=True, env=environ)
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", profile, "--configfile", "config/smoke.yaml"]
    done = subprocess.run(
        [*command, "--dry-run"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "measure ddim-4 on local, replicate 1" in done.stdout
