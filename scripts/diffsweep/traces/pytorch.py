"""Traces of engine `torch`: torch's profiler."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from diffsweep.engines import pytorch
from diffsweep.engines.pipelines import ImageRequest, generate
from diffsweep.engines.torch_trace import record
from diffsweep.traces.chrome import self_times, write_trace
from diffsweep.traces.operators import Trace, tabulate

OPERATORS = ("cpu_op", "user_annotation")  # categories of the profiler's events
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
NOTE = {
    "cpu": "the operators that torch dispatched, as the calling thread spent its time; compiled code is one operator a "
    "graph (Torch-Compiled Region)",
    "device": "the kernels and copies that ran on the GPU",
}


def trace(source: Path, artifact_dir: Path, artifact: dict, requests: Sequence[ImageRequest], out: Path) -> Trace:
    pipeline = pytorch.load(source, artifact_dir, artifact, len(requests))
    generate(pipeline, requests)
    raw = out / ".torch.json"
    began_s = time.perf_counter()
    record(lambda: generate(pipeline, requests), raw)
    traced_s = time.perf_counter() - began_s
    events = json.loads(raw.read_text(encoding="utf-8"))["traceEvents"]
    raw.unlink()
    write_trace(events, out / "torch.json.gz")
    spans = [event for event in events if event.get("ph") == "X"]
    where = "device" if any(event.get("cat") in ON_DEVICE for event in spans) else "cpu"
    wanted = {"device": ON_DEVICE, "cpu": OPERATORS}[where]
    calls = self_times(event for event in spans if event.get("cat") in wanted)
    return Trace(tabulate(calls), ["torch.json.gz"], traced_s, NOTE[where])
