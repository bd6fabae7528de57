"""The three scores of the reference model as arrays per image, and their intervals by bootstrap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPModel, CLIPProcessor

from diffsweep.quality.attributes import attribute_accuracy, load_classifier
from diffsweep.quality.features import load_extractor, load_reference

RESAMPLES = 1000
FID_RESAMPLES = 400
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Scores:
    """One row per image: `features` (N, d), `clip` 100 x cosine, `share` of attributes right, `all_right` 0 or 1."""

    features: np.ndarray
    clip: np.ndarray
    share: np.ndarray
    all_right: np.ndarray


class Scorer:
    """Holds the three networks and the reference statistics of `resources/`."""

    def __init__(self, resources: Path):
        self.classifier = load_classifier(resources / "classifier")
        self.extractor = load_extractor(resources / "fid")
        self.reference = {name: value.numpy() for name, value in load_reference(resources / "fid").items()}
        self.clip = CLIPModel.from_pretrained(resources / "clip").eval()
        self.processor = CLIPProcessor.from_pretrained(resources / "clip")

    @torch.inference_mode()
    def score(self, images: torch.Tensor, prompts: list[str]) -> Scores:
        """`images` (N, 3, 64, 64) uint8."""
        rows = attribute_accuracy(images, prompts, self.classifier)
        inputs = self.processor(text=prompts, images=list(images), return_tensors="pt", padding=True)
        seen = self.clip.get_image_features(pixel_values=inputs["pixel_values"])
        said = self.clip.get_text_features(inputs["input_ids"], inputs["attention_mask"])
        return Scores(
            features=self.extractor(images).numpy(),
            clip=100 * torch.cosine_similarity(seen, said).numpy(),
            share=np.array([row["share"] for row in rows]),
            all_right=np.array([row["all_right"] for row in rows], dtype=float),
        )

    def fid(self, features: np.ndarray) -> float:
        return frechet_distance(
            features.mean(0), np.cov(features.T), self.reference["mean"], self.reference["covariance"]
        )


def frechet_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), the trace of the root by eigenvalues."""
    eigenvalues = np.linalg.eigvals(cov_a @ cov_b)
    root = np.sqrt(np.clip(eigenvalues.real, 0, None)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


# Resampled are prompts, each with all of its images: image i is of prompt i modulo `prompts`, and images of one prompt
# are more alike than others.


def resamples(prompts: int, seed: int = 0) -> np.ndarray:
    """(RESAMPLES, prompts) indices of prompts; the same for every variant, so that differences are paired."""
    return np.random.default_rng(seed).integers(0, prompts, (RESAMPLES, prompts))


def mean_draws(values: np.ndarray, prompts: int) -> np.ndarray:
    return values.reshape(-1, prompts).mean(0)[resamples(prompts)].mean(1)


def fid_draws(scorer: Scorer, features: np.ndarray, prompts: int) -> np.ndarray:
    """FID of resampled prompts, taken against the reference drawings of the same resampled prompts.

    Resampling the images alone would compare a changed mix of colours and shapes with an unchanged one, and the
    interval would mostly show that mix. Reference row i is a drawing of prompt i modulo `prompts`.
    """
    by_prompt = [each.reshape(-1, prompts, features.shape[1]) for each in (scorer.reference["features"], features)]
    draws = []
    for chosen in resamples(prompts)[:FID_RESAMPLES]:
        drawn, made = (each[:, chosen].reshape(-1, features.shape[1]) for each in by_prompt)
        draws.append(frechet_distance(made.mean(0), np.cov(made.T), drawn.mean(0), np.cov(drawn.T)))
    return np.array(draws)


def with_interval(value: float, draws: np.ndarray, centre: bool = False) -> dict[str, float]:
    """The value and its 95 % interval: percentiles of the draws.

    `centre` moves the draws so that their mean sits on the value. FID needs that: resampled images repeat, which makes
    every draw larger than the value itself.
    """
    shift = value - draws.mean() if centre else 0.0
    low, high = np.quantile(draws + shift, QUANTILES)
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
