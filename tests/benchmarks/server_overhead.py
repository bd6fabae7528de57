"""What our server costs: sampling through HTTP against a bare loop around the same pipeline.

Both run in one process, on one pipeline object and in one thread, alternating A B B A request by request, so that
nothing else can differ; the client is a process of its own, as in a measurement. Prints the ratios of sampling times
(undisturbed steps, as a sweep compares them; the goal is 1 within 1 %), of whole requests, and of the process's CPU
time, each with its 95 % interval from groups of pairs, and as JSON in the last line. Exits with 1 when sampling is
slower by more than 1 % beyond doubt.

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffsweep.analysis.stats import Estimate

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))
LIMIT = 1.01
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
        from diffsweep.measure.clients import Client

        inside = ["env", f"PYTHONPATH={PROJECT / 'scripts'}", "python", __file__, "--inside", folder]
        settings = ["--model", str(options.model), "--steps", str(options.steps), "--threads", str(options.threads)]
        command = [sys.executable, str(PROJECT / "scripts" / "in_env"), "torch", *inside, *settings]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.client = Client(self._read()["port"], timeout_s=600)
        self.client.connect()

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


def measure(subject: Subject, pairs: int) -> list[tuple[Request, Request]]:
    """(bare, through the server), in turns."""
    for _ in range(WARMUP):
        subject.bare(), subject.http()
    found = []
    for number in range(pairs):
        if number % 2 == 0:
            bare, http = subject.bare(), subject.http()
        else:
            http, bare = subject.http(), subject.bare()
        found.append((bare, http))
    return found


def ratio(pairs: list[tuple[Request, Request]], part: str) -> "Estimate":
    """Undisturbed time through the server / bare, from the ratio of each group of pairs."""
    from diffsweep.analysis import stats  # which the measured process has not got

    logs = []
    for first in range(0, len(pairs) - GROUP + 1, GROUP):
        sides = zip(*pairs[first : first + GROUP], strict=True)
        bare_s, http_s = (float(stats.undisturbed([getattr(r, part) for r in side]).sum()) for side in sides)
        logs.append(math.log(http_s / bare_s))
    return stats.speedup(logs)


def report(pairs: list[tuple[Request, Request]], out: Path | None) -> int:
    """Print the comparison, and keep it at `out`; the exit code."""
    parts = {"sampling": "step_s", "whole": "whole_s", "cpu": "cpu_s"}
    found = {name: ratio(pairs, part) for name, part in parts.items()}
    for name, compared in found.items():
        interval = f"{compared.low:.4f} to {compared.high:.4f}"
        print(f"{name}: through the server / bare {compared.value:.4f} ({interval})")
    bare_s, http_s = (statistics.median(r.whole_s for r in side) for side in zip(*pairs, strict=True))
    print(f"medians of whole requests: bare {bare_s:.4f} s, through the server {http_s:.4f} s")
    sampling = found["sampling"]
    verdict = "too slow" if sampling.low > LIMIT else "cannot tell" if sampling.high > LIMIT else "within 1 %"
    print(f"verdict: {verdict}")
    print(json.dumps({**{name: asdict(e) for name, e in found.items()}, "pairs": len(pairs), "verdict": verdict}))
    if out:
        from figures import RATIO, Figure, keep

        ends = {"": sampling.value, ", interval from": sampling.low, ", interval to": sampling.high}
        kept = [
            Figure(f"sampling: through the server / bare{end}", value, RATIO, None if end else LIMIT)
            for end, value in ends.items()
        ]
        whole = Figure("whole request: through the server / bare", found["whole"].value, RATIO)
        keep(out, Path(__file__).stem, [*kept, whole])
    return int(verdict == "too slow")


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
            pairs = measure(subject, options.pairs)
        finally:
            subject.process.kill()
            subject.process.wait()
    sys.exit(report(pairs, options.out))


if __name__ == "__main__":
    main()
