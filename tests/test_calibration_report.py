"""What the report of a calibration says, and what it rests on."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import report_calibration
import synthetic
from diffsweep.analysis import calibration, verdicts
from diffsweep.analysis.calibration import Comparison
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.records import CorruptRecords, RecordWriter
from diffsweep.show import calibration as show
from diffsweep.show.calibration import Calibration
from signed import sign_records
from test_calibration import few_draws  # noqa: F401  a fixture

# --- the report -----------------------------------------------------------------------------------------------------


def record_scenario(folder: Path, slowdown: float, replicates: int, rng: np.random.Generator, **host) -> None:
    """Replicates as scripts/calibrate.py leaves them: four steps of 20 ms, with 1 % of noise, one block repeated."""
    blocks = [{"valid": True, "disturbed": []}] * 15 + [{"valid": True, "disturbed": ["steal"]}]
    blocks += [{"valid": False, "disturbed": ["steal"]}]
    for number in range(1, replicates + 1):
        sides = [(0.02 * (1 + share) * (1 + 0.01 * rng.random((8, 4)))).tolist() for share in (slowdown, 0.0)]
        notes = {"outcome": {"status": "ok", "reason": None, "stage": "benchmark"}, "replicate": number}
        notes |= {"seconds": {"latency": 2.0}, "sampling": {"hz": 4.0, "cost_cpu_s": 0.003}, "blocks": blocks}
        notes |= {"started_unix_s": 1.8e9, "ended_unix_s": 1.8e9 + 60}
        notes |= {"repeats": {"pairs": 8, "repeated": 1, "limit": 2, "still_disturbed": 1}}
        notes["host"] = {"cpu": "a processor", "cores": 2, "git_revision": "cb4a2f83", "git_dirty": True, **host}
        notes["servers"] = {"variant": {"environment": "torch-1", "versions": {"torch": "2.13.0"}}}
        where = folder / f"replicate-{number}"
        where.mkdir(parents=True, exist_ok=True)
        (where / "replicate.json").write_text(json.dumps(notes))
        (where / "latency.jsonl").unlink(missing_ok=True)
        with RecordWriter(where / "latency.jsonl") as writer:
            for record in synthetic.records_of_steps(*sides, replicate=number):
                writer.append(record)


SCENARIOS = (("aa", 0.0, False, 80), ("slower-0.1", 0.1, False, 6), ("disturbed-aa", 0.0, True, 4))


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """A calibration's folder, beside its plan."""
    folder, rng = tmp_path_factory.mktemp("recorded") / "calibration", np.random.default_rng(0)
    for name, slowdown, _, replicates in SCENARIOS:
        record_scenario(folder / name, slowdown, replicates, rng)
    keys = ("name", "slowdown", "disturbed", "replicates")
    spec = {"replicate": {"model": {"name": "reference"}, "target": {"name": "local"}}}
    spec["scenarios"] = [dict(zip(keys, scenario, strict=True)) for scenario in SCENARIOS]
    document = {"outcome": {"status": "ok"}, "spec": spec, "failures": ["slower-0.1, replicate 7: ran out of memory"]}
    (folder / "calibration.json").write_text(json.dumps(document))
    (folder.parent / "plan.json").write_text(json.dumps({"protocol": {"replicates": 2, "aa_replicates": 4}}))
    return folder


@pytest.fixture
def recorded(recording, tmp_path) -> Path:
    """The same, to change."""
    shutil.copytree(recording.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "calibration"


def judge(folder: Path) -> Calibration:
    return report_calibration.judge(folder, json.loads((folder.parent / "plan.json").read_text())["protocol"])


def report(folder: Path) -> subprocess.CompletedProcess:
    program = [sys.executable, report_calibration.__file__]
    options = ["--plan", folder.parent / "plan.json", "--calibration", folder]
    return subprocess.run([*program, *options], capture_output=True, text=True)


def test_the_report_says_what_the_machine_can_tell_and_what_it_rests_on(recorded):
    done = report(recorded)
    assert done.returncode == 0, done.stderr
    page = (recorded / "report.html").read_text()
    assert "This machine tells differences from" in page and "0.15 % of one core" in page
    assert "compared 40 times by the preset default: 0 got" in page and "compared 5 times by the preset publish" in page
    assert "1 replicate failed and is left out: slower-0.1, replicate 7" in page
    assert "0 of 2 verdicts were wrong" in page and "(a claim takes 20)" in page
    assert "8 of 68 blocks were flagged as disturbed; 4 of the 64 that count stayed so" in page
    assert "3 of 3 (29 to 100 %)" in page  # the independent comparisons behind the power
    assert "2027-01-15 08:00 UTC to 2027-01-15 08:01 UTC" in page and "torch-1: torch 2.13.0" in page
    assert "cb4a2f83, with changes that were not committed (90 replicates)" in page
    assert "Sampling took more than" not in page and "revisions of the code" not in page
    with open(recorded / "calibration.csv", newline="") as handle:
        table = {(row["scenario"], row["preset"]): row for row in csv.DictReader(handle)}
    assert table["slower-0.1", "default"]["regressed"] == "3" and int(table["aa", "default"]["within noise"]) >= 30
    assert table["aa", "publish"]["comparisons"] == "5" and table["aa", "publish"]["wrong"] == "0"
    disturbed = table["disturbed-aa", "default"]
    assert (disturbed["blocks flagged"], disturbed["blocks still disturbed"]) == ("8 of 68", "4 of 64")
    assert (recorded / "power.svg").exists() and (recorded / "aa.png").exists()


def test_what_the_spec_does_not_list_is_not_judged(recorded):
    listed = judge(recorded)
    for number in range(81, 89):
        shutil.copytree(recorded / "aa" / "replicate-1", recorded / "aa" / f"replicate-{number}")
    again = judge(recorded)
    assert len(again.aa.replicates) == 80 and again.aa == listed.aa


def test_replicates_of_more_than_one_revision_raise_an_alarm(recorded):
    record_scenario(recorded / "slower-0.1", 0.1, 6, np.random.default_rng(1), git_revision="e446d999")
    found = judge(recorded)
    assert found.origin.revisions == {("cb4a2f83", True): 84, ("e446d999", True): 6}
    assert any("2 revisions of the code" in sentence for sentence in show.alarms(found))


def test_sampling_above_its_limit_raises_an_alarm(recording):
    found = judge(recording)
    costly, cheap = (dataclasses.replace(found, sampling_share=share) for share in (0.0051, 0.0049))
    assert any("Sampling took more than 0.5 %" in sentence for sentence in show.alarms(costly))
    assert not any("Sampling" in sentence for sentence in show.alarms(cheap))


def test_a_wrong_verdict_on_a_disturbed_host_is_counted_and_raises_an_alarm(recording):
    found = judge(recording)
    wrong = Comparison(Estimate(0.8, 0.7, 0.9), 0.01, verdicts.REGRESSED)
    found.judged["default"]["disturbed-aa"][0] = wrong
    assert "1 of 2 verdicts were wrong" in show.disturbed_sentences(found)[0]
    assert "On a disturbed host, 1 verdict claimed what is not so." in show.alarms(found)


def test_nothing_is_claimed_from_too_few_comparisons(recorded):
    (recorded / "aa" / "replicate-80" / "replicate.json").unlink()
    found = judge(recorded)
    assert len(found.judged["default"]["aa"]) == 39
    assert show.title(found) == "What this machine can tell is not known after 39 A/A comparisons"


def test_each_presets_curve_begins_with_its_own_share_of_false_claims(recording):
    found = judge(recording)
    for name, least in found.least.items():
        curve = show.curve_of(name, least, found)
        zero = calibration.power(least, 0.0)
        assert (curve.slowdowns[0], curve.found[0]) == (0.0, zero.value)
        assert (curve.low[0], curve.high[0]) == (zero.low, zero.high)
        assert all(low <= high for low, high in zip(curve.low, curve.high, strict=True))


def test_a_recording_without_a_usable_aa_replicate_is_one_clear_line(recorded):
    shutil.rmtree(recorded / "aa")
    done = report(recorded)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "none of 80 A/A replicates can be used" in done.stderr


def test_a_tiny_recording_has_a_report_that_claims_nothing(recorded):
    document = json.loads((recorded / "calibration.json").read_text())
    for settings in document["spec"]["scenarios"]:
        settings["replicates"] = 2
    (recorded / "calibration.json").write_text(json.dumps(document))
    done = report(recorded)
    assert done.returncode == 0, done.stderr
    page = (recorded / "report.html").read_text()
    assert "not known after 0 A/A comparisons" in page and "This machine tells" not in page


def test_a_corrupt_record_is_named_with_its_line(recorded):
    path = recorded / "aa" / "replicate-3" / "latency.jsonl"
    path.write_text(path.read_text()[:-20])
    done = report(recorded)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and f"{path}:16: " in done.stderr


def test_a_calibration_is_not_judged_from_records_that_were_changed(tmp_path):
    record_scenario(tmp_path, 0.1, 1, np.random.default_rng(0))
    sign_records(tmp_path / "replicate-1")
    assert len(report_calibration.read_scenario(tmp_path, 1)) == 1
    path = tmp_path / "replicate-1/latency.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(CorruptRecords, match="latency.jsonl: is not the file that was made"):
        report_calibration.read_scenario(tmp_path, 1)
