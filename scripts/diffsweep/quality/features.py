"""The feature extractor of FID: a small convolutional network whose pooled activations describe an image.

Its width is small on purpose (tens of features, not 2,048), so that a few hundred images estimate the mean and
covariance well. It has `num_features` and takes uint8 batches, so torchmetrics accepts it as a feature network.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Halves the side: a strided and a plain 3x3 convolution."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1),
        nn.GroupNorm(8, channels_out),
        nn.SiLU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.GroupNorm(8, channels_out),
        nn.SiLU(),
    )


def as_unit_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 0 to 255 or float 0 to 1, either way float32 0 to 1."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


class Extractor(nn.Module):
    """(N, 3, H, W) uint8, or float from 0 to 1, to (N, num_features) float32."""

    def __init__(self, side: int, channels: list[int], num_features: int):
        super().__init__()
        self.side = side
        self.num_features = num_features
        widths = [3, *channels]
        self.blocks = nn.Sequential(*(_block(a, b) for a, b in zip(widths, widths[1:], strict=False)))
        rest = side // 2 ** len(channels)
        self.project = nn.Linear(channels[-1] * rest * rest, num_features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = as_unit_float(images)
        if images.shape[-2:] != (self.side, self.side):
            size = (self.side, self.side)
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        return self.project(self.blocks(images * 2 - 1).flatten(1))


def load_extractor(folder: str | Path) -> Extractor:
    """The extractor in `folder` (config.json, weights.safetensors), in evaluation mode, without gradients."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    extractor = Extractor(config["side"], config["channels"], config["num_features"])
    extractor.load_state_dict(load_file(folder / "weights.safetensors"))
    return extractor.eval().requires_grad_(False)


def load_reference(folder: str | Path) -> dict[str, torch.Tensor]:
    """Statistics of the reference images: `features` (N, d), `mean` (d,), `covariance` (d, d)."""
    return load_file(Path(folder) / "reference.safetensors")
