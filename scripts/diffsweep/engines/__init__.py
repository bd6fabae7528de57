"""Engines: what turns a model into an artifact, and an artifact into images.

An engine is one module with three functions:

    convert(source, onnx, out, artifact, calibration)   write the artifact's files into the folder `out`
    load(source, artifact_dir, artifact)                a StableDiffusionPipeline with its components replaced
    census(pipeline, artifact_dir, artifact)            a Census of what one denoiser call really runs

`source` is the model's folder (diffusers layout), `onnx` the folder of its ONNX export or None, `artifact` the dict
{name, engine, precision, compile, threads, device}, `calibration` a list of prompts. `convert` and `load` raise
Unsupported with the reason where this machine or library cannot do what the artifact asks.
"""

import importlib
from types import ModuleType
from typing import NamedTuple


class Engine(NamedTuple):
    """module: the file beside this one; from_onnx: whether it starts from the model's ONNX export."""

    module: str
    from_onnx: bool


ENGINES = {
    "torch": Engine("pytorch", from_onnx=False),
    "onnxruntime": Engine("ort", from_onnx=True),
    "openvino": Engine("ov", from_onnx=True),
}


def load_engine(name: str) -> ModuleType:
    """The module of engine `name`. Raises ValueError for a name that is no engine."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; known engines: {', '.join(ENGINES)}")
    return importlib.import_module(f"{__name__}.{ENGINES[name].module}")
