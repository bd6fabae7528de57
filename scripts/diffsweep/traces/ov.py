"""Traces of engine `openvino`: its performance counters, layer by layer.

OpenVINO counts and draws no timeline. The raw trace shows the calls of the networks as they were timed, and apart from
them each network's layers one after the other, in the order they run, as long as an average call of each took.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffsweep.engines import ov
from diffsweep.engines.onnx_components import COMPONENTS, assemble
from diffsweep.engines.pipelines import ImageRequest, generate
from diffsweep.traces.chrome import complete, group_name, line_name, write_trace
from diffsweep.traces.operators import Trace, table

NOTE = (
    "the layers of all components, an average call's time by the number of calls, in whole microseconds; those of two "
    "lanes run side by side, so the times add up to more than the call's"
)
CALLS, LAYERS = 0, 1  # the groups of the raw trace


@dataclass(frozen=True)
class Call:
    """One call of a network: its component, when, and what ran it."""

    component: str
    began_s: float
    ended_s: float
    bound: Any


@dataclass(frozen=True)
class Layer:
    """What the counters say of a layer: the time of an average call."""

    name: str
    kind: str
    kernel: str
    mean_s: float


class CountedNetwork(ov.CompiledNetwork):
    """Keeps its calls."""

    def __init__(self, component: str, file: Path, precision: str, threads: int, batch: int):
        super().__init__(file, precision, threads, batch, {"PERF_COUNT": True})
        self._component = component
        self.calls: list[Call] = []

    def __call__(self, **inputs: Any) -> Any:
        began_s = time.perf_counter()
        output = super().__call__(**inputs)
        self.calls.append(Call(self._component, began_s, time.perf_counter(), self.bound_for(inputs)))
        return output


def trace(source: Path, artifact_dir: Path, artifact: dict, requests: Sequence[ImageRequest], out: Path) -> Trace:
    precision, threads = ov.precision_hint(artifact), artifact["threads"]
    networks = {
        name: CountedNetwork(name, ov.model_file(artifact_dir, name), precision, threads, len(requests))
        for name in COMPONENTS
    }
    pipeline = assemble(source, networks)
    generate(pipeline, requests)
    for network in networks.values():
        network.calls.clear()
    began_s = time.perf_counter()
    generate(pipeline, requests)
    traced_s = time.perf_counter() - began_s
    calls = [call for network in networks.values() for call in network.calls]
    write_trace([*timeline(calls, began_s), *drawn_layers(calls)], out / "openvino.json.gz")
    counts, totals_s = Counter(), Counter()
    for bound, made in by_bound(calls):
        for layer in (layer for request in bound.requests for layer in layers(request)):
            counts[layer.kind] += len(made)
            totals_s[layer.kind] += layer.mean_s * len(made)
    return Trace(table(counts, totals_s), ["openvino.json.gz"], traced_s, NOTE)


def layers(request: Any) -> list[Layer]:
    """The layers that a request executed, in their order."""
    return [
        Layer(info.node_name, info.node_type, info.exec_type, info.real_time.total_seconds())
        for info in request.get_profiling_info()
        if info.status == info.Status.EXECUTED
    ]


def by_bound(calls: Sequence[Call]) -> Iterator[tuple[Any, list[Call]]]:
    """The calls that the same compiled network ran, together."""
    groups: dict[int, list[Call]] = {}
    for call in calls:
        groups.setdefault(id(call.bound), []).append(call)
    for group in groups.values():
        yield group[0].bound, group


def timeline(calls: Sequence[Call], began_s: float) -> Iterator[dict]:
    """The calls of the networks, on one line."""
    yield group_name(CALLS, "calls")
    for call in calls:
        times_us = ((call.began_s - began_s) * 1e6, (call.ended_s - call.began_s) * 1e6)
        yield complete(call.component, *times_us, CALLS, 0)


def drawn_layers(calls: Sequence[Call]) -> Iterator[dict]:
    """The layers of each network and lane, on a line each."""
    yield group_name(LAYERS, "layers of an average call, drawn one after the other")
    line = 0
    for bound, made in by_bound(calls):
        for lane, request in enumerate(bound.requests):
            yield line_name(LAYERS, line, f"{made[0].component}, lane {lane + 1}, mean of {len(made)} calls")
            moment_us = 0.0
            for layer in layers(request):
                took_us = layer.mean_s * 1e6
                yield complete(layer.kind, moment_us, took_us, LAYERS, line, layer=layer.name, kernel=layer.kernel)
                moment_us += took_us
            line += 1
