"""Traces: the common table, self times, and Nsight Systems around a server, which a stand-in for `nsys` plays."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest

from diffsweep.sweep.outcomes import Failed, Unsupported
from diffsweep.traces import nsys
from diffsweep.traces.chrome import complete, self_times
from diffsweep.traces.operators import tabulate, write_table

PROJECT = Path(__file__).resolve().parents[1]
FAKE_SERVER = PROJECT / "tests" / "fakes" / "server.py"
FAKE_NSYS = PROJECT / "tests" / "fakes" / "nsys"


def test_the_table_adds_up_and_begins_with_what_takes_most(tmp_path):
    found = tabulate([("Conv", 0.3), ("Add", 0.1), ("Conv", 0.5), ("Mul", 0.1)])
    assert [(row.operator, row.calls, row.total_s) for row in found] == [
        ("Conv", 2, pytest.approx(0.8)),
        ("Add", 1, 0.1),
        ("Mul", 1, 0.1),
    ]
    assert sum(row.share for row in found) == pytest.approx(1)
    write_table(found, tmp_path / "operators")
    document = json.loads((tmp_path / "operators.json").read_text())
    with open(tmp_path / "operators.csv", newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert [line["operator"] for line in lines] == [row["operator"] for row in document["operators"]]
    assert float(lines[0]["share"]) == document["operators"][0]["share"] == pytest.approx(0.8)


def test_no_call_is_an_empty_table(tmp_path):
    write_table(tabulate([]), tmp_path / "operators")
    assert (tmp_path / "operators.csv").read_text().split() == ["operator,calls,total_s,share"]


def test_the_time_in_an_operator_is_without_that_of_those_it_calls():
    events = [
        complete("leaf", 2, 3, 0, 1),
        complete("inner", 1, 5, 0, 1),
        complete("outer", 0, 10, 0, 1),
        complete("leaf", 7, 1, 0, 1),
        complete("alone", 2, 4, 0, 2),  # another thread, at the same time
        complete("next", 10, 1, 0, 1),  # begins when the first ends
    ]
    found = {}
    for name, seconds in self_times(events):
        found[name] = found.get(name, 0) + seconds * 1e6
    assert found == pytest.approx({"leaf": 4, "inner": 2, "outer": 4, "alone": 4, "next": 1})


# --- Nsight Systems ---


@pytest.fixture
def with_nsys(tmp_path, monkeypatch):
    """The stand-in on the PATH; what it was called with grows in a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nsys").symlink_to(FAKE_NSYS)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_NSYS_STATE", str(folder))
    return folder


def server(tmp_path, **behaviour):
    ready = tmp_path / "ready.json"
    options = ["--spec", json.dumps({"artifact": behaviour}), "--artifact", "x", "--port", "0", "--ready", str(ready)]
    return [sys.executable, str(FAKE_SERVER), *options], ready


BODY = b'{"num_inference_steps": 4}'


def test_the_second_request_is_traced_and_its_kernels_are_tabulated(tmp_path, with_nsys):
    command, ready = server(tmp_path, service_s=[0.01, 0.05])
    out = tmp_path / "out"
    out.mkdir()
    trace = nsys.trace_server(command, ready, BODY, out, 30)
    assert [(row.operator, row.calls) for row in trace.operators] == [
        ("void cutlass::Kernel<float, 2>(T1)", 500),
        ("ampere_sgemm_64x64_tn", 1550),
    ]
    assert trace.operators[0].total_s == pytest.approx(0.45) and trace.operators[0].share == pytest.approx(0.75)
    assert trace.files == ["server.nsys-rep"] == [path.name for path in out.iterdir()]
    assert trace.traced_s >= 0.05
    called = (with_nsys / "calls").read_text().splitlines()
    assert [line.split()[0] for line in called] == ["launch", "start", "stop", "shutdown", "stats"]
    assert len({re.search(r"--session=(\S+)", line).group(1) for line in called[1:4]}) == 1


def test_without_nsys_there_is_no_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="not on the PATH"):
        nsys.trace_server(["true"], tmp_path / "ready.json", BODY, tmp_path, 1)


@pytest.mark.parametrize(
    "behaviour, fail, reason",
    [
        ({"fault": "500", "at": 1}, "", "failed a request .http 500.: a planted fault"),
        ({"problem": "no such weights", "status": "failed"}, "", "could not load its artifact: no such weights"),
        ({}, "launch", "nsys launch ended with 1: launch is broken"),
        ({}, "start", "nsys start ended with 1: start is broken"),
        ({}, "stats", "nsys stats ended with 1: stats is broken"),
    ],
)
def test_what_goes_wrong_is_said(tmp_path, with_nsys, monkeypatch, behaviour, fail, reason):
    monkeypatch.setenv("FAKE_NSYS_FAIL", fail)
    command, ready = server(tmp_path, **behaviour)
    with pytest.raises(Failed, match=reason):
        nsys.trace_server(command, ready, BODY, tmp_path, 30)


def test_a_server_without_kernels_has_an_empty_table():
    said = (
        "Processing [x.sqlite] with [cuda_gpu_kern_sum.py]...\nSKIPPED: x.sqlite does not contain CUDA kernel data.\n"
    )
    assert nsys.kernels(said) == [] and nsys.kernels("") == []
