"""A server as scripts/serve.py is one, with known service times and faults on demand, made of sleeps.

The artifact in its spec says how it behaves: {"service_s": [...]} are the seconds it takes per request, cycled, one
request at a time; {"load_s": S} until it is ready; {"fault": KIND, "at": N} makes something go wrong with the Nth
request (from 1) and those after it.
"""

import argparse
import base64
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and pixels").decode()


def answer(service_s: float, steps: int, received_s: float) -> dict:
    """Sleep for a request: 10 % encoding, 80 % steps, 10 % decoding."""
    started_s = time.perf_counter()
    time.sleep(service_s)
    took_s = time.perf_counter() - started_s
    parts = {
        "prompt_encode_s": took_s * 0.1,
        "setup_s": 0.0,
        "step_s": [took_s * 0.8 / steps] * steps,
        "decode_s": took_s * 0.1,
    }
    metrics = {"queue_s": started_s - received_s, **parts, "image_encode_s": 0.0}
    return {"data": [{"b64_json": PNG}], "metrics": {**metrics, "total_s": time.perf_counter() - received_s}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    artifact: dict
    numbers = itertools.count(1)
    pipeline = threading.Lock()
    times: itertools.cycle

    def do_POST(self) -> None:
        received_s = time.perf_counter()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.pipeline:
            number, service_s = next(self.numbers), next(self.times)
            if number >= self.artifact.get("at", float("inf")):
                return self.fault(self.artifact["fault"])
            self.reply(200, json.dumps(answer(service_s, body["num_inference_steps"], received_s)).encode())

    def fault(self, kind: str) -> None:
        if kind == "exit":
            os._exit(3)
        elif kind in ("kill", "segv"):
            os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSEGV)
        elif kind == "hang":
            time.sleep(3600)
        elif kind == "garbage":
            self.reply(200, b"<html>not an image</html>")
        elif kind == "close":
            self.close_connection = True
        else:
            self.reply(int(kind), b'{"error": {"message": "a planted fault"}}')

    def reply(self, status: int, payload: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)
        self.wfile.flush()

    def log_message(self, *_arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 256  # as many connections at once as an open loop makes


def say_ready(path: str, **document: object) -> None:
    with open(f"{path}.partial", "w") as file:
        json.dump(document, file)
    os.replace(f"{path}.partial", path)


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("--spec", "--artifact", "--port", "--ready"):
        parser.add_argument(option, required=True)
    options = parser.parse_args()
    Handler.artifact = json.loads(options.spec)["artifact"]
    Handler.times = itertools.cycle(Handler.artifact.get("service_s", [0.01]))
    if "processes" in Handler.artifact:  # something it started, and where to find all of them
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        with open(Handler.artifact["processes"], "a") as file:
            file.write(f"{os.getpid()}\n{helper.pid}\n")
    time.sleep(Handler.artifact.get("load_s", 0))
    if "problem" in Handler.artifact:
        say_ready(options.ready, problem=Handler.artifact["problem"], status=Handler.artifact["status"])
        sys.exit(1)
    server = Server(("127.0.0.1", 0), Handler)
    say_ready(options.ready, port=server.server_address[1], pid=os.getpid(), load_s=0.0)
    server.serve_forever(poll_interval=3600)


if __name__ == "__main__":
    main()
