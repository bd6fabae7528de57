"""What a server tells at /metrics, and that the dashboard asks for nothing else."""

import http.client
import json
import re

import pytest

from dashboard import dashboard, labels_in, metrics_in, panel_queries, variable_query
from diffsweep.measure.clients import Client
from test_server import PATH, fake_app

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with fake_app(tmp_path_factory.mktemp("watched")) as started:
        yield started


def scrape(server, accept=""):
    """(content type, text) of one scrape."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/metrics", headers={"Accept": accept})
    response = connection.getresponse()
    assert response.status == 200
    text = response.read().decode()
    connection.close()
    return response.getheader("Content-Type"), text


def samples(text):
    """{(name, ((label, value), ...)): number} of a scrape."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels, value = SAMPLE.match(line).groups()
            found[name, tuple(sorted(re.findall(r'(\w+)="([^"]*)"', labels or "")))] = float(value)
    return found


def value(found, name, **labels):
    return found[name, tuple(sorted(labels.items()))]


def growth(server, work, *asked):
    """What `work` adds to the sample of each (name, labels) asked for."""
    before = samples(scrape(server)[1])
    work()
    after = samples(scrape(server)[1])
    return [value(after, name, **labels) - value(before, name, **labels) for name, labels in asked]


def test_requests_are_counted_by_status_and_warm_up_apart(server):
    def work():
        client = Client(server.port, timeout_s=60)
        for warmup in (True, False, False):
            assert client.generate(b'{"prompt": "x", "n": 2}', warmup).error is None
        client.close()
        assert server.generate(prompt="x", n=0)[0] == 400
        assert server.generate(prompt="fail: on purpose")[0] == 500

    counted = {
        ("200", "true"): 1,
        ("200", "false"): 2,
        ("400", "false"): 1,
        ("500", "false"): 1,
        ("400", "true"): 0,
    }
    asked = [("diffsweep_requests_total", {"code": code, "is_warmup": word}) for code, word in counted]
    images = [("diffsweep_images_total", {"is_warmup": word}) for word in ("true", "false")]
    assert growth(server, work, *asked, *images) == [*counted.values(), 2, 4]


def test_the_stages_add_up_to_the_duration_of_successful_requests(server):
    stages = ("queue", "prompt_encode", "setup", "sampling", "decode", "image_encode", "other")
    asked = [("diffsweep_stage_seconds_total", {"stage": stage, "is_warmup": "false"}) for stage in stages]
    asked += [(f"diffsweep_request_duration_seconds_{kind}", {"is_warmup": "false"}) for kind in ("sum", "count")]
    asked += [("diffsweep_steps_total", {"is_warmup": "false"})]
    reply = {}

    def work():
        reply.update(server.generate(prompt="x", num_inference_steps=20)[1]["metrics"])
        server.generate(prompt="x", n=0)

    *seconds, total_s, requests, steps = growth(server, work, *asked)
    assert (requests, steps) == (1, 20)
    assert total_s == pytest.approx(reply["total_s"]) and seconds[stages.index("sampling")] == pytest.approx(
        sum(reply["step_s"])
    )
    assert sum(seconds) == pytest.approx(total_s) and min(seconds) >= 0


def test_every_series_is_there_before_the_first_request(tmp_path):
    with fake_app(tmp_path) as server:
        found = samples(scrape(server)[1])
        for code in ("200", "429"):
            assert value(found, "diffsweep_requests_total", code=code, is_warmup="false") == 0
        assert value(found, "diffsweep_request_duration_seconds_count", is_warmup="false") == 0
        assert value(found, "diffsweep_queue_limit_requests") == 64
        assert value(found, "diffsweep_requests_in_progress") == 0
        assert [dict(labels)["model"] for name, labels in found if name == "diffsweep_server_info"] == ["reference"]


def test_names_are_in_base_units_and_nothing_tells_prompts_or_seeds(server):
    server.generate(prompt="a prompt that must not be seen", seed=123456)
    text = scrape(server)[1]
    assert "must not be seen" not in text and "123456" not in text
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        assert kind != "counter" or name.endswith("_total"), name
        assert not re.search(r"_(ms|milliseconds|mb|percent)(_|$)", name), name
        assert name.startswith(("diffsweep_", "process_"))
    labels = {label for _, pairs in samples(text) for label, _ in pairs}
    assert labels == {"code", "is_warmup", "stage", "le", "model", "variant", "artifact", "size"}


def test_a_scraper_gets_the_format_it_accepts(server):
    kind, text = scrape(server)
    assert kind.startswith("text/plain; version=0.0.4") and "# EOF" not in text
    kind, text = scrape(server, OPEN_METRICS)
    assert kind.startswith("application/openmetrics-text") and text.endswith("# EOF\n")


@pytest.mark.parametrize("word", ["yes", "TRUE", ""])
def test_a_mistyped_warm_up_header_is_refused(server, word):
    headers = {"Content-Type": "application/json", "Diffsweep-Warmup": word}
    status, document = server.post(json.dumps({"prompt": "x"}).encode(), PATH, headers)
    assert status == 400 and "Diffsweep-Warmup must be 'true' or 'false'" in document["error"]["message"]


# --- the dashboard ---


def test_every_query_of_the_dashboard_names_metrics_and_labels_that_the_server_exports(server):
    found = samples(scrape(server)[1])
    names = {name for name, _ in found}
    labels = {label for _, pairs in found for label, _ in pairs} | {"instance", "job"}  # those are Prometheus' own
    for query in panel_queries():
        assert metrics_in(query) and metrics_in(query) <= names, query
        assert labels_in(query) <= labels, query
    assert variable_query()[0] in names


def test_the_dashboard_shows_all_that_is_exported_and_computes_no_percentiles(server):
    used = set().union(*map(metrics_in, panel_queries()))
    exported = {name for name, _ in samples(scrape(server)[1]) if name.startswith("diffsweep_")}
    assert exported <= used
    assert not any("quantile" in query for query in panel_queries())


def test_the_dashboard_has_whole_panels():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) == 23  # 24 columns, no overlap


QUERY = 'sum by (code) (rate(a_total{x=~"$x", y!="b_total"}[$__rate_interval])) / scalar(sum(c)) * 1000'


def test_names_are_found_in_a_query():
    assert metrics_in(QUERY) == {"a_total", "c"} and labels_in(QUERY) == {"code", "x", "y"}
