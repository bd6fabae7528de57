"""Stand-ins for the networks of a StableDiffusionPipeline, so that diffusers' own loop runs on another runtime.

A stand-in holds a component's configuration and a `Network`: whatever maps named torch tensors to one torch tensor.
Loop, scheduler, tokenizer and random latents stay diffusers' own, and no torch weight of a component is loaded.
"""

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from diffsweep.engines.imports import import_diffusers
from diffsweep.sweep.files import read_json
from diffsweep.sweep.outcomes import Failed, Unsupported

COMPONENTS = ("text_encoder", "unet", "vae_decoder")
# Parts of the denoiser that stay fp32 in an int8 artifact, by what the names of their operators (module paths) contain.
# First and last convolution: latents and predicted noise of the last steps need more than 8 bits (relative error of a
# call there 0.24 in int8, 0.09 without). Time embedding and its projections: two rows a call, nothing to gain.
KEPT_FP32 = ("/conv_in/", "/conv_out/", "/time_emb")

KEPT_SHAPES = 3

Network = Callable[..., torch.Tensor]  # takes tensors by the names of the graph's inputs
Prepared = TypeVar("Prepared")


class PerShape(Generic[Prepared]):
    """What was prepared for the shapes of one call (buffers, compiled code), kept for the next call with the same.

    Only the shapes used last are kept, `kept` or KEPT_SHAPES: a server sees one or two, or one for every size of a
    batch; image generation two (the last batch is smaller).
    """

    def __init__(self, prepare: Callable[[dict], Prepared], kept: int):
        self._prepare, self._kept = prepare, max(kept, KEPT_SHAPES)
        self._entries: OrderedDict[tuple, Prepared] = OrderedDict()

    def get(self, inputs: dict[str, torch.Tensor]) -> Prepared:
        shapes = tuple(tensor.shape for tensor in inputs.values())
        if shapes not in self._entries:
            while len(self._entries) >= self._kept:
                self._entries.popitem(last=False)
            self._entries[shapes] = self._prepare(inputs)
        self._entries.move_to_end(shapes)
        return self._entries[shapes]


def lanes(batch: int, threads: int) -> int:
    """Into how many equal parts a batch is cut that are run side by side, each by its share of the threads.

    The two halves of guidance need nothing from each other, while threads that share every operator wait for each other
    300 times a call. For the reference model's denoiser, batch 2 on 2 threads, two lanes against none, in ms: ONNX
    Runtime fp32 6.0 against 7.2; OpenVINO fp32 6.1 against 6.8, int8 2.9 against 3.6, bf16 2.4 against 3.2.
    """
    return math.gcd(batch, threads)


def batch_of(inputs: dict[str, torch.Tensor]) -> int:
    """The batch size of a call: the first dimension of all inputs but the timestep, a scalar."""
    return next(len(value) for value in inputs.values() if value.ndim)


def cut(arrays: dict[str, np.ndarray], parts: int) -> list[dict[str, np.ndarray]]:
    """`arrays` in equal parts along the batch, which share their memory; a scalar is the same in all of them."""
    pieces = {name: np.split(array, parts) if array.ndim else [array] * parts for name, array in arrays.items()}
    return [{name: pieces[name][part] for name in arrays} for part in range(parts)]


class _StandIn:
    """What a diffusers pipeline asks of any of its networks."""

    def __init__(self, config: Any, network: Network):
        self.config, self.network = config, network
        self.device, self.dtype = torch.device("cpu"), torch.float32


class Denoiser(_StandIn):
    """Stands for a UNet2DConditionModel. Inputs are (2 B, C, h, w), the two halves of guidance in one call."""

    def __call__(self, sample, timestep, encoder_hidden_states, return_dict=False, **unused):
        refuse(unused)
        return (self.network(sample=sample, timestep=timestep, encoder_hidden_states=encoder_hidden_states),)


class Decoder(_StandIn):
    """Stands for an AutoencoderKL of which only the decoder is needed: (B, C, h, w) -> (B, 3, H, W), about -1 to 1."""

    def decode(self, latents, return_dict=False, generator=None):
        return (self.network(latent_sample=latents),)


class TextEncoder(_StandIn):
    """Stands for a CLIPTextModel: token ids (B, T) -> hidden states (B, T, d)."""

    def __call__(self, input_ids, **unused):
        refuse(unused)
        return (self.network(input_ids=input_ids),)


def refuse(arguments: dict[str, Any]) -> None:
    """An argument that the exported graph has no input for must not be dropped silently."""
    given = sorted(name for name, value in arguments.items() if value is not None)
    if given:
        raise NotImplementedError(f"the exported ONNX has no input for {', '.join(given)}")


def read_config(folder: Path, component_class: type) -> SimpleNamespace:
    """The configuration of a diffusers component, with its keys as attributes.

    Older models do not write every key; what is missing has the default of the class's constructor.
    """
    parameters = inspect.signature(component_class.__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return SimpleNamespace(**{**defaults, **read_json(folder / "config.json")})


def refuse_unsupported(engine: str, artifact: dict, precisions: Iterable[str]) -> None:
    """Raise Unsupported for a device or a precision that an engine does not offer."""
    if artifact["device"] != "cpu":
        raise Unsupported(f"engine {engine} runs on the CPU so far, not on {artifact['device']}")
    if artifact["precision"] not in precisions:
        raise Unsupported(f"engine {engine} has no {artifact['precision']} on the CPU, only {', '.join(precisions)}")


def exported_files(onnx: Path | None) -> dict[str, Path]:
    """The ONNX file of each component in the folder of an export. Raises Failed when there is none."""
    if onnx is None:
        raise Failed("the model's ONNX export is missing; make it with scripts/export_onnx.py and name it with --onnx")
    return {name: onnx / name / "model.onnx" for name in COMPONENTS}


def latent_size(config: Any) -> tuple[int, int]:
    """(height, width) of the latents that a denoiser was trained on."""
    size = config.sample_size
    return (size, size) if isinstance(size, int) else tuple(size)


def assemble(source: Path, networks: dict[str, Network]) -> Any:
    """The StableDiffusionPipeline of the model folder `source`, running `networks` (one for each of COMPONENTS)."""
    diffusers = import_diffusers()
    from transformers import CLIPTextConfig, CLIPTokenizer

    index = read_json(source / "model_index.json")
    scheduler_class = getattr(diffusers, index["scheduler"][1])
    vae = read_config(source / "vae", diffusers.AutoencoderKL)
    unet = read_config(source / "unet", diffusers.UNet2DConditionModel)
    text_encoder = CLIPTextConfig.from_pretrained(source / "text_encoder")
    return diffusers.StableDiffusionPipeline(
        vae=Decoder(vae, networks["vae_decoder"]),
        text_encoder=TextEncoder(text_encoder, networks["text_encoder"]),
        tokenizer=CLIPTokenizer.from_pretrained(source / "tokenizer"),
        unet=Denoiser(unet, networks["unet"]),
        scheduler=scheduler_class.from_pretrained(source / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
