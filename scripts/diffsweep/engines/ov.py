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
from diffsweep.engines.onnx_components import COMPONENTS, KEPT_FP32, PerShape, assemble, refuse_unsupported
from diffsweep.sweep.outcomes import Unsupported

DEVICE = "CPU"
# What runs where nothing is quantised. An int8 artifact keeps the rest in f32, since it claims one change only.
INFERENCE_PRECISION = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
COMPUTE = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention")


def convert(source: Path, onnx: Path, out: Path, artifact: dict, calibration: list[str]) -> None:
    """Write each component as OpenVINO IR (model.xml, model.bin) into `out`, for int8 with a quantised denoiser."""
    precision_hint(artifact)
    models = {name: openvino.Core().read_model(onnx / name / "model.onnx") for name in COMPONENTS}
    if artifact["precision"] == "int8":
        inputs = calibration_inputs(load(source, onnx, artifact), calibration)
        models["unet"] = quantise(models["unet"], inputs)
    for name, model in models.items():
        # In fp32: halving the weights of what stays fp32 would be a second change.
        openvino.save_model(model, out / name / "model.xml", compress_to_fp16=False)


def load(source: Path, artifact_dir: Path, artifact: dict) -> Any:
    """The pipeline of the model `source`, running the networks of `artifact_dir` (IR, or ONNX before conversion)."""
    compiler = Compiler(precision_hint(artifact), artifact["threads"])
    files = {name: model_file(artifact_dir, name) for name in COMPONENTS}
    return assemble(source, {name: CompiledNetwork(compiler, file) for name, file in files.items()})


def census(pipeline: Any, artifact_dir: Path, artifact: dict) -> Census:
    """What the denoiser was compiled to for batch 1 with guidance, by OpenVINO's runtime model."""
    compiler = Compiler(precision_hint(artifact), artifact["threads"])
    compiled = compiler.compile(model_file(artifact_dir, "unet"), one_call(pipeline))
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
    if artifact["precision"] == "int8":
        detail += "; the rest of the denoiser, text encoder and VAE decoder stay fp32"
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
class Compiler:
    """How this artifact's networks are compiled: `precision` is OpenVINO's inference precision hint."""

    precision: str
    threads: int

    def compile(self, file: Path, inputs: dict[str, Any]) -> Any:
        """Code for exactly the shapes of `inputs`: with dynamic shapes a bf16 denoiser call takes twice as long."""
        core = openvino.Core()
        model = core.read_model(file)
        model.reshape({name: list(value.shape) for name, value in inputs.items()})
        settings = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        return core.compile_model(model, DEVICE, settings)


@dataclass(frozen=True)
class Bound:
    """A compiled network with its input buffers, which it reads in place."""

    inputs: dict[str, np.ndarray]
    request: Any


class CompiledNetwork:
    """An OpenVINO model as a `Network`, compiled once for each set of shapes (0.3 s for the reference denoiser)."""

    def __init__(self, compiler: Compiler, file: Path):
        self._compiler, self._file = compiler, file
        self._bound = PerShape(self._bind)

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        bound = self._bound.get(inputs)
        for name, value in inputs.items():
            np.copyto(bound.inputs[name], value.numpy())
        bound.request.infer(share_outputs=True)
        # Copied, since the next call overwrites it and a multistep scheduler may keep what it is given.
        return torch.from_numpy(bound.request.get_output_tensor(0).data.copy())

    def _bind(self, inputs: dict[str, torch.Tensor]) -> Bound:
        request = self._compiler.compile(self._file, inputs).create_infer_request()
        buffers = {name: np.zeros_like(request.get_tensor(name).data) for name in inputs}
        for name, buffer in buffers.items():
            request.set_tensor(name, openvino.Tensor(buffer, shared_memory=True))
        return Bound(buffers, request)


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
