"""The endpoint: what it accepts, what it refuses and how, with openai's own client and by hand."""

import base64
import http.client
import io
import json
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy
import openai
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffsweep.measure import monitor
from diffsweep.measure.clients import Client, split_clocks
from diffsweep.serving.parsing import BadRequest, Service, parse_request

PROJECT = Path(__file__).resolve().parents[1]
IN_ENV = [sys.executable, str(PROJECT / "scripts" / "in_env"), "torch"]
PATH = "/v1/images/generations"


class Server:
    """A running server: `port`, `process`, and ways to ask it."""

    def __init__(self, port, process):
        self.port, self.process = port, process
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)

    def post(self, body, path=PATH, headers=None, method="POST"):
        """(status, document) of a request with the bytes `body`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        status, payload = response.status, response.read()
        connection.close()
        return status, json.loads(payload)

    def generate(self, **fields):
        return self.post(json.dumps(fields).encode())


@contextmanager
def running(command, folder):
    ready = folder / "ready.json"
    process = subprocess.Popen([*command, "--ready", str(ready)], cwd=PROJECT)
    try:
        while not ready.exists():
            assert process.poll() is None, "the server ended before it was ready"
            time.sleep(0.02)
        yield Server(json.loads(ready.read_text())["port"], process)
    finally:
        process.kill()
        process.wait()


def fake_app(folder, *options):
    """The real app over a pipeline of noise; 64x48 pixels, DDIM, 5 steps of 2 ms."""
    path = ["env", f"PYTHONPATH={PROJECT / 'scripts'}", "python", str(PROJECT / "tests" / "fakes" / "app.py")]
    return running([*IN_ENV, *path, *options], folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with fake_app(tmp_path_factory.mktemp("server")) as started:
        yield started


def pixels(image):
    return numpy.asarray(Image.open(io.BytesIO(base64.b64decode(image))))


# --- with openai's client ---


def test_openai_client_gets_the_images_it_asks_for(server):
    extra = {"seed": 7, "num_inference_steps": 3, "guidance_scale": 2.5, "negative_prompt": "", "scheduler": "dpm++"}
    asked = {"model": "reference", "prompt": "a circle", "n": 3, "size": "64x48"}
    reply = server.client.images.generate(**asked, response_format="b64_json", output_format="png", extra_body=extra)
    images = [pixels(image.b64_json) for image in reply.data]
    assert [image.shape for image in images] == [(48, 64, 3)] * 3
    assert [set(image.ravel().tolist()) for image in images] == [{7}, {8}, {9}]
    assert reply.output_format == "png" and reply.size == "64x48" and reply.usage is None
    assert reply.created == pytest.approx(time.time(), abs=60)
    metrics = reply.model_extra["metrics"]
    assert len(metrics["step_s"]) == 3 and min(metrics["step_s"]) >= 0.002
    parts = ("queue_s", "prompt_encode_s", "setup_s", "decode_s", "image_encode_s")
    assert sum(metrics[name] for name in parts) + sum(metrics["step_s"]) <= metrics["total_s"]


def test_openai_client_needs_no_more_than_a_prompt(server):
    reply = server.client.images.generate(prompt="", quality="auto", user="me", size="auto")
    assert len(reply.data) == 1 and len(reply.model_extra["metrics"]["step_s"]) == 5


def test_seeds_that_are_not_given_differ(server):
    seeds = {server.client.images.generate(prompt="x").model_extra["seed"] for _ in range(4)}
    assert len(seeds) > 1


def test_openai_client_lists_the_model(server):
    assert [model.id for model in server.client.models.list()] == ["reference"]
    assert server.client.models.retrieve("reference").id == "reference"
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("other")


def test_openai_client_raises_its_own_errors(server):
    with pytest.raises(
        openai.BadRequestError, match="prompt has 10000 characters; at most 4000 are accepted"
    ) as caught:
        server.client.images.generate(prompt="x" * 10_000)
    assert caught.value.param == "prompt" and caught.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="no model 'dall-e-3' here"):
        server.client.images.generate(prompt="x", model="dall-e-3")
    with pytest.raises(openai.InternalServerError, match="The pipeline failed: RuntimeError: fail: on purpose"):
        server.client.images.generate(prompt="fail: on purpose")
    assert server.client.images.generate(prompt="x").data


def test_health(server):
    assert server.post(None, "/health", method="GET") == (200, {"status": "ok"})


# --- bad input ---

BAD = {
    "no prompt": (b"{}", 400, "prompt is missing"),
    "null prompt": (b'{"prompt": null}', 400, "prompt is missing"),
    "long prompt": (json.dumps({"prompt": "x" * 10_000}).encode(), 400, "prompt has 10000 characters"),
    "long negative": (json.dumps({"prompt": "", "negative_prompt": "x" * 9999}).encode(), 400, "negative_prompt has"),
    "not UTF-8": (b'{"prompt": "\xff\xfe"}', 400, "not UTF-8"),
    "UTF-16": ('{"prompt": "x"}'.encode("utf-16"), 400, "not UTF-8"),
    "half a character": (b'{"prompt": "\\ud800"}', 400, "not valid Unicode"),
    "number as prompt": (b'{"prompt": 5}', 400, "prompt must be a string"),
    "list as prompt": (b'{"prompt": ["a"]}', 400, "prompt must be a string"),
    "small size": (b'{"prompt": "", "size": "8x8"}', 400, "size must be '64x48'"),
    "odd size": (b'{"prompt": "", "size": "huge"}', 400, "size must be"),
    "size as number": (b'{"prompt": "", "size": 64}', 400, "size must be"),
    "no image": (b'{"prompt": "", "n": 0}', 400, "n must be a whole number from 1 to 8"),
    "many images": (b'{"prompt": "", "n": 1000}', 400, "n must be"),
    "half an image": (b'{"prompt": "", "n": 1.5}', 400, "n must be"),
    "true images": (b'{"prompt": "", "n": true}', 400, "n must be"),
    "no steps": (b'{"prompt": "", "num_inference_steps": 0}', 400, "num_inference_steps must be"),
    "many steps": (b'{"prompt": "", "num_inference_steps": 100000}', 400, "num_inference_steps must be"),
    "steps as text": (b'{"prompt": "", "num_inference_steps": "5"}', 400, "num_inference_steps must be"),
    "negative seed": (b'{"prompt": "", "seed": -1}', 400, "seed must be"),
    "huge seed": (b'{"prompt": "", "seed": 1' + b"0" * 30 + b"}", 400, "seed must be"),
    "absurd seed": (b'{"prompt": "", "seed": 1' + b"0" * 9000 + b"}", 400, "not valid JSON"),
    "guidance NaN": (b'{"prompt": "", "guidance_scale": NaN}', 400, "guidance_scale must be a number"),
    "guidance infinite": (b'{"prompt": "", "guidance_scale": 1e999}', 400, "guidance_scale must be"),
    "unknown scheduler": (b'{"prompt": "", "scheduler": "magic"}', 400, "scheduler must be 'ddim' or"),
    "unknown model": (b'{"prompt": "", "model": "other"}', 404, "There is no model 'other' here"),
    "model as number": (b'{"prompt": "", "model": 3}', 404, "There is no model"),
    "link wanted": (b'{"prompt": "", "response_format": "url"}', 400, "response_format must be 'b64_json'"),
    "JPEG wanted": (b'{"prompt": "", "output_format": "jpeg"}', 400, "output_format must be 'png'"),
    "stream wanted": (b'{"prompt": "", "stream": true}', 400, "stream must be false"),
    "mistyped field": (b'{"prompt": "", "num_inference_step": 5}', 400, "Unknown field 'num_inference_step'"),
    "not JSON": (b"prompt=x", 400, "not valid JSON"),
    "cut off": (b'{"prompt": "x', 400, "not valid JSON"),
    "nothing": (b"", 400, "not valid JSON"),
    "a list": (b"[]", 400, "must be a JSON object"),
    "deep nesting": (b"[" * 100_000, 400, "not valid JSON"),
    "large body": (b'{"prompt": "' + b"x" * 2_000_000 + b'"}', 413, "larger than 1000000 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_clear_sentence_and_the_server_goes_on(server, name):
    body, status, sentence = BAD[name]
    found, document = server.post(body)
    message = document["error"]["message"]
    assert found == status and sentence in message
    assert len(message) < 300 and "\n" not in message and message.endswith(".")
    assert server.generate(prompt="x", num_inference_steps=1)[0] == 200


def test_unknown_routes_and_methods_answer_alike(server):
    for method, path, status in (("GET", "/nowhere", 404), ("GET", PATH, 405), ("DELETE", "/health", 405)):
        found, document = server.post(None, path, method=method)
        assert found == status and document["error"]["type"] == "invalid_request_error"


def test_curl_may_leave_out_the_content_type(server):
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what `curl -d` says
    assert server.post(b'{"prompt": "x"}', headers=form)[0] == 200


def test_any_unicode_is_a_prompt(server):
    assert server.generate(prompt="🔴 \x00 круг 一个 \u202e")[0] == 200


SERVICE = Service("reference", 64, 64, "ddim", 25, 3.0, ("ddim",))
texts = st.sampled_from(["", "x", "64x64", "ddim", "\ud800", "\x00\n", "5", "x" * 5000])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts, lambda inner: st.lists(inner, max_size=3)
)
field_names = st.sampled_from(["prompt", "n", "size", "seed", "num_inference_steps", "guidance_scale", "scheduler"])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_understood(body):
    try:
        parse_request(body, SERVICE)
    except BadRequest as refused:
        assert 400 <= refused.status < 500 and refused.message.isprintable()


@given(st.dictionaries(field_names, json_values))
def test_any_fields_are_refused_or_within_the_limits(fields):
    try:
        wanted = parse_request(json.dumps(fields).encode(), SERVICE)
    except BadRequest as refused:
        assert 400 <= refused.status < 500 and refused.message.isprintable()
    else:
        assert 1 <= wanted.steps <= 1000 and 0 <= wanted.guidance <= 50 and 1 <= len(wanted.seeds) <= 8
        assert wanted.prompt.encode() is not None and all(0 <= seed < 2**63 for seed in wanted.seeds)


# --- load ---


def in_background(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_full_queue_answers_429(tmp_path):
    with fake_app(tmp_path, "--queue", "1") as server:
        replies = []
        slow = {"prompt": "x", "num_inference_steps": 500}
        threads = [in_background(lambda: replies.append(server.generate(**slow)))]
        time.sleep(0.3)  # the first runs
        threads.append(in_background(lambda: replies.append(server.generate(**slow))))
        time.sleep(0.3)  # the second waits
        with pytest.raises(openai.RateLimitError, match="The queue is full"):
            server.client.images.generate(prompt="x")
        for thread in threads:
            thread.join()
        assert [status for status, _ in replies] == [200, 200]
        waited_s = sorted(document["metrics"]["queue_s"] for _, document in replies)
        assert waited_s[0] < 0.3 < waited_s[1]
        assert server.generate(prompt="x")[0] == 200


def test_a_client_that_leaves_is_not_waited_for(server):
    running = in_background(lambda: server.generate(prompt="x", num_inference_steps=300))
    time.sleep(0.2)
    gone = http.client.HTTPConnection("127.0.0.1", server.port)
    gone.request("POST", PATH, json.dumps({"prompt": "x", "num_inference_steps": 1000}))  # takes 2 s
    time.sleep(0.1)
    gone.close()
    _, document = server.generate(prompt="x", num_inference_steps=1)
    assert document["metrics"]["queue_s"] < 2
    running.join()


def test_a_reply_is_not_held_back(server):
    client = Client(server.port, timeout_s=60)
    client.connect()
    body = json.dumps({"prompt": "x", "num_inference_steps": 1}).encode()
    transfer_s = [split_clocks(client.generate(body))["transfer_s"] for _ in range(20)]
    client.close()
    assert statistics.median(transfer_s) < 0.02  # Nagle's algorithm with delayed acknowledgements makes it 0.04


def test_a_server_that_waits_uses_no_cpu(server):
    server.generate(prompt="x")
    processes = [server.process.pid]
    before_s = monitor.cpu_s(processes)
    time.sleep(2)
    assert monitor.cpu_s(processes) - before_s <= monitor.TICK_S


# --- the reference model, by scripts/serve.py ---

MODEL = PROJECT / "resources" / "reference-model"
AXES = {"engine": "torch", "precision": "fp32", "compile": False}
BATCHING = {"max_batch": 3, "max_wait_ms": 5}
SPEC = {
    "model": {"name": "reference", "path": str(MODEL), "width": 64, "height": 64},
    "artifact": {"name": "torch-fp32", **AXES, "threads": 1, "device": "cpu"},
    "variant": {"name": "torch-fp32", **AXES, "scheduler": "ddim", "steps": 3, "guidance": 3.0, "batching": BATCHING},
}
CONVERT = "import sys, pathlib; from diffsweep.engines import pytorch; " + (
    f"pytorch.convert(pathlib.Path({str(MODEL)!r}), None, pathlib.Path(sys.argv[1]), {SPEC['artifact']}, [])"
)


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torch-fp32")
    path = f"PYTHONPATH={PROJECT / 'scripts'}"
    subprocess.run([*IN_ENV, "env", path, "python", "-c", CONVERT, str(folder)], check=True)
    serve = [*IN_ENV, "python", "scripts/serve.py", "--spec", json.dumps(SPEC), "--artifact", str(folder)]
    with running(serve, tmp_path_factory.mktemp("ready")) as started:
        yield started


def test_the_reference_model_makes_the_same_image_from_the_same_seed(real_server):
    def image(seed, **fields):
        reply = real_server.client.images.generate(
            prompt="a large plain red circle on a blue background", extra_body={"seed": seed, **fields}
        )
        return pixels(reply.data[0].b64_json)

    first = image(1)
    assert first.shape == (64, 64, 3) and first.std() > 10
    assert (image(1) == first).all()
    assert (image(2) != first).any()
    assert (image(1, scheduler="euler") != first).any()
    assert (image(1, num_inference_steps=4) != first).any()
    assert (image(1, guidance_scale=1.0) != first).any()


def test_requests_that_wait_are_made_together_and_each_gets_the_image_it_would_get_alone(real_server):
    requests = [{"prompt": f"a {colour} circle", "seed": seed} for seed, colour in enumerate(("red", "blue", "green"))]
    alone = [pixels(real_server.generate(**request)[1]["data"][0]["b64_json"]) for request in requests]
    replies = {}

    def ask(place):
        replies[place] = real_server.generate(**requests[place])[1]

    busy = in_background(lambda: real_server.generate(prompt="x", num_inference_steps=60))  # about 1 s
    time.sleep(0.2)
    for thread in [in_background(lambda place=place: ask(place)) for place in range(3)]:
        thread.join()
    busy.join()
    assert [replies[place]["metrics"]["batch_size"] for place in range(3)] == [3, 3, 3]
    for place in range(3):
        together = pixels(replies[place]["data"][0]["b64_json"])
        assert numpy.abs(together.astype(int) - alone[place].astype(int)).max() <= 1
    assert numpy.abs(alone[0].astype(int) - alone[1].astype(int)).max() > 50


def test_the_clocks_of_a_real_request_add_up(real_server):
    reply = real_server.client.images.generate(prompt="a red circle", n=2, extra_body={"num_inference_steps": 6})
    metrics = reply.model_extra["metrics"]
    assert len(reply.data) == 2 and len(metrics["step_s"]) == 6 and min(metrics["step_s"]) > 0
    parts = ("queue_s", "prompt_encode_s", "setup_s", "decode_s", "image_encode_s")
    known_s = sum(metrics[name] for name in parts) + sum(metrics["step_s"])
    assert 0.8 * metrics["total_s"] < known_s <= metrics["total_s"]


def test_odd_prompts_are_served_and_bad_ones_refused(real_server):
    suite = yaml.safe_load((PROJECT / "config" / "prompts" / "edge.yaml").read_text())
    for prompt in suite["prompts"]:
        status, document = real_server.generate(prompt=prompt, num_inference_steps=1)
        assert status == 200, document
    for body, status, sentence in BAD.values():
        found, document = real_server.post(body.replace(b"64x48", b"64x64"))
        assert found == status and sentence.replace("64x48", "64x64") in document["error"]["message"]
    assert real_server.generate(prompt="", num_inference_steps=1)[0] == 200


def test_an_artifact_that_cannot_be_loaded_is_said_in_the_ready_file(tmp_path):
    ready = tmp_path / "ready.json"
    serve = [*IN_ENV, "python", "scripts/serve.py", "--spec", json.dumps(SPEC), "--artifact", str(tmp_path)]
    done = subprocess.run([*serve, "--ready", str(ready)], cwd=PROJECT, stderr=subprocess.PIPE)
    said = json.loads(ready.read_text())
    assert done.returncode != 0 and said["status"] == "failed" and said["problem"]
