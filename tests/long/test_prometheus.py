"""A real Prometheus (Debian's package) scrapes a server under load and answers the dashboard's queries with data."""

import http.client
import json
import math
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
import yaml

from dashboard import GRAFANA, panel_queries, variable_query
from diffsweep.measure.clients import Client
from test_server import fake_app

SCRAPE_S = 1
VARIABLES = {"$__rate_interval": f"{4 * SCRAPE_S}s", "$instance": ".*"}
ERRORS = {"200": None, "429": "http 429"}  # of our client, by status
BODY = json.dumps({"prompt": "x", "num_inference_steps": 20}).encode()


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The folder with prometheus and promtool. The package is unpacked, not installed: that would start its service."""
    installed = shutil.which("prometheus")
    if installed:
        return Path(installed).parent
    folder = tmp_path_factory.mktemp("debian")
    subprocess.run(["apt-get", "-qq", "update"], check=True)
    subprocess.run(["apt-get", "-qq", "download", "prometheus"], cwd=folder, check=True)
    (package,) = folder.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "--extract", str(package), str(folder)], check=True)
    return folder / "usr" / "bin"


@pytest.fixture(scope="module")
def watched(programs, tmp_path_factory):
    """(server, Prometheus) while Prometheus scrapes the server by the configuration that ships."""
    folder = tmp_path_factory.mktemp("prometheus")
    with fake_app(tmp_path_factory.mktemp("server"), "--queue", "3") as server:
        config = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
        (job,) = config["scrape_configs"]
        job["scrape_interval"] = job["scrape_timeout"] = f"{SCRAPE_S}s"
        job["static_configs"][0]["targets"] = [f"127.0.0.1:{server.port}"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        process = subprocess.Popen(
            [programs / "prometheus", *options, f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
            cwd=folder,
            env={**os.environ, "GOMAXPROCS": "1"},
        )
        try:
            prometheus = Prometheus(port)
            wait_for(lambda: prometheus.ask("up") == [1.0])
            yield server, prometheus
        finally:
            process.kill()
            process.wait()


class Prometheus:
    def __init__(self, port):
        self.port = port

    def get(self, path, **fields):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", f"{path}?{urllib.parse.urlencode(fields)}")
        document = json.loads(connection.getresponse().read())
        connection.close()
        assert document["status"] == "success", document
        return document["data"]

    def ask(self, query):
        """The values of an instant query."""
        return [float(series["value"][1]) for series in self.get("/api/v1/query", query=query)["result"]]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except (ConnectionRefusedError, ValueError):  # not up yet; up, but not ready and saying so in prose
            pass
        assert time.monotonic() < deadline, "Prometheus did not get there in time"
        time.sleep(0.1)


def load(port, seconds, warmup=False):
    """What one client sends for some seconds, as {error or None: how often}."""
    client, counts, ends = Client(port, timeout_s=60), {}, time.monotonic() + seconds
    while time.monotonic() < ends:
        error = client.generate(BODY, warmup).error
        counts[error] = counts.get(error, 0) + 1
        if error is not None:
            time.sleep(0.05)
    client.close()
    return counts


def in_threads(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_prometheus_answers_every_query_of_the_dashboard_under_load(watched):
    server, prometheus = watched
    warm, measured = load(server.port, 0.5, warmup=True), []
    seen = {}
    # Six clients, one served and three waiting: the queue is full now and then, so that there is something to refuse.
    threads = in_threads(6, lambda: measured.append(load(server.port, 12)))
    time.sleep(8)
    for query in panel_queries():
        asked = query
        for name, word in VARIABLES.items():
            asked = asked.replace(name, word)
        seen[query] = prometheus.ask(asked)
    for thread in threads:
        thread.join()
    assert all(values and all(math.isfinite(value) for value in values) for values in seen.values()), seen
    busy = [query for query in seen if "process_" not in query]
    assert all(max(seen[query]) > 0 for query in busy), seen
    metric, label = variable_query()
    assert prometheus.get(f"/api/v1/label/{label}/values", **{"match[]": metric}) == [f"127.0.0.1:{server.port}"]
    sent = {code: sum(counts.get(error, 0) for counts in measured) for code, error in ERRORS.items()}
    assert sent["429"] > 0

    def counted(code, word):
        return prometheus.ask(f'diffsweep_requests_total{{code="{code}", is_warmup="{word}"}}')

    wait_for(lambda: counted("200", "false") == [sent["200"]])
    assert counted("429", "false") == [sent["429"]]
    assert counted("200", "true") == [warm[None]]
    assert prometheus.ask("diffsweep_requests_in_progress") == [0]


def test_the_exposition_and_the_configuration_pass_prometheus_own_checks(watched, programs):
    server, _ = watched
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read()
    connection.close()
    lint = subprocess.run([programs / "promtool", "check", "metrics"], input=text, capture_output=True)
    assert lint.returncode == 0 and not lint.stderr, lint.stderr
    checked = subprocess.run([programs / "promtool", "check", "config", GRAFANA / "prometheus.yml"])
    assert checked.returncode == 0
