"""A finished sweep's figures for CloudWatch: in embedded metric format, and pushed to moto's CloudWatch."""

import csv
import json
import os
import subprocess
import sys
import time

import jsonschema
import pytest

from conftest import PROJECT
from diffsweep.sweep.files import write_json

PROGRAM = PROJECT / "scripts" / "cloudwatch.py"
IN_ENV = [sys.executable, str(PROJECT / "scripts" / "in_env"), "cloudwatch"]
MEASURED_S = time.time() - 3600

# AWS, "Specification: Embedded metric format", as far as it bears on these documents.
METRIC = {
    "type": "object",
    "required": ["Name", "Unit"],
    "additionalProperties": False,
    "properties": {
        "Name": {"type": "string", "minLength": 1, "maxLength": 1024},
        "Unit": {"enum": ["Seconds", "Bytes", "Count", "Count/Second", "None"]},
    },
}
DIRECTIVE = {
    "type": "object",
    "required": ["Namespace", "Dimensions", "Metrics"],
    "additionalProperties": False,
    "properties": {
        "Namespace": {"type": "string", "minLength": 1, "maxLength": 1024},
        "Dimensions": {"type": "array", "minItems": 1, "items": {"type": "array", "minItems": 1, "maxItems": 30}},
        "Metrics": {"type": "array", "minItems": 1, "maxItems": 100, "items": METRIC},
    },
}
EMF = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "additionalProperties": False,
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {"type": "array", "minItems": 1, "items": DIRECTIVE},
            },
        }
    },
}
ROWS = [
    {
        **{"model": "reference", "target": "local", "variant": "fp32", "status": "ok", "reason": ""},
        **{"verdict": "within noise", "latency_e2e_p50_s": "0.5", "latency_e2e_p50_s_low": "0.45"},
        **{"latency_e2e_p50_s_high": "0.55", "latency_e2e_p95_s": "", "images_per_s": "2.5", "defects": "0"},
    },
    {
        **{"model": "reference", "target": "local", "variant": "int8", "status": "failed"},
        **{"reason": "convert: parity: it is another model"},
    },
]


@pytest.fixture
def finished(tmp_path):
    """A sweep's folder with what the program reads of it."""
    folder = tmp_path / "results" / "small"
    write_json(folder / "plan.json", {"sweep": "small"})
    write_json(folder / "run.json", {"run": "r", "started_unix_s": MEASURED_S - 600})
    for number in (1, 2):
        times = {"ended_unix_s": MEASURED_S - 100 + 50 * number}
        write_json(folder / "reference" / "local" / "fp32" / f"replicate-{number}" / "replicate.json", times)
    with open(folder / "summary.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return folder


def run(*command, **environ):
    # No look at the machine's own credentials, files or metadata service.
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    inside = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    inside |= {**nothing, "AWS_EC2_METADATA_DISABLED": "true", **environ}
    return subprocess.run([str(part) for part in command], env=inside, text=True, capture_output=True, cwd=PROJECT)


def written(folder):
    return [json.loads(line) for line in (folder / "cloudwatch.jsonl").read_text().splitlines()]


def test_each_variant_is_one_event_in_embedded_metric_format(finished):
    done = run(sys.executable, PROGRAM, "--results", finished)
    assert done.returncode == 0, done.stderr
    events = written(finished)
    for event in events:
        jsonschema.validate(event, EMF)
        (directive,) = event["_aws"]["CloudWatchMetrics"]
        assert all(isinstance(event[name], str) and event[name] for name in directive["Dimensions"][0])
        assert all(isinstance(event[metric["Name"]], float | int) for metric in directive["Metrics"])
    measured, failed = events
    assert {name: measured[name] for name in ("sweep", "model", "target", "variant")} == {
        **{"sweep": "small", "model": "reference", "target": "local", "variant": "fp32"}
    }
    assert (measured["latency_e2e_p50_s"], measured["latency_e2e_p50_s_low"], measured["ok"]) == (0.5, 0.45, 1)
    assert "latency_e2e_p95_s" not in measured and "speedup" not in measured  # not measured is left out
    assert measured["_aws"]["Timestamp"] == round(MEASURED_S * 1000)  # when the last replicate ended
    assert failed["ok"] == 0 and failed["reason"].startswith("convert: parity")
    assert [metric["Name"] for metric in failed["_aws"]["CloudWatchMetrics"][0]["Metrics"]] == ["ok"]


def test_pushed_metrics_arrive_as_they_are_in_the_file(finished):
    fake = [*IN_ENV, "python", PROJECT / "tests" / "fakes" / "aws.py", "team/diffsweep", PROGRAM]
    options = ["--results", finished, "--namespace", "team/diffsweep", "--push"]
    done = run(*fake, *options, AWS_DEFAULT_REGION="eu-central-1")
    assert done.returncode == 0, done.stderr
    assert "5 metrics sent to CloudWatch in eu-central-1" in done.stdout
    arrived = json.loads(done.stdout.splitlines()[-1])
    got = {(metric["dimensions"]["variant"], metric["name"]): metric["points"] for metric in arrived}
    assert got == {
        ("fp32", "latency_e2e_p50_s"): [[0.5, 1, "Seconds"]],
        ("fp32", "images_per_s"): [[2.5, 1, "Count/Second"]],
        ("fp32", "defects"): [[0, 1, "Count"]],
        ("fp32", "ok"): [[1, 1, "Count"]],
        ("int8", "ok"): [[0, 1, "Count"]],
    }
    assert all(set(metric["dimensions"]) == {"sweep", "model", "target", "variant"} for metric in arrived)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [({}, "region"), ({"AWS_DEFAULT_REGION": "eu-central-1"}, "credentials")],
    ids=["no region", "no credentials"],
)
def test_a_push_that_cannot_be_ends_with_one_line(finished, environ, sentence):
    done = run(*IN_ENV, "python", PROGRAM, "--results", finished, "--push", **environ)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("cloudwatch: 0 metrics were sent, then: ") and sentence in done.stderr.lower()
    assert len(written(finished)) == 2  # the file is there all the same


def test_what_cloudwatch_would_refuse_is_said_before(finished):
    for number in (1, 2):
        old = {"ended_unix_s": time.time() - 20 * 86400}
        write_json(finished / "reference" / "local" / "fp32" / f"replicate-{number}" / "replicate.json", old)
    done = run(sys.executable, PROGRAM, "--results", finished, "--push")
    assert done.returncode == 1 and "measured 20 days ago" in done.stderr and "--now" in done.stderr


def test_an_unfinished_sweep_is_told_in_one_line(tmp_path):
    done = run(sys.executable, PROGRAM, "--results", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("cloudwatch: ") and "Traceback" not in done.stderr
