"""Engines: what turns a model into an artifact, and an artifact into images.

An engine is one module with three functions:

    convert(source, onnx, out, artifact, calibration)   write the artifact's files into the folder `out`
    load(source, artifact_dir, artifact, batch=1)       a StableDiffusionPipeline with its components replaced
    census(pipeline, artifact_dir, artifact)            a Census of what one denoiser call really runs

`source` is the model's folder (diffusers layout), `onnx` the folder of its ONNX export or None, `artifact` the dict
{name, engine, precision, compile, threads, device}, `calibration` a list of prompts, `batch` the largest number of
images at once that the pipeline keeps prepared: what an engine prepares for a size (buffers, compiled code) it then
does once for every size up to that. A pipeline makes any number of images all the same. `convert` and `load` raise
Unsupported with the reason where this machine or library cannot do what the artifact asks.

What an engine's profiler saw is read by the module of the same name in diffsweep/traces.
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
