"""Caches what the denoiser trains on: image latents and the text encoder's output per caption.

    python -m reference.encode_latents --work WORK

Reads WORK/data, vae.safetensors and clip.safetensors; writes latents.npy (N, 4, 16, 16) float16, texts.npy
(U, 24, 128) float16 for the U different captions, the empty one first, and text_index.npy (N,).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from . import dataset, models
from . import tokenizer as words
from .train_vae import as_pixels

CHUNK = 250


def load_parts(work: Path):
    """The trained (clip, vae, tokenizer) of a work folder."""
    tokenizer = words.load(work / "tokenizer")
    clip = models.make_clip(len(tokenizer), tokenizer.eos_token_id)
    clip.load_state_dict(models.read_weights(work / "clip.safetensors"))
    vae = models.make_vae()
    vae.load_state_dict(models.read_weights(work / "vae.safetensors"))
    return clip.eval(), vae.eval(), tokenizer


def make_latents_file(count: int, path: Path) -> None:
    shape = (count, models.LATENT_CHANNELS, models.LATENT_SIDE, models.LATENT_SIDE)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape).flush()


@torch.inference_mode()
def encode_images(part: int, parts: int, work: Path) -> None:
    """Fills every `parts`-th chunk of latents.npy, beginning with chunk `part`; one process per core does so."""
    torch.set_num_threads(1)
    images, (_, vae, _) = dataset.load(work / "data").images, load_parts(work)
    latents = np.load(work / "latents.npy", mmap_mode="r+")
    for start in range(part * CHUNK, len(images), parts * CHUNK):
        pixels = as_pixels(images[start : start + CHUNK])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
        latents[start : start + CHUNK] = posterior.mean.float().numpy()
    latents.flush()


@torch.inference_mode()
def encode_captions(clip, tokenizer, captions: list[str], folder: Path) -> None:
    different = ["", *sorted(set(captions))]
    place = {caption: index for index, caption in enumerate(different)}
    encoder = models.text_tower(clip)
    hidden = [
        encoder(words.encode(tokenizer, different[start : start + CHUNK])).last_hidden_state
        for start in range(0, len(different), CHUNK)
    ]
    np.save(folder / "texts.npy", torch.cat(hidden).numpy().astype(np.float16))
    np.save(folder / "text_index.npy", np.array([place[caption] for caption in captions]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    work = options.work
    data = dataset.load(work / "data")
    clip, _, tokenizer = load_parts(work)
    encode_captions(clip, tokenizer, data.captions, work)
    make_latents_file(len(data.images), work / "latents.npy")
    torch.multiprocessing.spawn(encode_images, (options.processes, work), nprocs=options.processes)


if __name__ == "__main__":
    main()
