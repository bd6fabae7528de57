"""How far the images are from the baseline's of the same prompt and seed: SSIM and PSNR per pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

# Equal images have an infinite PSNR. A single step of a single value in 256 x 256 x 3 values gives 101 dB, so 100 dB
# stands for "equal, or as good as"; how many are equal in every byte is counted by itself.
HIGHEST_PSNR_DB = 100.0
WORST_PAIRS = 5


def ssim_of(images: torch.Tensor, baseline: torch.Tensor) -> list[float]:
    """SSIM of each pair of uint8 images (n, 3, height, width); 1 when they are equal (Wang et al. 2004)."""
    ssim = structural_similarity_index_measure(images.float(), baseline.float(), data_range=255.0, reduction="none")
    return np.atleast_1d(ssim.numpy()).astype(float).tolist()


def psnr_db_of(images: torch.Tensor, baseline: torch.Tensor) -> list[float]:
    """PSNR of each pair of uint8 images, in dB, at most HIGHEST_PSNR_DB."""
    errors = ((images.double() - baseline.double()) ** 2).mean(dim=(1, 2, 3)).numpy()
    with np.errstate(divide="ignore"):
        return np.minimum(10 * np.log10(255.0**2 / errors), HIGHEST_PSNR_DB).tolist()


def equal_of(images: torch.Tensor, baseline: torch.Tensor) -> list[bool]:
    """Is each pair equal in every byte?"""
    return (images == baseline).flatten(1).all(dim=1).tolist()


def summarise(values: Sequence[float]) -> dict[str, float]:
    """The median, and the value that 95 % of the pairs reach."""
    return {"median": float(np.median(values)), "p95_worst": float(np.quantile(values, 0.05))}


def worst_pairs(entries: Sequence[dict], ssim: Sequence[float], psnr_db: Sequence[float]) -> list[dict]:
    """The pairs with the lowest SSIM, the worst first. `entries`: the images of images.json."""
    order = np.argsort(ssim, kind="stable")[:WORST_PAIRS]
    named = ("file", "prompt_id", "seed", "prompt")
    return [{**{k: entries[i][k] for k in named}, "ssim": ssim[i], "psnr_db": psnr_db[i]} for i in order]
