"""Trains FID's feature extractor and writes the statistics of the reference images.

    python -m reference.train_extractor --work WORK        reads WORK/data, writes WORK/fid/

The network learns to read the attributes off its features through throw-away linear heads, and to rebuild a small
version of the picture from them: the first makes features that tell right objects from wrong ones, the second makes
them notice blur, noise and wrong colours. Reference images are fresh drawings of the default prompt suite.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from diffsweep.quality.features import Extractor, load_extractor

from . import dataset, models, training, world
from .train_classifier import attributes_loss

BATCH = 128
PEAK_RATE = 2e-3
CONFIG = {"side": world.SIDE, "channels": [24, 48, 64], "num_features": 48}
THUMBNAIL = 16  # pixels
REBUILD_WEIGHT = 20.0
DEVIATION = 10.0  # of every feature over drawn images; puts FID in the tens, which people are used to reading
TOP_NOISE = 0.15  # deviation of the strongest noise shown in training, of 1


class Helpers(nn.Module):
    """What the features are trained through: attribute heads, a thumbnail, and the amount of noise and blur."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleDict({head: nn.Linear(width, len(names)) for head, names in world.HEADS.items()})
        self.thumbnail = nn.Sequential(nn.Linear(width, 256), nn.SiLU(), nn.Linear(256, 3 * THUMBNAIL**2))
        self.damage = nn.Linear(width, 2)

    def loss(self, features: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, damage: torch.Tensor):
        logits = {head: output(features) for head, output in self.heads.items()}
        target = functional.adaptive_avg_pool2d(images, THUMBNAIL).flatten(1)
        rebuilt = functional.mse_loss(self.thumbnail(features), target)
        noticed = functional.mse_loss(self.damage(features), damage)
        return attributes_loss(logits, labels) + REBUILD_WEIGHT * rebuilt + noticed


def damaged(images: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image with some blur or noise (half of them with neither), and how much of both, (N, 2) from 0 to 1."""
    count = len(images)
    amounts = torch.from_numpy(rng.random((count, 2)) * (rng.random((count, 2)) < 0.3)).float()
    padded = functional.pad(images, (2, 2, 2, 2), mode="replicate")
    blurred = functional.avg_pool2d(padded, 5, stride=1)
    mixed = torch.lerp(images, blurred, amounts[:, 0, None, None, None])
    return mixed + torch.randn_like(mixed) * TOP_NOISE * amounts[:, 1, None, None, None], amounts


def train(data: dataset.Dataset, minutes: float, seed: int) -> Extractor:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    extractor, helpers = Extractor(**CONFIG), Helpers(CONFIG["num_features"])
    parameters = [*extractor.parameters(), *helpers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=0.01)
    labels = torch.from_numpy(data.labels)
    clock = training.Clock(minutes * 60)
    for step, rows in enumerate(training.batches(len(data.images), BATCH, rng)):
        training.set_rate(optimizer, training.cosine(clock.share, PEAK_RATE))
        images = torch.from_numpy(data.images[rows]).float() / 255
        shown, damage = damaged(images, rng)
        with training.bfloat16():
            features = extractor(shown)
        loss = helpers.loss(features.float(), images, labels[rows], damage)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            training.progress(clock, step, step * BATCH, (0, 0), loss=loss.item())
        if clock.share >= 1:
            return extractor.eval()


@torch.no_grad()
def scale_features(extractor: Extractor, images: torch.Tensor) -> None:
    """Gives every feature the same deviation over drawn images, so that none rules the distance by its unit alone."""
    factor = DEVIATION / features_of(extractor, images).std(0)
    extractor.project.weight.mul_(factor[:, None])
    extractor.project.bias.mul_(factor)


@torch.inference_mode()
def features_of(extractor: Extractor, images: torch.Tensor) -> torch.Tensor:
    """(N, d) float32."""
    return torch.cat([extractor(part) for part in images.split(200)])


def suite_scenes(prompts: Path) -> list[world.Scene]:
    """The scenes of a suite's prompts, in their order (single objects only)."""
    wanted = yaml.safe_load(prompts.read_text(encoding="utf-8"))["prompts"]
    by_caption = {world.caption(scene, wording): scene for scene in world.single_scenes() for wording in range(3)}
    return [by_caption[prompt] for prompt in wanted]


def write_reference(extractor: Extractor, prompts: Path, per_prompt: int, seed: int, path: Path) -> None:
    """`features` (N, d), `mean` (d,), `covariance` (d, d) of fresh drawings of every prompt of the suite.

    Row i is a drawing of prompt i modulo the number of prompts.
    """
    rng = np.random.default_rng(seed)
    images = world.draw_batch(suite_scenes(prompts) * per_prompt, rng)
    features = features_of(extractor, torch.from_numpy(images))
    statistics = {"mean": features.double().mean(0), "covariance": torch.cov(features.double().T)}
    save_file({"features": features, **statistics}, path)


def main() -> None:
    parser = training.arguments(__doc__, minutes=training.MINUTES["train_extractor"], seed=15)
    parser.add_argument("--prompts", type=Path, default=Path("config/prompts/default.yaml"))
    parser.add_argument("--per-prompt", type=int, default=20, help="reference images per prompt")
    parser.add_argument("--only-reference", action="store_true", help="keep WORK/fid's weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data, folder = dataset.load(options.work / "data"), options.work / "fid"
    if options.only_reference:
        extractor = load_extractor(folder)
    else:
        extractor = train(data, options.minutes, options.seed)
        scale_features(extractor, torch.from_numpy(data.images[:4000]))
        models.save_module(extractor, CONFIG, folder)
    write_reference(extractor, options.prompts, options.per_prompt, options.seed, folder / "reference.safetensors")


if __name__ == "__main__":
    main()
