"""Run scripts/convert.py with one thing broken on purpose, to see that it is caught.

    scripts/in_env torch python tests/engines/sabotage.py '[["KIND", {SPEC}, "FOLDER"], ...]'

Each conversion is a fork of this process, which has imported what they need.
"""

import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from diffsweep.engines import pytorch  # noqa: E402
from diffsweep.engines.imports import import_diffusers  # noqa: E402

real_load = pytorch.load_original


def reinitialise(component: str):
    """A converter that starts from a model whose `component` it initialised anew, statistics kept."""

    def load(source, dtype):
        import torch

        torch.manual_seed(0)
        pipeline = real_load(source, dtype)
        for parameter in getattr(pipeline, component).parameters():
            parameter.data = parameter.data.flatten()[torch.randperm(parameter.numel())].view(parameter.shape)
        return pipeline

    pytorch.load_original = load


def overflow():
    """A converter whose denoiser returns NaN."""

    def load(source, dtype):
        pipeline = real_load(source, dtype)
        pipeline.unet.conv_out.bias.data.fill_(float("nan"))
        return pipeline

    pytorch.load_original = load


def quantise_nothing():
    """A quantisation that finds no layer to quantise."""
    pytorch.quantise = lambda network: None
    pytorch.load_networks = ignore_precision(pytorch.load_networks)


def quantise_one_layer():
    """A quantisation that passes all layers but one over."""

    def quantise(network):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        config = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
        quantize_(network, config, filter_fn=lambda _, name: name == "time_embedding.linear_1")

    pytorch.quantise = quantise


def ignore_precision(load):
    return lambda source, folder, artifact: load(source, folder, {**artifact, "precision": "fp32"})


def keep_fp32():
    """A cast that does not happen."""
    pytorch.load_original = lambda source, dtype: real_load(source, "float32")
    pytorch.load_networks = ignore_precision(pytorch.load_networks)


def claim_fp16_kernels():
    """No damage: a processor that says it has fp16 kernels. Without them PyTorch computes the same in scalar code."""
    pytorch.has_fp16_kernels = lambda: True


def die():
    pytorch.convert = lambda *arguments: os.kill(os.getpid(), signal.SIGSEGV)


def run_out_of_memory():
    pytorch.convert = lambda *arguments: bytearray(1 << 62)


def hang():
    pytorch.convert = lambda *arguments: time.sleep(60)


KINDS = {
    "reinitialised unet": lambda: reinitialise("unet"),
    "reinitialised text_encoder": lambda: reinitialise("text_encoder"),
    "reinitialised vae": lambda: reinitialise("vae"),
    "overflow": overflow,
    "quantised nothing": quantise_nothing,
    "quantised one layer": quantise_one_layer,
    "kept fp32": keep_fp32,
    "fp16 on any processor": claim_fp16_kernels,
    "dies": die,
    "runs out of memory": run_out_of_memory,
    "hangs": hang,
}


def convert(spec: dict, folder: str, *options: str, sabotage: Callable[[], None] = lambda: None) -> None:
    """scripts/convert.py in a fork of this process, after `sabotage` there."""
    if os.fork() == 0:
        sabotage()
        sys.argv = ["convert.py", "--spec", json.dumps(spec), "--out", folder, *options]
        runpy.run_path(str(SCRIPTS / "convert.py"), run_name="__main__")
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{folder}: the program failed")


def main(jobs: list[list]) -> None:
    import_diffusers()
    for kind, spec, folder in jobs:
        convert(spec, folder, sabotage=KINDS[kind])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
