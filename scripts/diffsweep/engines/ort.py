"""Engine `onnxruntime`: the exported components in ONNX Runtime sessions on the CPU; fp32, or int8 (denoiser only)."""

import dataclasses
import json
import shutil
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from diffsweep.engines.census import Census, count_dtypes, dtype_name, judge
from diffsweep.engines.denoiser_inputs import Inputs, calibration_inputs, one_call
from diffsweep.engines.onnx_components import (
    COMPONENTS,
    KEPT_FP32,
    PerShape,
    assemble,
    batch_of,
    cut,
    exported_files,
    lanes,
    refuse_unsupported,
)

PRECISIONS = ("fp32", "int8")  # the CPU provider has hardly any kernels in half precision
PROVIDER = "CPUExecutionProvider"
ARRAY_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
LARGEST_ONNX_BYTES = 2**31  # protobuf's limit; beyond it weights go into a file of their own
COMPUTE = ("Conv", "MatMul", "Gemm", "Attention")  # how the names of operators that carry the work end, or begin


def convert(source: Path, onnx: Path | None, out: Path, artifact: dict, calibration: list[str]) -> None:
    """Write the components' ONNX files into `out`, for int8 with a quantised denoiser."""
    refuse_unsupported("onnxruntime", artifact, PRECISIONS)
    for name, file in exported_files(onnx).items():
        if name == "unet" and artifact["precision"] == "int8":
            (out / name).mkdir()
            quantise(file, model_file(out, name), calibration_inputs(load(source, onnx, artifact), calibration))
        else:
            shutil.copytree(file.parent, out / name)  # a large model's weights lie beside the file


def load(source: Path, artifact_dir: Path, artifact: dict, batch: int = 1) -> Any:
    """The pipeline of the model `source`, running the ONNX files of `artifact_dir`; ready for one image at a time."""
    pipeline = assemble(source, networks(artifact_dir, artifact, batch))
    one_call(pipeline)  # opens the sessions: a file that does not run fails here, not at the first request
    return pipeline


def networks(artifact_dir: Path, artifact: dict, batch: int, profiles: str = "") -> dict[str, "SessionNetwork"]:
    """The networks of an artifact by component. `profiles`: the folder that the sessions write profiles into."""
    threads = artifact["threads"]
    helpers = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="lane")
    return {
        name: SessionNetwork(
            model_file(artifact_dir, name), threads, helpers, batch, profile=profiles and f"{profiles}/{name}"
        )
        for name in COMPONENTS
    }


def census(pipeline: Any, artifact_dir: Path, artifact: dict) -> Census:
    """What one denoiser call of batch 1 with guidance executes, by ONNX Runtime's own profiler."""
    events = profile(model_file(artifact_dir, "unet"), artifact["threads"], one_call(pipeline))
    compute = [event["args"] for event in events if is_compute(event["args"]["op_name"])]
    found = judge(
        artifact,
        weights=count_weights([model_file(artifact_dir, name) for name in COMPONENTS]),
        operators=count_dtypes(first_input_type(arguments) for arguments in compute),
        providers=sorted({event["args"]["provider"] for event in events}),
        expected_provider=PROVIDER,
    )
    kinds = Counter(f"{arguments['op_name']} {dtype_name(first_input_type(arguments))}" for arguments in compute)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    detail = f"{found.detail}: {listed}; the batch of 2 runs in {lanes(2, artifact['threads'])} lanes"
    if artifact["precision"] == "int8":
        detail += "; the rest of the denoiser, text encoder and VAE decoder stay fp32"
    return dataclasses.replace(found, detail=detail)


# --- running --------------------------------------------------------------------------------------------------------


def model_file(artifact_dir: Path, component: str) -> Path:
    return artifact_dir / component / "model.onnx"


def session_options(threads: int, profile: str = "") -> Any:
    """`profile`: the beginning of the path that the session's profile is written to; "" for none."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # the calling thread is one of them
    options.inter_op_num_threads = 1
    # Threads spin between operators (without it a denoiser call takes 1.4 times as long), but not on after a call: the
    # client may be waiting for the core.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return options


def open_session(file: Path, options: Any) -> Any:
    return onnxruntime.InferenceSession(file, options, providers=[PROVIDER])


@dataclass(frozen=True)
class Bound:
    """Buffers for one set of shapes, and the bindings, one a lane, that tie a session to parts of them."""

    inputs: dict[str, np.ndarray]
    output: np.ndarray
    session: Any
    bindings: list[Any]


class SessionNetwork:
    """ONNX Runtime sessions of one file as a `Network`; buffers are bound once for each set of shapes.

    Inputs are copied into their buffers (32 KB and 2 us for the reference model's denoiser), which also casts the
    integer timestep. The output is copied out, since a multistep scheduler may keep what it is given.
    """

    def __init__(self, file: Path, threads: int, helpers: ThreadPoolExecutor, batch: int = 1, profile: str = ""):
        self._file, self._threads, self._helpers, self._profile = file, threads, helpers, profile
        self.sessions: dict[int, Any] = {}  # by the number of lanes
        self._bound = PerShape(self._bind, batch)

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        bound = self._bound.get(inputs)
        for name, value in inputs.items():
            np.copyto(bound.inputs[name], value.numpy())
        run, (first, *others) = bound.session.run_with_iobinding, bound.bindings
        running = [self._helpers.submit(run, binding) for binding in others]
        run(first)
        for lane in running:
            lane.result()
        return torch.from_numpy(bound.output.copy())

    def _session(self, parts: int) -> Any:
        """A session for as many callers at once as there are lanes; each caller is one of the threads."""
        if parts not in self.sessions:
            options = session_options(self._threads - parts + 1, self._profile and f"{self._profile}-{parts}")
            self.sessions[parts] = open_session(self._file, options)
        return self.sessions[parts]

    def _bind(self, inputs: dict[str, torch.Tensor]) -> Bound:
        parts = lanes(batch_of(inputs), self._threads)
        session = self._session(parts)
        types = {i.name: ARRAY_TYPES[i.type] for i in session.get_inputs()}
        buffers = {name: value.numpy().astype(types[name]) for name, value in inputs.items()}
        by_lane = cut(buffers, parts)
        size = session.run(None, by_lane[0])[0].shape  # the first run says how large the output is
        output = np.empty((size[0] * parts, *size[1:]), np.float32)
        bindings = [bind(session, *lane) for lane in zip(by_lane, np.split(output, parts), strict=True)]
        return Bound(buffers, output, session, bindings)


def bind(session: Any, inputs: Inputs, output: np.ndarray) -> Any:
    """A binding of `session` to arrays, which must outlive it."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    name = session.get_outputs()[0].name
    binding.bind_output(name, "cpu", 0, output.dtype, output.shape, output.ctypes.data)
    return binding


# --- int8 -----------------------------------------------------------------------------------------------------------


class Samples:
    """Recorded inputs, handed out one by one (the protocol of onnxruntime.quantization.CalibrationDataReader)."""

    def __init__(self, inputs: list[Inputs]):
        self._left = iter(inputs)

    def get_next(self) -> Inputs | None:
        return next(self._left, None)


def quantise(original: Path, quantised: Path, inputs: list[Inputs]) -> None:
    """Write the denoiser `original` with int8 convolutions and linear layers, calibrated on `inputs`.

    Products of two activations, inside attention, stay fp32: in int8 the call took longer, and was no more exact.
    Compared on the reference model (relative error of calls, PSNR of images): weights by channel are better than by
    tensor; minimum and maximum are as good as entropy and better than percentiles, and need no histograms in memory;
    the operators of ONNX Runtime (QOperator) are better and faster than Q/DQ pairs, which it fuses at load.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = sum(file.stat().st_size for file in original.parent.iterdir()) >= LARGEST_ONNX_BYTES
    with tempfile.TemporaryDirectory(dir=quantised.parent) as temporary:
        prepared = Path(temporary) / "prepared.onnx"
        # Symbolic shape inference gives up on this graph ("Incomplete symbolic shape inference"); ONNX's own is enough.
        quant_pre_process(original, prepared, skip_symbolic_shape=True, save_as_external_data=large)
        quantize_static(
            prepared,
            quantised,
            Samples(inputs),
            quant_format=QuantFormat.QOperator,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            nodes_to_exclude=[name for name in node_names(prepared) if any(part in name for part in KEPT_FP32)],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
            use_external_data_format=large,
        )


def node_names(file: Path) -> list[str]:
    import onnx

    return [node.name for node in onnx.load(file, load_external_data=False).graph.node]


# --- census ---------------------------------------------------------------------------------------------------------


def profile(file: Path, threads: int, inputs: Inputs) -> list[dict]:
    """The kernels that one call executes, as events of ONNX Runtime's profiler."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(file, session_options(threads, str(Path(folder) / "profile")))
        session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    return [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]


def is_compute(operator: str) -> bool:
    """Whether an operator is a convolution, a matrix product or attention, quantised and fused ones included."""
    return any(word in operator for word in COMPUTE)


def first_input_type(arguments: dict) -> str:
    """The dtype in which an executed operator takes its activations; the profiler lists one {dtype: shape} an input."""
    return next(iter(arguments["input_type_shape"][0]))


def count_weights(files: list[Path]) -> dict[str, int]:
    """Parameters by dtype; 64-bit integers are left out, since they are shapes and not weights."""
    import onnx

    counts: Counter[str] = Counter()
    for file in files:
        for tensor in onnx.load(file, load_external_data=False).graph.initializer:
            name = dtype_name(onnx.TensorProto.DataType.Name(tensor.data_type))
            if name != "int64":
                counts[name] += int(np.prod(tensor.dims))
    return dict(counts.most_common())
