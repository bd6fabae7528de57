"""Images of the reference pipeline for a list of prompts, with one fixed seed per prompt, and damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch.nn import functional

from . import models

GUIDANCE = 3.0
BATCH = 20


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def initial_latents(count: int, first_seed: int) -> torch.Tensor:
    """(N, 4, 16, 16); image i starts from the noise of seed `first_seed` + i, whatever the batch size."""
    shape = (models.LATENT_CHANNELS, models.LATENT_SIDE, models.LATENT_SIDE)
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(first_seed + index)) for index in range(count)]
    )


@torch.inference_mode()
def generate(
    pipeline: StableDiffusionPipeline, prompts: list[str], steps: int, first_seed: int = 0, fast: bool = False
) -> torch.Tensor:
    """(N, 3, 64, 64) uint8; `fast` computes in bfloat16, for looking at checkpoints."""
    latents, images = initial_latents(len(prompts), first_seed), []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            made = pipeline(
                prompts[part],
                latents=latents[part].clone(),
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                height=64,
                width=64,
                output_type="np",
            ).images
        images.append(torch.from_numpy(np.round(made * 255).astype(np.uint8)).permute(0, 3, 1, 2))
    return torch.cat(images)


@torch.inference_mode()
def reconstruct(pipeline: StableDiffusionPipeline, images: torch.Tensor) -> torch.Tensor:
    """The images after the autoencoder: the best that a perfect denoiser could do. uint8 in and out."""
    parts = []
    for part in images.split(50):
        latents = pipeline.vae.encode(part.float() / 127.5 - 1).latent_dist.mean
        parts.append(((pipeline.vae.decode(latents).sample + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of uint8 images; `sigma` in pixels."""
    reach = int(3 * sigma + 0.5)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).repeat(3, 1, 1, 1)
    padded = functional.pad(images.float(), (reach,) * 4, mode="replicate")
    rows = functional.conv2d(padded, weights, groups=3)
    return functional.conv2d(rows, weights.transpose(2, 3), groups=3).round().clamp(0, 255).to(torch.uint8)


def add_noise(images: torch.Tensor, deviation: float, seed: int = 0) -> torch.Tensor:
    """Gaussian noise of `deviation` grey levels on uint8 images."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)) * deviation
    return (images.float() + noise).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def round_weights(module: torch.nn.Module, bits: int) -> None:
    """Rounds convolution and linear weights in place to `bits` bits, symmetric, one scale per output channel."""
    top = 2 ** (bits - 1) - 1
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            flat = layer.weight.flatten(1)
            scale = flat.abs().amax(1, keepdim=True).clamp_min(1e-12) / top
            layer.weight.copy_(((flat / scale).round() * scale).view_as(layer.weight))


def write_grid(images: torch.Tensor, columns: int, path: Path, enlarge: int = 2) -> None:
    """One PNG with the images row by row."""
    columns = min(columns, len(images))
    rows = len(images) // columns
    tiles = images[: rows * columns].view(rows, columns, *images.shape[1:]).permute(0, 3, 1, 4, 2)
    grid = Image.fromarray(tiles.reshape(rows * images.shape[2], columns * images.shape[3], 3).numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.resize((grid.width * enlarge, grid.height * enlarge), Image.Resampling.NEAREST).save(path)
