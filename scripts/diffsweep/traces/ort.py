"""Traces of engine `onnxruntime`: ONNX Runtime's profiler, one session a component, put on one clock."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from diffsweep.engines import ort
from diffsweep.engines.onnx_components import assemble
from diffsweep.engines.pipelines import ImageRequest, generate
from diffsweep.sweep.outcomes import Failed
from diffsweep.traces.chrome import group_name, write_trace
from diffsweep.traces.operators import Trace, tabulate

KERNEL = "_kernel_time"  # how the names of events end in which a kernel ran
NOTE = "the kernels of all components; those of two lanes run side by side, so the times add up to more than the call's"


def trace(source: Path, artifact_dir: Path, artifact: dict, requests: Sequence[ImageRequest], out: Path) -> Trace:
    with tempfile.TemporaryDirectory(dir=out) as profiles:
        networks = ort.networks(artifact_dir, artifact, len(requests), profiles)
        pipeline = assemble(source, networks)
        generate(pipeline, requests)
        clock = clock_of(networks["unet"].sessions)
        began_ns = clock()
        generate(pipeline, requests)
        ended_ns = clock()
        events = [
            event
            for group, (component, network) in enumerate(networks.items())
            for session in network.sessions.values()
            for event in [group_name(group, component), *session_events(session, group, began_ns, ended_ns)]
        ]
    kernels = [event for event in events if event["name"].endswith(KERNEL)]
    if not kernels:
        raise Failed("ONNX Runtime's profile holds no kernel of the traced call")
    write_trace(events, out / "onnxruntime.json.gz")
    operators = tabulate((event["args"]["op_name"], event["dur"] / 1e6) for event in kernels)
    return Trace(operators, ["onnxruntime.json.gz"], (ended_ns - began_ns) / 1e9, NOTE)


def clock_of(sessions: Mapping) -> Callable[[], int]:
    """The clock by which ONNX Runtime says when a profile began: its documentation promises the monotonic one; here it
    is the wall's."""
    began_ns = next(iter(sessions.values())).get_profiling_start_time_ns()
    return min((time.time_ns, time.monotonic_ns), key=lambda clock: abs(clock() - began_ns))


def session_events(session, group: int, began_ns: int, ended_ns: int) -> Iterator[dict]:
    """The events of a session between two moments, which end its profile; times from the first moment on."""
    offset_us = (session.get_profiling_start_time_ns() - began_ns) / 1e3
    for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
        if "ts" in event:
            moment_us = event["ts"] + offset_us
            if 0 <= moment_us <= (ended_ns - began_ns) / 1e3:
                yield {**event, "pid": group, "ts": moment_us}
