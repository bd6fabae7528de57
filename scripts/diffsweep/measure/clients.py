"""One client of the endpoint: a kept-alive connection that blocks in a socket read, and the client's clocks."""

import base64
import binascii
import http.client
import json
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from diffsweep.serving.parsing import WARMUP_HEADER

PATH = "/v1/images/generations"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Reply:
    """What came of one request. Times on time.perf_counter's scale but for sent_unix_s; error: its kind, None when ok.

    Kinds: "http <status>", "timeout", "connection", "garbage". detail: a sentence about the error.
    """

    sent_unix_s: float
    sent_s: float
    done_s: float
    first_byte_s: float | None = None
    metrics: Mapping[str, Any] | None = None
    images: int = 0
    error: str | None = None
    detail: str | None = None

    @property
    def e2e_s(self) -> float:
        return self.done_s - self.sent_s

    @property
    def batch_size(self) -> int | None:
        return (self.metrics or {}).get("batch_size")


class Garbage(Exception):
    """A reply that says 200 and is no image."""


def request_body(model: Mapping, variant: Mapping, prompt: str, seed: int) -> bytes:
    """One image by `variant`'s settings, as openai's client would send it with the extra fields."""
    fields = {
        "model": model["name"],
        "prompt": prompt,
        "n": 1,
        "size": f"{model['width']}x{model['height']}",
        "response_format": "b64_json",
        "output_format": "png",
        "seed": seed,
        "num_inference_steps": variant["steps"],
        "guidance_scale": variant["guidance"],
        "scheduler": variant["scheduler"],
    }
    return json.dumps(fields).encode()


class Client:
    """A connection to a server on this machine. Not for several threads at once, but for `abort`."""

    def __init__(self, port: int, timeout_s: float):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Open the connection now, so that no request pays for it. Raises OSError."""
        self._connection.connect()

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        """Make a `generate` that blocks in another thread return (with an error)."""
        connected = self._connection.sock
        if connected is not None:
            with suppress(OSError):  # it was closed already
                connected.shutdown(socket.SHUT_RDWR)

    def generate(self, body: bytes, warmup: bool = False) -> Reply:
        """Send one request and wait for the whole reply. Whatever goes wrong is in the reply; nothing is raised.

        warmup: what the server's /metrics shall count it as.
        """
        headers = {**HEADERS, WARMUP_HEADER: "true"} if warmup else HEADERS
        sent_unix_s, sent_s = time.time(), time.perf_counter()
        try:
            self._connection.request("POST", PATH, body, headers)
            response = self._connection.getresponse()
            first_byte_s = time.perf_counter()
            payload = response.read()
        except (OSError, http.client.HTTPException) as error:
            done_s = time.perf_counter()
            self._connection.close()  # the next request opens a new one
            return Reply(sent_unix_s, sent_s, done_s, error=_kind(error), detail=self._explain(error))
        done_s = time.perf_counter()
        return _judge(response.status, payload, Reply(sent_unix_s, sent_s, done_s, first_byte_s - sent_s))

    def _explain(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _kind(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    # RemoteDisconnected is both an OSError and an HTTPException: nothing came back, so the connection was lost.
    return "connection" if isinstance(error, OSError) else "garbage"


def _judge(status: int, payload: bytes, clocks: Reply) -> Reply:
    times = (clocks.sent_unix_s, clocks.sent_s, clocks.done_s, clocks.first_byte_s)
    if status != 200:
        return Reply(*times, error=f"http {status}", detail=_error_sentence(payload))
    try:
        images, metrics = read_reply(payload)
    except Garbage as error:
        return Reply(*times, error="garbage", detail=str(error))
    return Reply(*times, metrics=metrics, images=images)


def _error_sentence(payload: bytes) -> str:
    """The sentence of an error reply in openai's form, or the beginning of whatever it was."""
    try:
        return str(json.loads(payload)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return payload[:200].decode("utf-8", "replace")


def read_reply(payload: bytes) -> tuple[int, dict[str, Any]]:
    """(number of images, metrics) of a good reply. Raises Garbage."""
    try:
        document = json.loads(payload)
        images, metrics = document["data"], document["metrics"]
        heads = [base64.b64decode(image["b64_json"], validate=True)[: len(PNG_MAGIC)] for image in images]
        seconds = [metrics[name] for name in SERVER_CLOCKS]
        steps = list(metrics["step_s"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise Garbage(f"the reply is not one of the endpoint: {type(error).__name__}: {error}"[:300]) from None
    if not heads or any(head != PNG_MAGIC for head in heads):
        raise Garbage("the reply holds no PNG image")
    if not all(isinstance(value, int | float) for value in [*seconds, *steps, metrics.get("batch_size", 1)]):
        raise Garbage("the reply's metrics are not numbers")
    return len(images), metrics


SERVER_CLOCKS = ("queue_s", "prompt_encode_s", "setup_s", "decode_s", "image_encode_s", "total_s")


def split_clocks(reply: Reply) -> dict[str, Any]:
    """The parts of a good reply's end-to-end time, in seconds (METHOD.md, "Clocks"); rounded to 0.1 microseconds. And
    batch_size, the images of the call that it ran in; None when the server does not say.

    transfer_s is the client's time less the server's: sending, HTTP both ways, receiving. residual_s is what remains
    of the server's time: work after the last step, handing over between threads.
    """
    metrics = reply.metrics
    parts = {name: round(metrics[name], 7) for name in SERVER_CLOCKS[:-1]}
    step_s = [round(step, 7) for step in metrics["step_s"]]
    e2e_s, server_s = round(reply.e2e_s, 7), round(metrics["total_s"], 7)
    return {
        "e2e_s": e2e_s,
        "first_byte_s": round(reply.first_byte_s, 7),
        "step_s": step_s,
        **parts,
        "transfer_s": round(e2e_s - server_s, 7),
        "residual_s": round(server_s - sum(parts.values()) - sum(step_s), 7),
        "batch_size": reply.batch_size,
    }
