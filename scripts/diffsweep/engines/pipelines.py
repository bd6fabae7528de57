"""One way to run any pipeline: the loop of diffusers' own StableDiffusionPipeline, with clocks around its parts.

Every engine goes through `generate`, so that a comparison isolates the engine: same tokenizer, same scheduler code,
same loop, same initial latents (drawn in fp32 by a CPU generator, one seed an image, whatever the batch).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch

from diffsweep.engines.imports import import_diffusers

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
}
SETTINGS = ("scheduler", "steps", "guidance", "width", "height")  # what the requests of one batch share


@dataclass(frozen=True)
class ImageRequest:
    """One image to be made. `guidance` of 1 or less means no classifier-free guidance; width and height in pixels."""

    prompt: str
    negative_prompt: str
    seed: int
    scheduler: str
    steps: int
    guidance: float
    width: int
    height: int


@dataclass(frozen=True)
class Clocks:
    """Where the time of one batch went. setup_s: from the prompt encoding to the first step (scheduler, timesteps,
    initial latents). What is not in here is the caller's residual."""

    prompt_encode_s: float
    setup_s: float
    step_s: tuple[float, ...]
    decode_s: float


class Timeline:
    """Moments of one batch, and the times between them once it is done.

    On a GPU the moments are CUDA events in the stream that the work is queued in: they tell when the device got there,
    not when the host asked for it, and are read after the batch, with one synchronisation (METHOD.md, "Clocks").

    It also poses as the pipeline's progress bar, which diffusers opens right before the loop, and as its step callback.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._moments: list = []

    def mark(self) -> None:
        if self._on_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._moments.append(event)
        else:
            self._moments.append(time.perf_counter())

    def between_s(self) -> list[float]:
        """Seconds between neighbouring moments."""
        pairs = zip(self._moments, self._moments[1:], strict=False)
        if not self._on_cuda:
            return [after - before for before, after in pairs]
        self._moments[-1].synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairs]  # in milliseconds

    @contextmanager
    def progress_bar(self, total: int | None = None) -> Iterator["Timeline"]:
        self.mark()
        yield self

    def update(self) -> None:
        """What diffusers calls on its progress bar after a step."""

    def on_step_end(self, _pipeline, _step: int, _timestep, _tensors: dict) -> dict:
        self.mark()
        return _tensors


@dataclass(frozen=True)
class DenoiserCall:
    """One call of a pipeline's denoiser as its loop made it, and what came out, (2 N, C, h, w) with guidance."""

    arguments: tuple
    options: dict
    output: torch.Tensor


class _Recorder:
    """Stands in a pipeline's place of the denoiser, and keeps every call."""

    def __init__(self, denoiser) -> None:
        self._denoiser = denoiser
        self._calls: list[DenoiserCall] = []

    def __getattr__(self, name: str):
        return getattr(self._denoiser, name)

    def __call__(self, *arguments, **options):
        result = self._denoiser(*arguments, **options)
        self._calls.append(DenoiserCall(arguments, options, result[0]))
        return result


_schedulers: WeakKeyDictionary = WeakKeyDictionary()  # pipeline -> {name: scheduler}; "" is the model's own


def select_scheduler(pipeline, name: str) -> None:
    """Give `pipeline` the scheduler `name`, made once from the model's own configuration.

    Timesteps are always spaced "trailing", so that few-step sampling starts from pure noise
    (Lin et al. 2023, https://arxiv.org/abs/2305.08891).
    """
    if name not in SCHEDULERS:
        raise ValueError(f"unknown scheduler {name!r}; known schedulers: {', '.join(SCHEDULERS)}")
    made = _schedulers.setdefault(pipeline, {"": pipeline.scheduler})
    if name not in made:
        scheduler_class = getattr(import_diffusers(), SCHEDULERS[name])
        made[name] = scheduler_class.from_config(made[""].config, timestep_spacing="trailing")
    pipeline.scheduler = made[name]


def initial_latents(pipeline, requests: Sequence[ImageRequest]) -> torch.Tensor:
    """(N, C, H/f, W/f) float32: standard normal noise, drawn on the CPU from each request's own seed."""
    channels, factor = pipeline.unet.config.in_channels, pipeline.vae_scale_factor
    shape = (1, channels, requests[0].height // factor, requests[0].width // factor)
    generators = (torch.Generator("cpu").manual_seed(request.seed) for request in requests)
    return torch.cat([torch.randn(shape, generator=g, dtype=torch.float32) for g in generators])


def encode_prompts(pipeline, requests: Sequence[ImageRequest]) -> dict[str, torch.Tensor]:
    """The pipeline's arguments that hold the prompts, (N, tokens, width) each, from one text encoder call."""
    prompts = [request.prompt for request in requests]
    device = pipeline.text_encoder.device  # pipeline.device walks through all modules (0.6 ms)
    if requests[0].guidance <= 1:
        return {"prompt_embeds": pipeline.encode_prompt(prompts, device, 1, False)[0]}
    negatives = [request.negative_prompt for request in requests]
    both = pipeline.encode_prompt(negatives + prompts, device, 1, False)[0]
    return dict(zip(("negative_prompt_embeds", "prompt_embeds"), both.chunk(2), strict=True))


def denoise(pipeline, requests: Sequence[ImageRequest], embeds: dict, timeline: Timeline) -> torch.Tensor:
    """Final latents (N, C, H/f, W/f), from the pipeline's own loop, which marks its start and the end of every step."""
    first = requests[0]
    select_scheduler(pipeline, first.scheduler)
    pipeline.progress_bar = timeline.progress_bar
    latents = initial_latents(pipeline, requests).to(embeds["prompt_embeds"])
    result = pipeline(
        **embeds,
        latents=latents,
        num_inference_steps=first.steps,
        guidance_scale=first.guidance,
        width=first.width,
        height=first.height,
        output_type="latent",
        callback_on_step_end=timeline.on_step_end,
        callback_on_step_end_tensor_inputs=[],
        return_dict=False,
    )
    return result[0]


def decode(pipeline, latents: torch.Tensor) -> np.ndarray:
    """(N, H, W, 3) float32 images, nominally in 0..1, not clipped; NaN where the model overflowed."""
    images = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0]
    return (images.float() * 0.5 + 0.5).permute(0, 2, 3, 1).cpu().numpy()


def to_uint8(images: np.ndarray) -> np.ndarray:
    """0..1 floats as 0..255 bytes, rounded as diffusers does; what is not a number becomes black."""
    return (np.nan_to_num(images, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255).round().astype(np.uint8)


@torch.inference_mode()
def sample(pipeline, requests: Sequence[ImageRequest]) -> tuple[np.ndarray, Clocks]:
    """Like `generate`, but the images as floats (see `decode`), for whoever must tell NaN from black."""
    check_batch(requests)
    timeline = Timeline(pipeline.text_encoder.device)
    timeline.mark()
    embeds = encode_prompts(pipeline, requests)
    timeline.mark()
    latents = denoise(pipeline, requests, embeds, timeline)
    timeline.mark()
    images = decode(pipeline, latents)
    timeline.mark()
    encoding_s, setup_s, *step_s, _after_loop_s, decoding_s = timeline.between_s()
    return images, Clocks(encoding_s, setup_s, tuple(step_s), decoding_s)


def generate(pipeline, requests: Sequence[ImageRequest]) -> tuple[np.ndarray, Clocks]:
    """Make one batch of images: (N, H, W, 3) uint8, and where the time went.

    The requests of a batch share scheduler, steps, guidance and size (ValueError otherwise); prompts and seeds differ.
    """
    images, clocks = sample(pipeline, requests)
    return to_uint8(images), clocks


def check_batch(requests: Sequence[ImageRequest]) -> None:
    """Raise ValueError unless the requests can be made together."""
    if not requests:
        raise ValueError("a batch needs at least one request")
    mixed = [name for name in SETTINGS if len({getattr(request, name) for request in requests}) > 1]
    if mixed:
        raise ValueError(f"the requests of one batch differ in {', '.join(mixed)}")


@contextmanager
def recorded_calls(pipeline) -> Iterator[list[DenoiserCall]]:
    """The list that every denoiser call of `pipeline` is added to while the block runs."""
    denoiser, recorder = pipeline.unet, _Recorder(pipeline.unet)
    pipeline.unet = recorder
    try:
        yield recorder._calls
    finally:
        pipeline.unet = denoiser


def call_denoiser(pipeline, call: DenoiserCall) -> torch.Tensor:
    """The output of the pipeline's denoiser for a call that was recorded on another one, inputs cast to its dtype."""
    dtype = pipeline.unet.dtype

    def cast(value):
        return (
            value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim else value
        )

    options = {name: cast(value) for name, value in call.options.items()}
    return pipeline.unet(*map(cast, call.arguments), **options)[0]
