"""What torch really executed, read from its profiler: the compute operators of a call, and compiled code that ran."""

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from diffsweep.engines.census import count_dtypes

# Operators that carry the work of a network. They call each other (linear -> addmm); only innermost ones are counted.
COMPUTE = frozenset(
    {
        *(f"aten::{name}" for name in ("conv2d", "convolution", "mkldnn_convolution", "_slow_conv2d_forward")),
        *(f"aten::{name}" for name in ("linear", "mkldnn_linear", "matmul", "mm", "addmm", "bmm", "baddbmm")),
        "aten::_int_mm",
        *(f"aten::{name}" for name in ("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")),
        # what Inductor's code calls
        *(f"mkldnn::{name}" for name in ("_convolution_pointwise", "_convolution_pointwise_", "_linear_pointwise")),
        *(f"onednn::{name}" for name in ("qconv_pointwise", "qlinear_pointwise")),
    }
)
# C++ types, as the profiler prints them -> torch's names.
TYPE_NAMES = {
    "float": "float32",
    "double": "float64",
    "c10::Half": "float16",
    "c10::BFloat16": "bfloat16",
    "signed char": "int8",
    "unsigned char": "uint8",
}
COMPILED_REGION = "Torch-Compiled Region"


@dataclass(frozen=True)
class Trace:
    """operators: executed compute operators by dtype; compiled_calls: compiled graphs that were entered."""

    operators: dict[str, int]
    compiled_calls: int


def record(call: Callable[[], object], path: Path) -> None:
    """Run `call` under torch's profiler, and write what it saw to `path` in Chrome's trace format."""
    import torch

    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.inference_mode(), torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        call()
    profiler.export_chrome_trace(str(path))


def trace(call: Callable[[], object]) -> Trace:
    """Run `call` under torch's profiler."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record(call, path)
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    compiled = [e for e in events if e.get("ph") == "X" and e["name"].startswith(COMPILED_REGION)]
    return Trace(count_dtypes(map(compute_dtype, innermost_compute(events))), len(compiled))


def innermost_compute(events: Iterable[dict]) -> list[dict]:
    """The compute operators that call no other compute operator. `events`: Chrome trace format, times in us."""
    compute = [e for e in events if e.get("ph") == "X" and e["name"] in COMPUTE]
    compute.sort(key=lambda e: (e["tid"], e["ts"], -e["dur"]))
    pairs = zip(compute, [*compute[1:], None], strict=True)
    return [event for event, after in pairs if after is None or not _inside(after, event)]


def _inside(inner: dict, outer: dict) -> bool:
    return inner["tid"] == outer["tid"] and inner["ts"] < outer["ts"] + outer["dur"]


def compute_dtype(event: dict) -> str:
    """The dtype that an operator computes in: 8 bits if any input has them, else that of its first tensor."""
    types = [TYPE_NAMES[name] for name in event["args"]["Input type"] if name in TYPE_NAMES]
    narrow = [name for name in types if name in ("int8", "uint8")]
    return (narrow or types or ["unknown"])[0]
