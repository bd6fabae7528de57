"""Engine `torch`: PyTorch, eager or compiled, in fp32, bf16, fp16, or int8 by torchao.

An artifact holds the networks' weights as they run, in safetensors; a compiled one also holds Inductor's cache, so that
the processes that load it compile nothing. int8 means torchao's dynamic quantisation of all linear layers of the
denoiser (int8 weights, activations quantised a token at a time); convolutions stay fp32, since torchao has no kernel
for them.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffsweep.engines.census import Census, judge
from diffsweep.engines.imports import import_diffusers
from diffsweep.engines.sources import load_original
from diffsweep.sweep.files import read_json
from diffsweep.sweep.outcomes import Unsupported

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "float32"}
DIFFUSERS_NETWORKS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
WEIGHTS = "weights.safetensors"
CACHE = "inductor"


def convert(source: Path, onnx: Path | None, out: Path, artifact: dict, calibration: list[str]) -> None:
    """Write the cast or quantised networks into `out`, and for `compile` the compiled code."""
    refuse_unsupported(artifact)
    pipeline = load_original(source, DTYPES[artifact["precision"]])
    if artifact["precision"] == "int8":
        quantise(pipeline.unet)
    pipeline.text_encoder.save_pretrained(out / "text_encoder")
    for name in DIFFUSERS_NETWORKS:
        save_network(getattr(pipeline, name), out / name)
    if artifact["compile"]:
        (out / CACHE).mkdir()
        compile_denoiser(load_networks(source, out, artifact), out / CACHE)


def refuse_unsupported(artifact: dict) -> None:
    if artifact["device"] != "cpu":
        raise Unsupported(f"engine torch runs on the CPU so far, not on {artifact['device']}")
    compiler = os.environ.get("CXX", "g++")  # Inductor's own rule
    if artifact["compile"] and not shutil.which(compiler):
        raise Unsupported(f"torch.compile needs a C++ compiler on the CPU, and {compiler} was not found")
    if artifact["precision"] == "fp16" and not has_fp16_kernels():
        raise Unsupported(
            "PyTorch has no fp16 convolution for this processor (oneDNN's needs AVX512-FP16 or AMX-FP16): it would run "
            "in scalar code, many times slower than fp32"
        )


def has_fp16_kernels() -> bool:
    """Does oneDNN, which computes PyTorch's convolutions on the CPU, have fp16 ones for this processor?"""
    import torch

    return torch.ops.mkldnn._is_mkldnn_fp16_supported()


def load(source: Path, artifact_dir: Path, artifact: dict, batch: int = 1):
    """The pipeline of the model `source`, running the networks of `artifact_dir`; compiled ones are ready to run.

    Nothing is prepared for a size: eager networks take any `batch`, and one compiled graph serves them all.
    """
    refuse_unsupported(artifact)
    pipeline = load_networks(source, artifact_dir, artifact)
    if artifact["compile"]:
        # Inductor writes into its cache, and an artifact does not change. Compiled code stays mapped without its file.
        with tempfile.TemporaryDirectory(prefix="diffsweep-inductor-") as copy:
            compile_denoiser(pipeline, Path(shutil.copytree(artifact_dir / CACHE, Path(copy) / CACHE)))
    return pipeline


def census(pipeline, artifact_dir: Path, artifact: dict) -> Census:
    """Profile one denoiser call."""
    from diffsweep.engines.torch_trace import trace

    call = one_call(pipeline)
    executed = trace(lambda: pipeline.unet(*call.arguments, **call.options))
    return judge(
        artifact,
        weights=count_weights(pipeline.unet),
        operators=executed.operators,
        providers=["cpu"],
        expected_provider="cpu",
        graph_breaks=graph_breaks() if artifact["compile"] else None,
        compiled_calls=executed.compiled_calls,
        problems=cold_start() if artifact["compile"] else [],
    )


# --- weights --------------------------------------------------------------------------------------------------------


def save_network(network, folder: Path) -> None:
    """config.json and one safetensors file; quantised tensors as torchao takes them apart, described in its header."""
    from safetensors.torch import save_file

    network.save_config(folder)
    tensors, description = network.state_dict(), {}
    if is_quantised(network):
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

        tensors, description = flatten_tensor_state_dict(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, description)


def load_network(network_class: type, folder: Path, quantised: bool):
    """A network of diffusers with the weights in `folder`, and no others: a missing or unknown name is an error.

    It is made without memory first, since initialising weights that are then replaced takes longer than loading them.
    """
    import torch
    from safetensors import safe_open

    with torch.device("meta"):
        network = network_class.from_config(read_json(folder / "config.json"))
    with safe_open(folder / WEIGHTS, framework="pt") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  not a dict
        description = handle.metadata()
    if quantised:
        from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

        tensors, _ = unflatten_tensor_state_dict(tensors, description)
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def load_networks(source: Path, artifact_dir: Path, artifact: dict):
    """The StableDiffusionPipeline of `source` with the artifact's networks, eager."""
    import torch

    torch.set_num_threads(artifact["threads"])
    diffusers = import_diffusers()
    from transformers import CLIPTextModel, CLIPTokenizer

    dtype = getattr(torch, DTYPES[artifact["precision"]])
    networks = {
        name: load_network(
            getattr(diffusers, class_name), artifact_dir / name, artifact["precision"] == "int8" and name == "unet"
        )
        for name, class_name in DIFFUSERS_NETWORKS.items()
    }
    scheduler_class = getattr(diffusers, read_json(source / "model_index.json")["scheduler"][1])
    return diffusers.StableDiffusionPipeline(
        **networks,
        text_encoder=CLIPTextModel.from_pretrained(artifact_dir / "text_encoder", dtype=dtype, local_files_only=True),
        tokenizer=CLIPTokenizer.from_pretrained(source / "tokenizer", local_files_only=True),
        scheduler=scheduler_class.from_pretrained(source / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def count_weights(network) -> dict[str, int]:
    """Number of parameters by the dtype that they are stored in."""
    counts: dict[str, int] = {}
    for parameter in network.parameters():
        stored = getattr(parameter, "qdata", parameter)  # torchao's tensors keep their integers in it
        name = str(stored.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + parameter.numel()
    return counts


# --- int8 -----------------------------------------------------------------------------------------------------------


def quantise(network) -> None:
    """Dynamic int8 for all linear layers, by torchao's current (version 2) configuration."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    # Inductor's settings stay ours: torchao's are meant for max-autotune on a GPU.
    quantize_(network, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))


def is_quantised(network) -> bool:
    return any(hasattr(parameter, "qdata") for parameter in network.parameters())


# --- compile --------------------------------------------------------------------------------------------------------


def compile_denoiser(pipeline, cache: Path) -> None:
    """Compile the denoiser, with Inductor's cache in the folder `cache`, for any number of images of the model's size.

    The cache serves processes with the same number of threads on the same kind of processor; others compile anew.

    One graph serves all batches: on the reference model it is as fast as one for the measured batch alone, and image
    generation then runs the very code that is measured. (Without guidance, one image alone gets a graph of its own
    when it first comes: Dynamo treats a batch of 1 as a constant.)
    """
    import torch
    import torch._inductor.config as inductor
    from torch._dynamo.utils import counters

    # A header that Inductor compiles for its kernels, 150 MB, goes into a folder of its own for temporary files and not
    # into the cache, so a server that finds all of its kernels compiled would still make it: 6 s of each start.
    inductor.cpp_cache_precompile_headers = False
    counters.clear()
    call = one_call(pipeline)
    pipeline.unet.compile(dynamic=False)
    for batched in (call.arguments[0], call.options["encoder_hidden_states"]):
        torch._dynamo.mark_dynamic(batched, 0)
    with torch.inference_mode(), environment_variable("TORCHINDUCTOR_CACHE_DIR", str(cache.resolve())):
        pipeline.unet(*call.arguments, **call.options)


@contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Set it while the block runs."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def graph_breaks() -> int:
    """How often Dynamo had to leave the graph since `compile_denoiser`."""
    from torch._dynamo.utils import counters

    return sum(counters["graph_break"].values())


def cold_start() -> list[str]:
    """A sentence when `compile_denoiser` had to compile what the artifact's cache should have held."""
    from torch._dynamo.utils import counters

    missed = counters["inductor"]["fxgraph_cache_miss"] + counters["inductor"]["fxgraph_cache_bypass"]
    return [f"{missed} graph(s) were compiled again instead of taken from the artifact's cache"] if missed else []


def one_call(pipeline):
    """A denoiser call as the pipeline's loop makes it, for one image of the model's own size, with guidance."""
    from diffsweep.engines.pipelines import ImageRequest, recorded_calls, sample

    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    with recorded_calls(pipeline) as calls:
        sample(pipeline, [ImageRequest("", "", 0, "ddim", 1, 2.0, side, side)])
    return calls[0]
