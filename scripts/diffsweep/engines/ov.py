"""Engine `openvino`: the exported components compiled by OpenVINO for the CPU; fp32, bf16, or int8 (denoiser only)."""

import contextlib
import dataclasses
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
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
from diffsweep.sweep.outcomes import Unsupported

DEVICE = "CPU"
# What runs where nothing is quantised. An int8 artifact keeps the rest in f32, since it claims one change only. Left
# alone, OpenVINO computes all of them in bf16 where the CPU has it.
INFERENCE_PRECISION = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
OTHERS = {
    "fp32": "text encoder and VAE decoder are fp32 too",
    "bf16": "text encoder and VAE decoder are bf16 too",
    "int8": "the rest of the denoiser, text encoder and VAE decoder stay fp32",
}
COMPUTE = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention")


def convert(source: Path, onnx: Path | None, out: Path, artifact: dict, calibration: list[str]) -> None:
    """Write each component as OpenVINO IR (model.xml, model.bin) into `out`, for int8 with a quantised denoiser."""
    precision_hint(artifact)
    for name, file in exported_files(onnx).items():
        model = openvino.Core().read_model(file)
        if name == "unet" and artifact["precision"] == "int8":
            model = quantise(model, calibration_inputs(load(source, onnx, artifact), calibration))
        # Stored in fp32: halving the weights of what stays fp32 would be a second change.
        openvino.save_model(model, out / name / "model.xml", compress_to_fp16=False)


def load(source: Path, artifact_dir: Path, artifact: dict, batch: int = 1) -> Any:
    """The pipeline of the model `source`, running the networks of `artifact_dir` (IR, or ONNX before conversion).

    They are compiled for one image at a time; for other batches they will be on first use.
    """
    precision, threads = precision_hint(artifact), artifact["threads"]
    files = {name: model_file(artifact_dir, name) for name in COMPONENTS}
    pipeline = assemble(
        source, {name: CompiledNetwork(file, precision, threads, batch) for name, file in files.items()}
    )
    one_call(pipeline)
    return pipeline


def census(pipeline: Any, artifact_dir: Path, artifact: dict) -> Census:
    """What the denoiser was compiled to for batch 1 with guidance, by OpenVINO's runtime model."""
    inputs = {name: torch.from_numpy(array) for name, array in one_call(pipeline).items()}
    compiled = pipeline.unet.network.bound_for(inputs).compiled
    layers = [runtime_info(layer) for layer in compiled.get_runtime_model().get_ops()]
    compute = [layer for layer in layers if is_compute(layer)]
    found = judge(
        artifact,
        weights=count_weights([model_file(artifact_dir, name) for name in COMPONENTS]),
        operators=count_dtypes(layer["runtimePrecision"] for layer in compute),
        providers=compiled.get_property("EXECUTION_DEVICES"),
        expected_provider=DEVICE,
    )
    kinds = Counter(f"{layer['layerType']} {layer['primitiveType']}" for layer in compute)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    detail = f"{found.detail}: {listed} (Subgraph: fused attention)"
    detail += f"; the batch of 2 runs in {lanes(2, artifact['threads'])} lanes; {OTHERS[artifact['precision']]}"
    return dataclasses.replace(found, detail=detail)


# --- running --------------------------------------------------------------------------------------------------------


def model_file(folder: Path, component: str) -> Path:
    ir = folder / component / "model.xml"
    return ir if ir.exists() else folder / component / "model.onnx"


def precision_hint(artifact: dict) -> str:
    """OpenVINO's word for an artifact's precision. Raises Unsupported where this CPU would not compute in it."""
    refuse_unsupported("openvino", artifact, INFERENCE_PRECISION)
    hint = INFERENCE_PRECISION[artifact["precision"]]
    capabilities = openvino.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    if hint == "bf16" and "BF16" not in capabilities:
        raise Unsupported(f"OpenVINO has no bfloat16 kernels for this CPU (it has {', '.join(capabilities)})")
    return hint


@dataclass(frozen=True)
class Bound:
    """A network compiled for one set of shapes, buffers that it reads and writes in place, and one request a lane."""

    compiled: Any
    inputs: dict[str, np.ndarray]
    output: np.ndarray
    requests: list[Any]


class CompiledNetwork:
    """An OpenVINO model as a `Network`, compiled once for each set of shapes (0.3 s for the reference denoiser).

    Compiled for exactly these shapes: with dynamic ones a bf16 denoiser call takes twice as long. `precision` is
    OpenVINO's inference precision hint; `settings` are further properties of compiled models.
    """

    def __init__(self, file: Path, precision: str, threads: int, batch: int = 1, settings: dict | None = None):
        self._file, self._precision, self._threads, self._settings = file, precision, threads, settings or {}
        self._bound = PerShape(self._bind, batch)

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        bound = self.bound_for(inputs)
        for name, value in inputs.items():
            np.copyto(bound.inputs[name], value.numpy())
        for request in bound.requests:
            request.start_async()
        for request in bound.requests:
            request.wait()
        # Copied, since the next call overwrites it and a multistep scheduler may keep what it is given.
        return torch.from_numpy(bound.output.copy())

    def bound_for(self, inputs: dict[str, torch.Tensor]) -> Bound:
        """What runs inputs of these shapes."""
        return self._bound.get(inputs)

    def _bind(self, inputs: dict[str, torch.Tensor]) -> Bound:
        parts = lanes(batch_of(inputs), self._threads)
        shapes = {name: value.shape for name, value in cut(as_arrays(inputs), parts)[0].items()}
        compiled = self._compile(shapes, parts)
        buffers = {name: np.empty(value.shape, array_type(compiled.input(name))) for name, value in inputs.items()}
        size = compiled.output(0).shape
        output = np.empty((size[0] * parts, *list(size)[1:]), array_type(compiled.output(0)))
        by_lane = zip(cut(buffers, parts), np.split(output, parts), strict=True)
        return Bound(compiled, buffers, output, [bind(compiled, *lane) for lane in by_lane])

    def _compile(self, shapes: dict[str, tuple[int, ...]], streams: int) -> Any:
        core = openvino.Core()
        model = core.read_model(self._file)
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        settings = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
            **self._settings,
        }
        return core.compile_model(model, DEVICE, settings)


def array_type(port: Any) -> np.dtype:
    return port.get_element_type().to_dtype()


def as_arrays(inputs: dict[str, torch.Tensor]) -> Inputs:
    return {name: value.numpy() for name, value in inputs.items()}


def bind(compiled: Any, inputs: Inputs, output: np.ndarray) -> Any:
    """A request of `compiled` that reads and writes these arrays in place."""
    request = compiled.create_infer_request()
    for name, array in inputs.items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
    request.set_tensor(compiled.output(0), openvino.Tensor(output, shared_memory=True))
    return request


# --- int8 -----------------------------------------------------------------------------------------------------------


def quantise(model: Any, inputs: list[Inputs]) -> Any:
    """`model` with int8 convolutions and matrix products, calibrated on `inputs` by NNCF.

    Compared on the reference model, as PSNR of images to fp32: NNCF's own range estimation (means of minima and maxima)
    gave 37 dB, the extremes themselves 46 dB; smooth quantisation on top 33 dB; bias correction changed nothing.
    """
    os.environ.setdefault("NNCF_CI", "1")  # no usage statistics over the network
    with contextlib.redirect_stdout(sys.stderr):  # progress bars
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            model_type=nncf.ModelType.TRANSFORMER,  # asymmetric activations, and what attention needs
            ignored_scope=nncf.IgnoredScope(patterns=[f".*{part}.*" for part in KEPT_FP32], validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),  # -1: off
                disable_bias_correction=True,
            ),
        )


# --- census ---------------------------------------------------------------------------------------------------------


def runtime_info(layer: Any) -> dict[str, str]:
    """What OpenVINO says about a layer of a compiled model."""
    return {key: value.astype(str) for key, value in layer.get_rt_info().items()}


def is_compute(layer: dict[str, str]) -> bool:
    """Whether a layer is a convolution, a matrix product or attention (a Subgraph made from matrix products)."""
    fused_attention = layer["layerType"] == "Subgraph" and "MatMul" in layer["originalLayersNames"]
    return layer["layerType"] in COMPUTE or fused_attention


def count_weights(files: list[Path]) -> dict[str, int]:
    """Parameters by dtype, as stored. Wider integers are left out, since they are shapes and not weights."""
    counts: Counter[str] = Counter()
    for file in files:
        for layer in openvino.Core().read_model(file).get_ops():
            if layer.get_type_name() == "Constant":
                dtype = layer.get_element_type()
                if dtype.is_real() or dtype.bitwidth <= 8:
                    counts[dtype_name(dtype.get_type_name())] += int(np.prod(layer.get_shape()))
    return dict(counts.most_common())
