"""`make calibrate` as its user runs it: killed half-way, resumed by the same command, and its report."""

import csv
import json
import os
import signal
import subprocess
import sys

from conftest import copy_project, snakemake, wait_for

COMMAND = ("--configfile", "config/smoke.yaml", "calibration")


def test_a_calibration_that_was_killed_goes_on_where_it_was_and_reports(tmp_path):
    project = copy_project(tmp_path / "project")
    folder = project / "results/smoke/calibration/reference/local"
    command = [sys.executable, "-m", "snakemake", "--cores", "all", *COMMAND]
    with open(tmp_path / "log", "wb") as log:
        first = subprocess.Popen(command, cwd=project, stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: first.poll() is not None or len(done_in(folder)) >= 3, timeout_s=150)
        assert first.poll() is None, (tmp_path / "log").read_text()[-3000:]
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    before = done_in(folder)
    resumed = snakemake(project, *COMMAND, timeout=170)
    assert resumed.returncode == 0, resumed.stdout[-3000:]
    after = done_in(folder)
    assert {path: after[path] for path in before} == before and len(after) > len(before)
