"""Records of requests: what a file of them must be to be read, and what is said of one that is not."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from diffsweep.measure import records
from diffsweep.sweep.files import digest_file

PROJECT = Path(__file__).resolve().parents[1]

# --- records ---

LATENCY = records.LatencyRecord(
    **{"schema": 1, "run": "r", "model": "m", "target": "t", "variant": "v", "role": "variant", "replicate": 1},
    **{"block": 1, "order": 3, "prompt_id": "p001", "seed": 5, "warmup": False, "status": "ok", "error": None},
    **{"sent_unix_s": 1e9, "e2e_s": 0.5, "queue_s": 0.0, "prompt_encode_s": 0.1, "step_s": [0.1, 0.2], "decode_s": 0},
    **{"image_encode_s": 0.01, "residual_s": 0.02, "transfer_s": 0.07, "first_byte_s": 0.49},
)


@pytest.fixture
def record_file(tmp_path):
    path = tmp_path / "latency.jsonl"
    with records.RecordWriter(path) as writer:
        for _ in range(3):
            writer.append(LATENCY)
    return path


def test_records_come_back_as_they_were_written(record_file):
    assert records.read_latency(record_file) == [LATENCY] * 3


def test_a_writer_appends(record_file):
    with records.RecordWriter(record_file) as writer:
        writer.append(LATENCY)
    assert len(records.read_latency(record_file)) == 4


def test_fields_of_a_later_version_are_left_aside(record_file):
    line = json.dumps({**asdict(LATENCY), "energy_j": 3.0})
    record_file.write_text(line + "\n")
    assert records.read_latency(record_file) == [LATENCY]


def _changed(**changes):
    return json.dumps({**asdict(LATENCY), **changes}).encode()


def _without(name):
    return json.dumps({k: v for k, v in asdict(LATENCY).items() if k != name}).encode()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"schema": 1, "run"', "not a record"),
        (b"", "not a record"),
        (b"\xff\xfe", "not a record"),
        (b"[1, 2]", "Expected `object`, got `array`"),
        (_without("seed"), "missing required field `seed`"),
        (_changed(seed="5"), "seed: Expected `int`, got `str`"),
        (_changed(warmup=1), "warmup: Expected `bool`, got `int`"),
        (_changed(e2e_s=True), "e2e_s: Expected `float | null`, got `bool`"),
        (_changed(step_s=[0.1, "x"]), "step_s[1]: Expected `float`, got `str`"),
        (_changed(e2e_s=float("nan")), "not a record: JSON is malformed"),
        (_changed(schema=2), "schema: this version reads schema 1"),
        (_changed(role="varinat"), "role: Invalid enum value 'varinat'"),
        (_changed(status="OK"), "status: Invalid enum value 'OK'"),
        (_changed(status=["ok"]), "status: Expected `str`, got `array`"),
        (_changed(error="timeout"), "status is 'ok', and error 'timeout'"),
        (_changed(status="error"), "status is 'error', and error None"),
        (_changed(e2e_s=None), "e2e_s is None, and status 'ok'"),
        (_changed(e2e_s=0), "e2e_s is 0.0, and status 'ok'"),
        (_changed(e2e_s=-0.5), "e2e_s: Expected `float` >= 0.0"),
        (_changed(e2e_s=12345).replace(b"12345", b"1e999"), "e2e_s: Number out of range"),
        (_changed(residual_s=12345).replace(b"12345", b"-1e999"), "residual_s: Number out of range"),
        (_changed(decode_s=-0.001), "decode_s: Expected `float` >= 0.0"),
        (_changed(step_s=[0.1, -0.2]), "step_s[1]: Expected `float` >= 0.0"),
        (_changed(step_s=[0.1, 0.2, 0.3]), "step_s holds 3 times; 2 in the variant's first record"),
        (_changed(decode_s=None), "decode_s holds 0 times; 1 in the variant's first record"),
    ],
)
def test_a_corrupt_record_is_named_with_file_and_line(record_file, line, complaint):
    lines = record_file.read_bytes().splitlines()
    record_file.write_bytes(b"\n".join([lines[0], line, lines[2], b""]))
    with pytest.raises(records.CorruptRecords) as caught:
        records.read_latency(record_file)
    assert str(caught.value).startswith(f"{record_file}:2: ") and complaint in str(caught.value)


CAPACITY = records.CapacityRecord(
    **{"schema": 1, "run": "r", "model": "m", "target": "t", "variant": "v", "scenario": "arrivals", "level": 2.0},
    **{"scheduled_s": 0.1, "sent_s": 0.1, "done_s": 0.6, "status": "ok", "error": None, "images": 1, "replicate": 1},
    **{"client": 0, "steady": True, "trial": 1},
)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"scenario": "step"}, "scenario: Invalid enum value 'step'"),
        ({"status": "OK"}, "status: Invalid enum value 'OK'"),
        ({"status": "error"}, "status is 'error', and error None"),
        ({"images": 0}, "images is 0, and status 'ok'"),
        ({"sent_s": -0.1}, "sent_s: Expected `float` >= 0.0"),
        ({"done_s": 0.05}, "done_s is 0.05, before sent_s, 0.1"),
        ({"scheduled_s": None}, "scheduled_s or trial null"),
        ({"level": "2"}, "level: Expected `int | float`, got `str`"),
    ],
)
def test_a_corrupt_load_record_is_named_with_file_and_line(tmp_path, changes, complaint):
    path = tmp_path / "capacity.jsonl"
    path.write_text("".join(json.dumps({**asdict(CAPACITY), **more}) + "\n" for more in ({}, changes)))
    with pytest.raises(records.CorruptRecords) as caught:
        records.read_capacity(path)
    assert str(caught.value).startswith(f"{path}:2: ") and complaint in str(caught.value)


def test_what_is_no_fault_of_a_record_is_read(record_file):
    failed = _changed(status="error", error="timeout", e2e_s=None, step_s=None, decode_s=None, transfer_s=None)
    other_side = _changed(role="baseline", step_s=[0.1, 0.2, 0.3])
    clocks_apart = _changed(transfer_s=-0.0001, residual_s=-0.0001)
    record_file.write_bytes(b"\n".join([_changed(), failed, other_side, clocks_apart, b""]))
    assert len(records.read_latency(record_file)) == 4


def test_records_are_those_that_their_job_made(record_file):
    job = {"run": "r", "variant": "v", "replicate": 1, "files": {"latency.jsonl": digest_file(record_file)}}
    assert len(records.read_latency(record_file, job)) == 3
    assert len(records.read_latency(record_file, {"variant": "v"})) == 3  # an earlier version named no digests
    with pytest.raises(records.CorruptRecords, match="latency.jsonl:1: mixed from two runs: its variant is 'v', that"):
        records.read_latency(record_file, {**job, "variant": "w"})
    whole = record_file.read_bytes()
    for other in (b"", whole[: len(whole) // 3], whole + whole[: len(whole) // 3]):  # whole lines
        record_file.write_bytes(other)
        with pytest.raises(records.CorruptRecords, match="latency.jsonl: is not the file that was made: its digest"):
            records.read_latency(record_file, job)


def test_a_file_cut_off_anywhere_in_its_last_record_is_refused(record_file):
    whole = record_file.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last + 1, len(whole), 5):
        record_file.write_bytes(whole[:end])
        with pytest.raises(records.CorruptRecords, match=":3: the last record is cut off"):
            records.read_latency(record_file)


def test_nothing_that_is_not_a_number_is_written(tmp_path):
    with records.RecordWriter(tmp_path / "x") as writer, pytest.raises(ValueError, match="JSON compliant"):
        writer.append(records.LatencyRecord(**{**asdict(LATENCY), "e2e_s": float("inf")}))
