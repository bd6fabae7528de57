"""What measuring costs: requests through our server against a bare loop around the same pipeline, and requests while
the server is watched against the same requests while it is not.

All run in one process, on one pipeline object and in one thread, alternating A B B A request by request, so that
nothing else can differ; the client is a process of its own, as in a measurement, and a thread of it watches the server
four times a second and at both ends of each request, which is more than in a measurement. Prints the ratios of the
denoising loop's times (undisturbed steps, as a sweep compares them; the goals are 1 within 1 % for the server, within
0.5 % for watching it), of whole requests, and of the process's CPU time, each with its 95 % interval from groups of
pairs. Exits with 1 when the loop is slower than its goal beyond doubt.

    .venv/bin/python tests/benchmarks/server_overhead.py [--pairs 200] [--steps 25] [--model FOLDER]
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from figures import Figure

    from diffsweep.analysis.stats import Estimate

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))
LIMITS = {"through the server / bare": 1.01, "watched / not watched": 1.005}
PARTS = {"denoising loop": "step_s", "whole request": "whole_s", "CPU time": "cpu_s"}
GROUP = 10  # pairs that give one ratio; the interval comes from the variation between groups
PROMPT = "a large plain red circle on a blue background"
WARMUP = 3
ARTIFACT = {"name": "torch-fp32", "engine": "torch", "precision": "fp32", "compile": False, "device": "cpu"}


# --- the measured process, in the environment `torch` ---


def serve(model: Path, folder: Path, steps: int, threads: int) -> None:
    """Serve an artifact made of `model`, doing what stdin says: "bare" makes an image, "http" does one request."""
    from diffsweep.engines import load_engine
    from diffsweep.engines.pipelines import ImageRequest, generate
    from diffsweep.serving.http import HttpThread, listen
    from diffsweep.serving.parsing import Service
    from diffsweep.serving.worker import Worker

    engine, artifact = load_engine(ARTIFACT["engine"]), {**ARTIFACT, "threads": threads}
    engine.convert(model, None, folder, artifact, [])
    pipeline = engine.load(model, folder, artifact)
    worker, listener = Worker(limit=1), listen(0)

    def make_app() -> object:
        from diffsweep.serving.app import create_app

        return create_app(Service("reference", 64, 64, "ddim", steps, 3.0, ("ddim",)), worker)

    def make_images(_wanted: object = None) -> tuple:
        return generate(pipeline, [ImageRequest(PROMPT, "", 1, "ddim", steps, 3.0, 64, 64)])

    http = HttpThread(make_app, listener, worker.stop)
    http.start()
    http.wait_until_accepting()
    answer(port=listener.getsockname()[1])
    for command in map(str.strip, sys.stdin):
        if command == "cpu":
            answer(cpu_s=time.process_time())
        elif command == "bare":
            started_s = time.perf_counter()
            _, clocks = make_images()
            answer(whole_s=time.perf_counter() - started_s, step_s=clocks.step_s)
        else:
            answer(ready=True)
            worker.run_next(make_images)


def answer(**document: object) -> None:
    print(json.dumps(document), flush=True)


# --- the client ---


@dataclass(frozen=True)
class Request:
    """One request either way, in seconds: every step, the whole, and the CPU time of the process."""

    step_s: list[float]
    whole_s: float
    cpu_s: float


class Subject:
    """The measured process and a connection to its server."""

    def __init__(self, options: argparse.Namespace, folder: str):
        from diffsweep.measure import gpu
        from diffsweep.measure.clients import Client
        from diffsweep.measure.records import RecordWriter

        inside = ["env", f"PYTHONPATH={PROJECT / 'scripts'}", "python", __file__, "--inside", folder]
        settings = ["--model", str(options.model), "--steps", str(options.steps), "--threads", str(options.threads)]
        command = [sys.executable, str(PROJECT / "scripts" / "in_env"), "torch", *inside, *settings]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.client = Client(self._read()["port"], timeout_s=600)
        self.client.connect()
        self._device, self._samples = gpu.open_device(), RecordWriter(f"{folder}/resources.jsonl")

    def _read(self) -> dict:
        return json.loads(self.process.stdout.readline())

    def _ask(self, command: str) -> dict:
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self._read()

    def bare(self) -> Request:
        before = self._ask("cpu")
        done = self._ask("bare")
        return Request(done["step_s"], done["whole_s"], self._ask("cpu")["cpu_s"] - before["cpu_s"])

    def http(self) -> Request:
        before = self._ask("cpu")
        self._ask("http")
        reply = self.client.generate(json.dumps({"prompt": PROMPT, "seed": 1}).encode())
        if reply.error is not None:
            sys.exit(f"server_overhead: {reply.error}: {reply.detail}")
        return Request(reply.metrics["step_s"], reply.e2e_s, self._ask("cpu")["cpu_s"] - before["cpu_s"])

    def watched(self) -> Request:
        """Also sampled, from before the request until after it."""
        from diffsweep.measure.sampler import Sampler

        with Sampler({"server": [self.process.pid]}, self._device, [self._samples]):
            return self.http()


Pair = tuple[Request, Request]


def measure(one: Callable[[], Request], other: Callable[[], Request], pairs: int) -> list[Pair]:
    """(one, other), in turns A B B A."""
    for _ in range(WARMUP):
        one(), other()
    found = []
    for number in range(pairs):
        if number % 2 == 0:
            found.append((one(), other()))
        else:
            last = other()
            found.append((one(), last))
    return found


def ratio(pairs: list[Pair], part: str) -> "Estimate":
    """Undisturbed time of the other side / the one, from the ratio of each group of pairs."""
    from diffsweep.analysis import stats  # which the measured process has not got

    logs = []
    for first in range(0, len(pairs) - GROUP + 1, GROUP):
        sides = zip(*pairs[first : first + GROUP], strict=True)
        one_s, other_s = (float(stats.undisturbed([getattr(r, part) for r in side]).sum()) for side in sides)
        logs.append(math.log(other_s / one_s))
    return stats.speedup(logs)


def report(what: str, pairs: list[Pair]) -> tuple[list["Figure"], str]:
    """Print a comparison; its figures, and whether the denoising loop kept to its limit."""
    from figures import RATIO, Figure

    found = {name: ratio(pairs, part) for name, part in PARTS.items()}
    for name, compared in found.items():
        print(f"{name}: {what} {compared.value:.4f} ({compared.low:.4f} to {compared.high:.4f})")
    medians_s = (statistics.median(r.whole_s for r in side) for side in zip(*pairs, strict=True))
    print("medians of whole requests: {1:.4f} s against {0:.4f} s".format(*medians_s))
    loop, limit = found["denoising loop"], LIMITS[what]
    verdict = "too slow" if loop.low > limit else "cannot tell" if loop.high > limit else "within the limit"
    print(f"verdict: {verdict} of {limit}", flush=True)
    ends = {"": loop.value, ", interval from": loop.low, ", interval to": loop.high}
    kept = [Figure(f"denoising loop: {what}{end}", value, RATIO, None if end else limit) for end, value in ends.items()]
    return [*kept, Figure(f"whole request: {what}", found["whole request"].value, RATIO)], verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=PROJECT / "resources" / "reference-model")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="the table that keeps the figures")
    options = parser.parse_args()
    if options.inside:
        serve(options.model, options.inside, options.steps, options.threads)
        return
    from diffsweep.measure.host import measuring_alone

    with tempfile.TemporaryDirectory() as folder, measuring_alone():
        subject = Subject(options, folder)
        try:
            sides = ((subject.bare, subject.http), (subject.http, subject.watched))
            told = [report(what, measure(*two, options.pairs)) for what, two in zip(LIMITS, sides, strict=True)]
        finally:
            subject.process.kill()
            subject.process.wait()
    if options.out:
        from figures import keep

        keep(options.out, Path(__file__).stem, [figure for figures, _ in told for figure in figures])
    sys.exit(int(any(verdict == "too slow" for _, verdict in told)))


if __name__ == "__main__":
    main()
