"""Nsight Systems around a variant's server, on machines that have `nsys`: what the GPU ran for some requests.

`launch` starts the server in a session, `start` and `stop` bracket the requests, `stats` sums up the kernels
(https://docs.nvidia.com/nsight-systems/UserGuide). The report, .nsys-rep, opens in Nsight Systems.
"""

import csv
import io
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from diffsweep.measure.clients import Client
from diffsweep.sweep.files import read_json
from diffsweep.sweep.outcomes import Failed, Unsupported
from diffsweep.traces.operators import Operator, Trace, table

SOURCES = "cuda,cudnn,cublas,nvtx,osrt"
NO_SAMPLES = ("--sample=none", "--cpuctxsw=none")  # the CPU is not sampled: only what was asked for is traced
REPORT = "server.nsys-rep"
NOTE = "the kernels that ran on the GPU"
NO_KERNEL = "no kernel ran on a GPU; the raw trace holds the server's threads and its calls of the operating system"
POLL_S = 0.1


def find_nsys() -> str:
    """The path of nsys. Raises Unsupported where there is none."""
    found = shutil.which("nsys")
    if found is None:
        raise Unsupported("nsys (NVIDIA Nsight Systems) is not on the PATH")
    return found


def trace_server(server: Sequence[str], ready: Path, body: bytes, out: Path, timeout_s: float) -> Trace:
    """Start `server`, which writes its port into `ready`, send `body` twice, and trace the second time.

    Raises Unsupported without nsys, Failed when nsys or the server fails.
    """
    nsys, session = find_nsys(), f"diffsweep-{os.getpid()}"
    log = out / ".nsys.log"
    with open(log, "wb") as said:
        launch = [nsys, "launch", f"--session-new={session}", f"--trace={SOURCES}", *server]
        process = subprocess.Popen(launch, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
    try:
        client = Client(_port(ready, process, log, timeout_s), timeout_s)
        _ask(client, body)
        start = [f"--session={session}", f"--output={out / REPORT}", "--force-overwrite=true", *NO_SAMPLES]
        run([nsys, "start", *start], timeout_s)
        traced_s = _ask(client, body)
        run([nsys, "stop", f"--session={session}"], timeout_s)
        client.close()
    finally:
        _end(process, nsys, session)
        log.unlink(missing_ok=True)
    if not (out / REPORT).exists():
        raise Failed(f"nsys stopped and left no {REPORT}")
    operators = kernels(run(stats_command(nsys, out / REPORT), timeout_s))
    (out / REPORT).with_suffix(".sqlite").unlink(missing_ok=True)  # what `stats` made of the report to read it
    return Trace(operators, [REPORT], traced_s, NOTE if operators else NO_KERNEL)


def stats_command(nsys: str, report: Path) -> list[str]:
    return [
        nsys,
        "stats",
        "--report=cuda_gpu_kern_sum",
        "--format=csv",
        "--force-export=true",
        "--output=-",
        str(report),
    ]


def _port(ready: Path, process: subprocess.Popen, log: Path, timeout_s: float) -> int:
    """The port, when the server is ready. nsys may end after it has launched it; not before, and not with an error."""
    deadline = time.monotonic() + timeout_s
    while not ready.exists():
        if process.poll():
            raise Failed(f"nsys launch ended with {process.returncode}: {_last_line(log.read_bytes())}")
        if time.monotonic() > deadline:
            raise Failed(f"the server under nsys was not ready within {timeout_s:g} s")
        time.sleep(POLL_S)
    document = read_json(ready)
    if "port" not in document:
        raise Failed(f"the server under nsys could not load its artifact: {document.get('problem')}")
    return document["port"]


def _ask(client: Client, body: bytes) -> float:
    """Send a request; seconds until its answer was there. Raises Failed when it is no image."""
    reply = client.generate(body)
    if reply.error is not None:
        raise Failed(f"the server under nsys failed a request ({reply.error}): {reply.detail}")
    return reply.e2e_s


def run(command: Sequence[str], timeout_s: float) -> str:
    """The standard output of a command. Raises Failed with its last words."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise Failed(f"nsys {command[1]} did not end within {timeout_s:g} s") from None
    if done.returncode:
        raise Failed(f"nsys {command[1]} ended with {done.returncode}: {_last_line(done.stderr or done.stdout)}")
    return done.stdout.decode(errors="replace")


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")


def _end(process: subprocess.Popen, nsys: str, session: str) -> None:
    """End the session and the server in it."""
    with suppress(Failed):  # it may have ended by itself
        run([nsys, "shutdown", f"--session={session}", "--kill=sigkill"], 60)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    process.kill()
    process.wait()


def kernels(output: str) -> list[Operator]:
    """The table in what `nsys stats` printed: CSV below some lines of progress; empty when no kernel ran."""
    lines = output.splitlines()
    head = next((place for place, line in enumerate(lines) if "Total Time (ns)" in line), None)
    if head is None:
        return []
    rows = [row for row in csv.DictReader(io.StringIO("\n".join(lines[head:]))) if row.get("Name")]
    counts = {row["Name"]: int(row["Instances"]) for row in rows}
    return table(counts, {row["Name"]: float(row["Total Time (ns)"]) / 1e9 for row in rows})
