"""What our server costs: sampling through HTTP against a bare loop around the same pipeline.

Both run in one process, on one pipeline object and in one thread, alternating A B B A request by request, so that
nothing else can differ; the client is a process of its own, as in a measurement. Prints the ratios of sampling times
(the sum of the steps; the goal is 1 within 1 %), of whole requests, of the process's CPU time, and of the CPU time of
the thread that samples (which a busy machine disturbs least, with --threads 1), each with its 95 % interval, and as
JSON in the last line. Exits with 1 when sampling is slower by more than 1 % beyond doubt.

    .venv/bin/python tests/benchmarks/server_overhead.py [--pairs 100] [--steps 10] [--model FOLDER]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
LIMIT = 1.01
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

    thread_s = [0.0]

    def make_images(_wanted: object = None) -> tuple:
        started_s = time.thread_time()
        images, clocks = generate(pipeline, [ImageRequest(PROMPT, "", 1, "ddim", steps, 3.0, 64, 64)])
        thread_s[0] = time.thread_time() - started_s
        return images, clocks

    http = HttpThread(make_app, listener, worker.stop)
    http.start()
    http.wait_until_accepting()
    answer(port=listener.getsockname()[1])
    for command in map(str.strip, sys.stdin):
        if command == "cpu":
            answer(cpu_s=time.process_time(), thread_s=thread_s[0])
        elif command == "bare":
            started_s = time.perf_counter()
            _, clocks = make_images()
            answer(whole_s=time.perf_counter() - started_s, sampling_s=sum(clocks.step_s))
        else:
            answer(ready=True)
            worker.run_next(make_images)


def answer(**document: object) -> None:
    print(json.dumps(document), flush=True)


# --- the client ---


@dataclass(frozen=True)
class Pair:
    """One request each way, in seconds: sampling, the whole, and CPU time of the process and of its sampling thread."""

    bare_sampling_s: float
    bare_whole_s: float
    bare_cpu_s: float
    bare_thread_s: float
    http_sampling_s: float
    http_whole_s: float
    http_cpu_s: float
    http_thread_s: float


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

    def bare(self) -> tuple[float, float, float, float]:
        before = self._ask("cpu")
        done = self._ask("bare")
        after = self._ask("cpu")
        return done["sampling_s"], done["whole_s"], after["cpu_s"] - before["cpu_s"], after["thread_s"]

    def http(self) -> tuple[float, float, float, float]:
        before = self._ask("cpu")
        self._ask("http")
        reply = self.client.generate(json.dumps({"prompt": PROMPT, "seed": 1}).encode())
        if reply.error is not None:
            sys.exit(f"server_overhead: {reply.error}: {reply.detail}")
        after = self._ask("cpu")
        return sum(reply.metrics["step_s"]), reply.e2e_s, after["cpu_s"] - before["cpu_s"], after["thread_s"]


def measure(subject: Subject, pairs: int) -> list[Pair]:
    for _ in range(WARMUP):
        subject.bare(), subject.http()
    found = []
    for number in range(pairs):
        if number % 2 == 0:
            bare, http = subject.bare(), subject.http()
        else:
            http, bare = subject.http(), subject.bare()
        found.append(Pair(*bare, *http))
    return found


def ratio(before: list[float], after: list[float]) -> dict[str, float]:
    """Geometric mean of after / before over pairs, with its 95 % t interval."""
    import math

    from scipy.stats import t

    logs = [math.log(b / a) for a, b in zip(before, after, strict=True)]
    mean, n = statistics.mean(logs), len(logs)
    half = t.ppf(0.975, n - 1) * statistics.stdev(logs) / math.sqrt(n)
    return {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


def report(pairs: list[Pair]) -> int:
    """Print the comparison; the exit code."""
    found = {
        part: ratio([getattr(p, f"bare_{part}_s") for p in pairs], [getattr(p, f"http_{part}_s") for p in pairs])
        for part in ("sampling", "whole", "cpu", "thread")
    }
    for part, compared in found.items():
        interval = f"{compared['low']:.4f} to {compared['high']:.4f}"
        print(f"{part}: through the server / bare {compared['ratio']:.4f} ({interval})")
    median = {field: statistics.median(getattr(p, field) for p in pairs) for field in Pair.__dataclass_fields__}
    print("medians: " + ", ".join(f"{name} {value:.4f}" for name, value in median.items()))
    sampling = found["sampling"]
    verdict = "too slow" if sampling["low"] > LIMIT else "cannot tell" if sampling["high"] > LIMIT else "within 1 %"
    print(f"verdict: {verdict}")
    print(json.dumps({**found, "pairs": len(pairs), "verdict": verdict}))
    return int(verdict == "too slow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=PROJECT / "resources" / "reference-model")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        serve(options.model, options.inside, options.steps, options.threads)
        return
    sys.path.insert(0, str(PROJECT / "scripts"))  # run as a program, outside of pytest
    from diffsweep.measure.host import measuring_alone

    with tempfile.TemporaryDirectory() as folder, measuring_alone():
        subject = Subject(options, folder)
        try:
            pairs = measure(subject, options.pairs)
        finally:
            subject.process.kill()
            subject.process.wait()
    sys.exit(report(pairs))


if __name__ == "__main__":
    main()
