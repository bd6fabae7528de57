"""What Locust and k6 wrote, read as our capacity records: a closed loop whose figures are known, and broken files."""

import io
import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

import import_load
from conftest import PROJECT
from diffsweep.analysis import load
from diffsweep.measure.records import read_capacity
from import_load import Unreadable, capacity_records, figures, read

CLIENTS, SERVICE_S, SECONDS, BEGAN_S = 4, 0.25, 20.0, 1_790_000_000.0
IDENTITY = {"schema": 1, "run": "r", "model": "m", "target": "local", "variant": "v", "replicate": 1}


def closed_loop(stagger_s=0.0):
    """(client, sent_s, done_s) of CLIENTS at a server that takes SERVICE_S for each request, one after the other.

    Clients come one `stagger_s` after the other and send nothing after SECONDS; what is under way then is completed.
    """
    waiting, free_s, done = [(number * stagger_s, number) for number in range(CLIENTS)], 0.0, []
    while waiting:
        waiting.sort()
        sent_s, client = waiting.pop(0)
        free_s = max(free_s, sent_s) + SERVICE_S
        done.append((client, sent_s, free_s))
        if free_s < SECONDS:
            waiting.append((free_s, client))
    return done


def locust_text(requests, count=None):
    head = {"tool": "locust", "version": "2.47.0", "clients": CLIENTS}
    lines = [
        {"client": c, "sent_unix_s": BEGAN_S + sent, "response_s": done - sent, "error": None, "images": 1}
        for c, sent, done in requests
    ]
    end = {"end": True, "requests": len(requests) if count is None else count}
    return "".join(json.dumps(line) + "\n" for line in (head, *lines, end))


def k6_point(metric, value, unix_s, **tags):
    time = (
        datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "123Z")
    )  # k6 writes nanoseconds
    return {"metric": metric, "type": "Point", "data": {"time": time, "value": value, "tags": tags}}


def k6_text(requests, statuses=None, complete=True, images=None, **more):
    """Lines as k6's documentation shows them ("Results output", JSON), with the tags of scripts/load/k6.js."""
    lines = []
    for number, (client, sent, done) in enumerate(requests):
        status = (statuses or {}).get(number, "200")
        client_tag = {"client": str(client + 1)}
        tags = {**client_tag, "status": status, "method": "POST", **more}
        ended_s = BEGAN_S + done
        for metric, value in (
            ("http_reqs", 1),
            ("http_req_duration", (done - sent) * 1000),
            ("http_req_blocked", 0.01),
        ):
            if number == 0:
                about = {"name": metric, "type": "trend", "contains": "time", "thresholds": [], "submetrics": None}
                lines.append({"type": "Metric", "data": about, "metric": metric})
            lines.append(k6_point(metric, value, ended_s, **tags))
        found = 0 if status != "200" else (images or {}).get(number, 1)
        lines.append(k6_point("diffsweep_images", found, ended_s + 0.001, **client_tag))
        lines.append(k6_point("diffsweep_failed", int(not found), ended_s + 0.001, **client_tag))
        lines.append(k6_point("vus", CLIENTS, ended_s))
    if complete:
        lines.append(k6_point("diffsweep_complete", 1, BEGAN_S + SECONDS + 2))
    return "".join(json.dumps(line) + "\n" for line in lines)


def records_of(text):
    return capacity_records(read(io.StringIO(text)), IDENTITY)


@pytest.mark.parametrize("text", [locust_text, k6_text])
@pytest.mark.parametrize("stagger_s", [0.0, 0.9])
def test_a_closed_loop_gives_the_throughput_and_latency_that_it_has(text, stagger_s):
    requests = closed_loop(stagger_s)
    records, left_out = records_of(text(requests))
    level = figures(records)
    assert level["requests_per_s"] == pytest.approx(1 / SERVICE_S, rel=1e-4)
    assert level["latency_p50_s"] == pytest.approx(CLIENTS * SERVICE_S, rel=1e-4)
    assert level["valid"] and level["level"] == CLIENTS and level["errors"] == 0
    # All were there before the window opened, and nothing of the emptying end is in it.
    assert min(r.done_s for r in records if r.steady) > (CLIENTS - 1) * stagger_s + SERVICE_S
    assert left_out == CLIENTS - 1 and len(records) + left_out == len(requests)
    assert {r.client for r in records} == set(range(CLIENTS))


@pytest.mark.parametrize("text", [locust_text, k6_text])
def test_our_own_analysis_reads_the_records_alike(tmp_path, text):
    source, out = tmp_path / "source", tmp_path / "capacity.jsonl"
    source.write_text(text(closed_loop()))
    program = [sys.executable, PROJECT / "scripts" / "import_load.py", source, "--out", out, "--variant", "fp32"]
    done = subprocess.run(program, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "4 clients: 4.000 requests/s, median 1.0000 s (valid)" in done.stdout
    (level,) = load.levels_of([read_capacity(out)])
    assert level.valid and level.images_per_s.value == pytest.approx(1 / SERVICE_S, rel=1e-4)
    assert level.latency_mean_s == pytest.approx(CLIENTS * SERVICE_S, rel=1e-4)
    assert {record.variant for record in read_capacity(out)} == {"fp32"}


def test_errors_keep_their_kind_and_make_the_level_invalid():
    records, _ = records_of(k6_text(closed_loop(), statuses={20: "429", 30: "0", 40: "500"}))
    errors = [r.error for r in records if r.status == "error"]
    assert errors == ["http 429", "connection", "http 500"] and not any(r.images for r in records if r.error)
    level = figures(records)
    assert not level["valid"] and level["reason"] == f"3 of {len(records)} requests failed"


def locust_images(requests, images):
    """Locust's events, with other numbers of images in some replies."""
    lines = [json.loads(line) for line in locust_text(requests).splitlines()]
    for number, count in images.items():
        lines[number + 1]["images"] = count
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.mark.parametrize("text", [locust_images, lambda requests, images: k6_text(requests, images=images)])
def test_images_are_those_that_came_back_and_a_reply_without_one_is_an_error(text):
    records, _ = records_of(text(closed_loop(), {20: 2, 30: 0}))
    assert [r.images for r in records].count(2) == 1
    assert [(r.status, r.images) for r in records if r.error == "garbage"] == [("error", 0)]
    assert figures(records)["reason"] == f"1 of {len(records)} requests failed"


def test_k6_own_number_of_a_client_will_do():
    lines = [json.loads(line) for line in k6_text(closed_loop()).splitlines()]
    for line in lines:
        tags = (line["data"].get("tags") or {}) if line["type"] == "Point" else {}
        if "client" in tags:
            line["data"]["metadata"] = {"vu": tags.pop("client")}
    records, _ = records_of("".join(json.dumps(line) + "\n" for line in lines))
    assert figures(records)["valid"]


# --- k6's summaries, by hand after k6's documentation (end of test, custom summary; grafana/k6-summary's schema) ---

# 4 clients, 1 s each: 240 requests in a run of 60 s, 2 of them failed.
TREND = {"avg": 990.0, "min": 240.5, "med": 1000.4, "max": 1004.0, "p(90)": 1001.0, "p(95)": 1002.0}
FLAT = {
    "root_group": {"name": "", "path": "", "id": "d41d8cd98f00b204e9800998ecf8427e", "groups": {}, "checks": {}},
    "metrics": {
        "http_reqs": {"count": 240, "rate": 4.0},
        "http_req_duration": TREND,
        "http_req_duration{expected_response:true}": TREND,
        "http_req_failed": {"passes": 2, "fails": 238, "value": 2 / 240},
        "vus": {"value": 1, "min": 1, "max": 4},
        "vus_max": {"value": 4, "min": 4, "max": 4},
    },
}


def with_values():
    """The argument of handleSummary."""
    kinds = {"http_reqs": "counter", "http_req_failed": "rate", "vus": "gauge", "vus_max": "gauge"}
    metrics = {}
    for name, values in FLAT["metrics"].items():
        values = {"rate" if key == "value" and name == "http_req_failed" else key: v for key, v in values.items()}
        metrics[name] = {"type": kinds.get(name, "trend"), "contains": "default", "values": values}
    state = {"isStdOutTTY": False, "isStdErrTTY": False, "testRunDurationMs": 60000.0}
    return {"root_group": {}, "options": {"summaryTimeUnit": ""}, "state": state, "metrics": metrics}


def as_list():
    """--new-machine-readable-summary (k6 1.5 and later)."""
    metrics = [{"name": name, "category": "http", **metric} for name, metric in with_values()["metrics"].items()]
    head = {"version": "1.0.0", "metadata": {"generatedAt": "2026-01-15T10:30:45.123Z", "k6Version": "2.0.0"}}
    return {**head, "config": {"execution": "local", "duration": 60.0}, "results": {"passed": True, "metrics": metrics}}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("document", [FLAT, with_values(), as_list()], ids=["flat", "values", "list"])
def test_the_summaries_of_k6_give_one_level(document, indent):
    level = read(io.StringIO(json.dumps(document, indent=indent)))
    assert (level["level"], level["requests"], level["errors"]) == (4, 240, 2)
    assert level["requests_per_s"] == pytest.approx(238 / 60)
    assert (level["latency_p50_s"], level["latency_p95_s"]) == (pytest.approx(1.0004), pytest.approx(1.002))
    assert level["littles_law"] == pytest.approx(238 / 60 * 0.99 / 4) and level["valid"]


def test_a_summary_counts_replies_of_garbage_where_the_script_found_them():
    found = json.loads(json.dumps(FLAT))
    found["metrics"]["diffsweep_failed"] = {"passes": 24, "fails": 216, "value": 0.1}
    level = read(io.StringIO(json.dumps(found)))
    assert level["errors"] == 24 and level["requests_per_s"] == pytest.approx(216 / 60)


def test_a_summary_in_other_units_does_not_pass_for_a_measurement():
    wrong = json.loads(json.dumps(FLAT))
    wrong["metrics"]["http_req_duration"] = {key: value / 1000 for key, value in TREND.items()}
    level = read(io.StringIO(json.dumps(wrong)))
    assert not level["valid"] and "Little's law" in level["reason"]


# --- broken files ---


@pytest.mark.parametrize("text", [locust_text(closed_loop()), k6_text(closed_loop()), json.dumps(FLAT, indent=1)])
def test_a_file_that_is_cut_off_anywhere_is_refused(text):
    for cut in [*range(1, len(text) - 1, len(text) // 60), len(text) - 2]:
        with pytest.raises(Unreadable, match="cut off|is not JSON|neither|too short"):
            read(io.StringIO(text[:cut]))


lines = k6_text(closed_loop()).splitlines(keepends=True)
BROKEN = {
    "nothing": ("", "neither Locust's or k6's lines nor a whole summary"),
    "no end": (k6_text(closed_loop(), complete=False), "no diffsweep_complete"),
    "a line is missing": ("".join(line for line in lines if line != lines[40]), "lines are missing|not a request"),
    "wrong count": (locust_text(closed_loop(), count=99), "its last line counts 99"),
    "one request each": (locust_text(closed_loop()[:CLIENTS]), "too short"),
    "a client had no answer": (locust_text(closed_loop()[: CLIENTS - 1]), "3 of 4 clients had an answer"),
    "not a number": (locust_text(closed_loop()).replace("0.25,", '"fast",', 1), "line 2: response_s is 'fast', not a"),
    "infinite": (
        locust_text(closed_loop()).replace("0.25,", "1e999,", 1),
        "line 2: response_s is 'inf', not a number that it can be",
    ),
    "less than no image": (
        locust_text(closed_loop()).replace('"images": 1', '"images": -1', 1),
        "line 2: images is '-1', not a number that it can be",
    ),
    "no client": (k6_text(closed_loop()).replace('"client"', '"klient"'), "line 4 has no client's number"),
    "nobody looked into the replies": (
        "".join(line for line in lines if "diffsweep_images" not in line),
        "21 requests of client 1 and 0 diffsweep_images",
    ),
    "another summary": (json.dumps({"metrics": {"grpc_reqs": {}}}), "not a summary of k6's http requests: KeyError"),
    "another list": ("[1, 2]", "not a summary of k6's"),
    "prose": ("no file of a load generator\n", "neither Locust's or k6's lines"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_ends_with_one_line_and_leaves_nothing(name, tmp_path, monkeypatch):
    text, sentence = BROKEN[name]
    (tmp_path / "source").write_text(text)
    monkeypatch.setattr(sys, "argv", ["import_load", str(tmp_path / "source"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=sentence) as ended:
        import_load.main()
    assert str(ended.value).startswith("import_load: ") and "\n" not in str(ended.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
