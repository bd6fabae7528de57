"""Inputs that a denoiser really meets: for the calibration of static quantisation, and for a look at what a call runs.

They are recorded while a pipeline with the stand-ins of `onnx_components` draws images.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from diffsweep.engines.onnx_components import latent_size
from diffsweep.engines.pipelines import DenoiserCall, ImageRequest, generate, recorded_calls

PROMPTS = 8
STEPS = 25  # the baseline's schedule
STEP_STRIDE = 3  # keeps 9 of the 25 timesteps, from the first (pure noise) to the last
GUIDANCE = 3.0
BATCH = 4  # prompts drawn at once; bounds the memory that a model larger than the reference model takes

Inputs = dict[str, np.ndarray]


def one_call(pipeline: Any) -> Inputs:
    """The inputs of a denoiser call for one image with guidance, (2, C, h, w)."""
    with recorded_calls(pipeline) as calls:
        generate(pipeline, [_request(pipeline, "", seed=0, steps=1)])
    return _inputs_of(calls[0])


def calibration_inputs(pipeline: Any, prompts: list[str]) -> list[Inputs]:
    """The inputs of one denoiser call for each of the first prompts and each kept timestep of the schedule.

    Both halves of guidance are in each, (2, C, h, w): the denoiser meets them in equal numbers.
    """
    inputs: list[Inputs] = []
    prompts = prompts[:PROMPTS]
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        with recorded_calls(pipeline) as calls:
            generate(pipeline, [_request(pipeline, prompt, start + i, STEPS) for i, prompt in enumerate(batch)])
        for call in calls[::STEP_STRIDE]:
            inputs.extend(_split(_inputs_of(call), len(batch)))
        print(f"calibration: {start + len(batch)} of {len(prompts)} prompts drawn", flush=True)
    return inputs


def _request(pipeline: Any, prompt: str, seed: int, steps: int) -> ImageRequest:
    height, width = (size * pipeline.vae_scale_factor for size in latent_size(pipeline.unet.config))
    return ImageRequest(
        prompt=prompt,
        negative_prompt="",
        seed=seed,
        scheduler="ddim",
        steps=steps,
        guidance=GUIDANCE,
        width=width,
        height=height,
    )


def _inputs_of(call: DenoiserCall) -> Inputs:
    """The arrays that the exported denoiser takes, by the names of its inputs."""
    sample, timestep = call.arguments
    tensors = {"sample": sample, "timestep": timestep, "encoder_hidden_states": call.options["encoder_hidden_states"]}
    return {name: tensor.numpy().astype(np.float32) for name, tensor in tensors.items()}


def _split(inputs: Inputs, images: int) -> Iterator[Inputs]:
    """One call for several images -> one call each; the unconditional halves of all images come first."""
    for index in range(images):
        halves = [index, index + images]
        yield {name: value[halves] if value.ndim else value for name, value in inputs.items()}
