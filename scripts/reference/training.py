"""What the training programs share: a schedule by wall time, progress lines, and files that a kill cannot break."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

# How long each program trains, on one core (train_unet: on all).
MINUTES = {
    "train_clip": 13.0,
    "train_vae": 13.0,
    "train_decoder": 10.0,
    "train_unet": 60.0,
    "train_classifier": 2.5,
    "train_extractor": 2.5,
}
WARM_UP = 0.02  # share of the training time in which the learning rate rises


class Clock:
    """Counts the seconds spent training, across restarts, and turns them into a learning rate."""

    def __init__(self, budget_s: float, spent_s: float = 0.0):
        self.budget_s = budget_s
        self._began = time.monotonic() - spent_s

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def share(self) -> float:
        return min(self.spent_s / self.budget_s, 1.0)


def cosine(share: float, peak: float) -> float:
    """Learning rate after `share` of the time: a short linear rise, then half a cosine down to nearly zero."""
    if share < WARM_UP:
        return peak * max(share / WARM_UP, 0.01)
    return peak * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Index batches without end: a new permutation each epoch, sorted inside a batch for the memory map's sake."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield np.sort(order[start : start + size])


def save_weights(module: torch.nn.Module | dict[str, torch.Tensor], path: Path) -> None:
    """Writes beside and renames, so that a reader never sees half a file."""
    state = module if isinstance(module, dict) else module.state_dict()
    beside = path.with_suffix(".new")
    save_file({name: value.detach().contiguous().clone() for name, value in state.items()}, beside)
    os.replace(beside, path)


def save_state(state: dict, path: Path) -> None:
    """A resumable checkpoint (torch format; it stays in the work folder and is never shipped)."""
    beside = path.with_suffix(".new")
    torch.save(state, beside)
    os.replace(beside, path)


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


def progress(clock: Clock, step: int, images: int, started_at: tuple[float, int], **values: float) -> None:
    """One line: step, images, rate since this process began, time left, and whatever is worth watching."""
    began_s, began_images = started_at
    rate = (images - began_images) / max(clock.spent_s - began_s, 1e-9)
    rest_s = max(clock.budget_s - clock.spent_s, 0)
    watched = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    print(f"step {step}  images {images}  {rate:.0f} images/s  {rest_s:.0f} s to go  {watched}", flush=True)


def arguments(description: str, minutes: float, seed: int) -> argparse.ArgumentParser:
    """The options every training program has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, required=True, help="folder of the data set, weights and checkpoints")
    parser.add_argument("--minutes", type=float, default=minutes, help="training time; the schedule fits into it")
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--threads", type=int, default=1)
    return parser
