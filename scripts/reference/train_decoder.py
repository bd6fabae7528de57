"""Trains the autoencoder's decoder further, on the cached latents the denoiser learns from.

    python -m reference.train_decoder --work WORK       reads WORK/data, latents.npy; replaces WORK/vae.safetensors

The encoder stays as it is, so this can run beside the denoiser's training. A little noise on the latents prepares the
decoder for a denoiser that is not exact.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from . import dataset, models, training
from .train_vae import as_pixels, edges_loss

BATCH = 32
PEAK_RATE = 1e-3
EMA_DECAY = 0.99
LATENT_NOISE = 0.05
SAVE_EVERY = 500  # steps


def train(vae: AutoencoderKL, data: dataset.Dataset, latents: np.ndarray, options) -> None:
    """Trains for `options.minutes`, replacing the weights file now and then and at the end."""
    rng = np.random.default_rng(options.seed)
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder])
    average = copy.deepcopy(vae)
    averaged = [*average.post_quant_conv.parameters(), *average.decoder.parameters()]
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    clock = training.Clock(options.minutes * 60)
    for step, rows in enumerate(training.batches(len(latents), BATCH, rng), start=1):
        training.set_rate(optimizer, training.cosine(clock.share, PEAK_RATE))
        pixels = as_pixels(data.images[rows])
        latent = torch.from_numpy(latents[rows]).float()
        with training.bfloat16():
            output = vae.decode(latent + LATENT_NOISE * torch.randn_like(latent)).sample
        output = output.float()
        squared = functional.mse_loss(output, pixels)
        loss = functional.l1_loss(output, pixels) + 2 * squared + 0.5 * edges_loss(output, pixels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, list(decoder.parameters()), 1 - EMA_DECAY)
        if step % 50 == 0:
            decibels = 10 * torch.log10(4 / squared).item()
            training.progress(clock, step, step * BATCH, (0, 0), loss=loss.item(), psnr_db=decibels)
        if step % SAVE_EVERY == 0 or clock.share >= 1:
            training.save_weights(average, options.work / "vae.safetensors")
        if clock.share >= 1:
            return


def main() -> None:
    options = training.arguments(__doc__, minutes=training.MINUTES["train_decoder"], seed=16).parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    vae = models.make_vae()
    vae.load_state_dict(models.read_weights(options.work / "vae.safetensors"))
    vae.train()
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    latents = np.load(options.work / "latents.npy", mmap_mode="r")
    train(vae, dataset.load(options.work / "data"), latents, options)


if __name__ == "__main__":
    main()
