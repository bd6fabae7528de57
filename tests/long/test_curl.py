"""The endpoint, asked by curl itself, as scripts/serve.py shows it."""

import base64
import io
import json
import shutil
import subprocess

import pytest
from PIL import Image

from test_server import PATH, fake_app

JSON = ("--header", "content-type: application/json")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not shutil.which("curl"):
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        subprocess.run(["apt-get", "-qq", "install", "--yes", "curl"], check=True)
    with fake_app(tmp_path_factory.mktemp("server")) as started:
        yield started


def curl(server, *options: str, body: str) -> tuple[int, dict]:
    """(status, document) of what curl got for `body`."""
    command = ["curl", "--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}", *options]
    url = f"localhost:{server.port}{PATH}"
    done = subprocess.run([*command, url, "--data", "@-"], input=body, capture_output=True, text=True, check=True)
    document, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(document)


@pytest.mark.parametrize("options", [JSON, ()], ids=["JSON", "no content type"])
def test_curl_gets_an_image(server, options):
    status, document = curl(server, *options, body='{"prompt": "a large plain red circle", "seed": 1}')
    assert status == 200
    image = Image.open(io.BytesIO(base64.b64decode(document["data"][0]["b64_json"])))
    assert image.format == "PNG" and image.size == (64, 48)


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ("prompt=x", 400, "not valid JSON"),
        ('{"prompt": "' + "x" * 2_000_000 + '"}', 413, "larger than 1000000 bytes"),  # for which curl asks first
    ],
    ids=["a form", "large body"],
)
def test_curl_gets_one_clear_sentence_for_bad_input(server, body, status, sentence):
    found, document = curl(server, *JSON, body=body)
    assert found == status and sentence in document["error"]["message"]
