"""`make calibrate` as its user runs it: killed half-way, resumed by the same command, and what it then says."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

from conftest import copy_project, snakemake, wait_for

SMOKE = ("calibration", "--configfile", "config/smoke.yaml")


def made(folder: Path) -> dict[Path, int]:
    """The replicates that were measured to their end, and when, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/replicate-*/replicate.json")}


def test_a_calibration_that_was_killed_goes_on_where_it_was_and_reports(tmp_path):
    project = copy_project(tmp_path / "project")
    folder, log = project / "results/smoke/calibration/reference/local", tmp_path / "log"
    command = [sys.executable, "-m", "snakemake", "--cores", "all", *SMOKE]
    with open(log, "wb") as out:
        first = subprocess.Popen(command, cwd=project, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_for(lambda: first.poll() is not None or len(made(folder)) >= 2, timeout_s=300)
        assert first.poll() is None, log.read_text()[-3000:]
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    before = made(folder)
    assert not (folder / "calibration.json").exists()

    resumed = snakemake(project, *SMOKE, timeout=300)
    assert resumed.returncode == 0, resumed.stdout[-3000:]
    after = made(folder)
    assert len(after) > len(before) and {path: after[path] for path in before} == before
    with open(folder / "calibration.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["scenario"] for row in rows] == ["aa", "slower-0.3", "disturbed-aa", "disturbed-slower-0.3"]
    assert rows[0]["true slow-down"] == "none" and rows[0]["comparisons"] == "2"
    verdicts = ("improved", "regressed", "within noise", "cannot tell")
    assert sum(int(rows[0][verdict]) for verdict in verdicts) == 2
    report = (folder / "report.html").read_text("utf-8")
    assert all((folder / f"{name}.svg").exists() for name in ("aa", "power"))
    shown = {row["true slow-down"] for row in rows[1:2]} | {v for row in rows for v in verdicts if int(row[v])}
    assert all(text in report for text in ("A/A", *shown))
