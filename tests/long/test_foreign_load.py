"""Locust against the endpoint agrees with our own load; scripts/load/k6.js asks for images, and looks for them."""

import json
import shutil
import statistics
import subprocess
import sys

import pytest

from conftest import PROJECT
from diffsweep.measure.capacity import run_level, summarise_level
from diffsweep.measure.clients import Client
from diffsweep.measure.records import read_capacity
from diffsweep.serving.parsing import Service, parse_request
from import_load import figures
from test_server import fake_app

IN_ENV = [sys.executable, str(PROJECT / "scripts" / "in_env"), "locust"]
STEP_S = 0.2  # as long as models' requests are here; of 0.05 s, 3 % are less than what this machine's pace changes
FIELDS = {"num_inference_steps": 1}  # one sleep: a service time that is fixed but for the kernel's timer
SECONDS = 12
ROUNDS = 3
AGREE_WITHIN = 0.03


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_STEP_S", str(STEP_S))
        with fake_app(tmp_path_factory.mktemp("server")) as started:
            yield started


def by_locust(server, clients, folder):
    """The figures of a headless run of the locustfile, through the import."""
    events, records = folder / "locust.jsonl", folder / "capacity.jsonl"
    command = [*IN_ENV, "python", "-m", "locust", "-f", "scripts/load/locustfile.py", "--headless", "--only-summary"]
    load = ["--users", clients, "--spawn-rate", clients, "--run-time", f"{SECONDS}s", "--records", events]
    target = ["--host", f"http://127.0.0.1:{server.port}", "--fields", json.dumps(FIELDS)]
    subprocess.run([str(part) for part in (*command, *load, *target)], cwd=PROJECT, check=True)
    program = [sys.executable, PROJECT / "scripts" / "import_load.py", events, "--out", records]
    subprocess.run(program, check=True)
    return figures(read_capacity(records))


def by_us(server, clients):
    """(requests/s, median latency in s) by our own closed loop, in half of Locust's time."""
    body = json.dumps({"prompt": "x", **FIELDS}).encode()
    connections = [Client(server.port, timeout_s=60) for _ in range(clients)]
    for connection in connections:
        connection.connect()
    completions = run_level(connections, [body], measured=round(SECONDS / STEP_S / 2))
    for connection in connections:
        connection.close()
    level = summarise_level(clients, completions)
    assert level["valid"], level["reason"]
    return level["requests_per_s"], statistics.median(c.done_s - c.sent_s for c in completions if c.steady)


@pytest.mark.parametrize("clients", [1, 4])
def test_locust_agrees_with_our_load(server, clients, tmp_path):
    """The middle of a few rounds, since the machine may change its pace in one of them."""
    rounds = [ratios(server, clients, tmp_path) for _ in range(ROUNDS)]
    throughput, median = map(statistics.median, zip(*rounds, strict=True))
    print(f"{clients} clients, Locust / ours: throughput {throughput:.3f}, median latency {median:.3f}")
    assert throughput == pytest.approx(1, rel=AGREE_WITHIN)
    assert median == pytest.approx(1, rel=AGREE_WITHIN)


def ratios(server, clients, folder):
    """Locust's throughput and median latency over ours, which are measured before and after it."""
    before, theirs, after = by_us(server, clients), by_locust(server, clients, folder), by_us(server, clients)
    assert theirs["level"] == clients and theirs["requests"] > 50
    requests_per_s, median_s = map(statistics.fmean, zip(before, after, strict=True))
    return theirs["requests_per_s"] / requests_per_s, theirs["latency_p50_s"] / median_s


# k6's modules, as far as the script uses them: what is sent is printed.
K6 = {
    "http": "export default { post: (url, body, params) => "
    "{ console.log(JSON.stringify({ url, body, params })); return globalThis.reply; } };",
    "metrics": "export class Counter { constructor(name) { this.name = name } "
    "add(value, tags) { console.log(JSON.stringify({ metric: this.name, value, tags })) } } "
    "export class Rate extends Counter {}",
}
# Replies, and how many images are in them.
IMAGE = {"b64_json": "iVBORw0KGgo="}
REPLIES = [
    ({"status": 200, "body": json.dumps({"data": [IMAGE, IMAGE]})}, 2),
    ({"status": 500, "body": json.dumps({"data": [IMAGE]})}, 0),
    ({"status": 0, "body": None}, 0),
    ({"status": 200, "body": "<html>"}, 0),
    ({"status": 200, "body": "{}"}, 0),
    ({"status": 200, "body": json.dumps({"data": []})}, 0),
    ({"status": 200, "body": json.dumps({"data": [IMAGE, {"b64_json": ""}]})}, 0),
    ({"status": 200, "body": json.dumps({"data": "abc"})}, 0),
]
CALL = """
globalThis.__ENV = { CLIENTS: '3', DURATION: '20s', FIELDS: '{"num_inference_steps": 7}' };
globalThis.__VU = 2; globalThis.__ITER = 5;
const script = await import('./script.mjs');
for (globalThis.reply of REPLIES) script.default();
script.teardown();
console.log(JSON.stringify(script.options.scenarios.closed));
console.log(JSON.stringify(script.handleSummary({ metrics: {} })));
"""


@pytest.fixture(scope="module")
def node():
    if not shutil.which("node"):
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        subprocess.run(["apt-get", "-qq", "install", "--no-install-recommends", "nodejs"], check=True)
    return shutil.which("node")


def test_the_k6_script_sends_requests_that_the_endpoint_takes(node, tmp_path):
    modules = tmp_path / "node_modules" / "k6"
    modules.mkdir(parents=True)
    for name, code in K6.items():
        (modules / f"{name}.mjs").write_text(code)
    exports = {f"./{name}": f"./{name}.mjs" for name in K6}
    (modules / "package.json").write_text(json.dumps({"name": "k6", "type": "module", "exports": exports}))
    shutil.copy(PROJECT / "scripts" / "load" / "k6.js", tmp_path / "script.mjs")
    (tmp_path / "call.mjs").write_text(CALL.replace("REPLIES", json.dumps([reply for reply, _ in REPLIES])))
    done = subprocess.run([node, "call.mjs"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    *asked, complete, scenario, summary = map(json.loads, done.stdout.splitlines())
    sent, tags = asked[0], {"client": "2"}
    for (_, count), images, failed in zip(REPLIES, asked[1::3], asked[2::3], strict=True):
        assert images == {"metric": "diffsweep_images", "value": count, "tags": tags}
        assert failed == {"metric": "diffsweep_failed", "value": count == 0, "tags": tags}
    wanted = parse_request(sent["body"].encode(), Service("reference", 64, 64, "ddim", 25, 3.0, ("ddim",)))
    assert wanted.steps == 7 and wanted.prompt and wanted.seeds == (2000005,)
    assert sent["url"] == "http://127.0.0.1:8000/v1/images/generations"
    assert sent["params"]["tags"] == tags
    assert complete == {"metric": "diffsweep_complete", "value": 1}
    assert (scenario["executor"], scenario["vus"], scenario["duration"]) == ("constant-vus", 3, "20s")
    assert summary == {"k6-summary.json": '{"metrics":{}}'}
