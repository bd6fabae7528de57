"""FID: features of images, torchmetrics' statistic on them, and the intervals that `frechet` adds."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from diffsweep.quality import frechet
from diffsweep.quality.features import Extractor, load_reference
from diffsweep.sweep.outcomes import Failed

# The covariance of d features needs more than d images; Inception's 2,048 features are known to need 5,000 (METHOD.md).
WIDE, WIDE_WARNING = 2048, 5000
AGREEMENT = 1e-4  # relative; torchmetrics and `frechet` take different roads to one number


@dataclass(frozen=True)
class Compared:
    """Features (n, d) of the variant's and the baseline's images, and each prompt's positions."""

    variant: np.ndarray
    baseline: np.ndarray | None
    prompts: list[np.ndarray]


class StoredFeatures(torch.nn.Module):
    """Hands features on as they are, so that torchmetrics computes FID from stored features, without images."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


@torch.inference_mode()
def features_of(images: torch.Tensor, extractor: Extractor) -> np.ndarray:
    """Features (n, d), float32, of uint8 images (n, 3, height, width)."""
    return extractor(images).float().numpy()


def torchmetrics_fid(features: np.ndarray, reference: np.ndarray) -> float:
    """FID as torchmetrics computes it."""
    metric = FrechetInceptionDistance(feature=StoredFeatures(features.shape[1]), normalize=False)
    metric.update(torch.from_numpy(np.asarray(reference, np.float64)), real=True)
    metric.update(torch.from_numpy(np.asarray(features, np.float64)), real=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of single precision, which is not used here
        return float(metric.compute())


def refusal(images: int, width: int) -> str | None:
    """Why FID must not be computed from so few images; None when it may."""
    least = WIDE if width >= WIDE else width + 1
    if images < least:
        return f"FID needs at least {least} images for {width} features; there are {images}"
    return None


def score(compared: Compared, reference_folder: Path) -> dict:
    """The FID part of quality.json: fid, fid_corrected, fid_floor, and both comparisons with the baseline."""
    reference = load_reference(reference_folder)["features"].double().numpy()
    n = min(len(compared.variant), len(reference))
    width = reference.shape[1]
    refused = refusal(n, width)
    if refused:
        return {"fid": None, "fid_refused": refused}
    real = reference[:n]  # the same number on both sides
    kept = cut(compared, n)
    distance = frechet.distance(kept.variant, real, kept.prompts)
    value = torchmetrics_fid(kept.variant, real)
    if abs(value - distance.value) > AGREEMENT * max(1.0, abs(value)):
        raise Failed(f"FID: torchmetrics says {value:.6g}, the independent computation {distance.value:.6g}")
    floor_value, floor_n = frechet.floor(reference, n)
    few = WIDE_WARNING if width >= WIDE else 0
    scores = {
        "fid": {"value": value, "low": distance.low, "high": distance.high, "n": n, "features": width},
        "fid_corrected": corrected(distance),
        "fid_floor": {"value": floor_value, "n": floor_n},
        "fid_warning": f"{n} images are few for {width} features; use {few} or more" if n < few else None,
    }
    return scores | comparisons(kept, real)


def comparisons(compared: Compared, reference: np.ndarray) -> dict:
    """FID's two comparisons with the baseline's images; null without them."""
    if compared.baseline is None:
        return {"fid_difference": None, "fid_to_baseline": None}
    difference = frechet.difference(compared.variant, compared.baseline, reference, compared.prompts)
    between = frechet.distance(compared.variant, compared.baseline, compared.prompts)
    return {"fid_difference": plain(difference), "fid_to_baseline": plain(between)}


def cut(compared: Compared, n: int) -> Compared:
    """The first n images only."""
    prompts = [rest for where in compared.prompts if len(rest := where[where < n])]
    return Compared(compared.variant[:n], None if compared.baseline is None else compared.baseline[:n], prompts)


def plain(distance: frechet.Distance) -> dict:
    return {key: asdict(distance)[key] for key in ("value", "low", "high")}


def corrected(distance: frechet.Distance) -> dict:
    return {"value": distance.corrected, "low": distance.corrected_low, "high": distance.corrected_high}
