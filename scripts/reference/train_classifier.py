"""Trains the attribute classifier, the judge of whether an image shows what its caption says.

    python -m reference.train_classifier --work WORK       reads WORK/data, writes WORK/classifier/

Half of the batches are blurred or noised a little, so that the judge also reads images softer than the drawn ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from diffsweep.quality.attributes import AttributeClassifier

from . import dataset, models, training, world

BATCH = 128
PEAK_RATE = 2e-3
CONFIG = {
    "side": world.SIDE,
    "channels": [24, 48, 64, 64],
    "hidden": 128,
    "heads": {head: list(names) for head, names in world.HEADS.items()},
}


def soften(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Leaves images as they are, blurs them, or adds noise."""
    choice = rng.random()
    if choice < 0.5:
        return images
    if choice < 0.75:
        blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return torch.lerp(images, blurred, float(rng.random()))
    return images + torch.randn_like(images) * float(rng.uniform(0, 0.08))


def attributes_loss(logits: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the heads; attributes that a scene does not have do not count."""
    losses = [
        functional.cross_entropy(output, labels[:, column], ignore_index=world.NOT_THERE)
        for column, output in enumerate(logits.values())
    ]
    return torch.stack(losses).nan_to_num().mean()


def train(data: dataset.Dataset, minutes: float, seed: int) -> AttributeClassifier:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    classifier = AttributeClassifier(CONFIG["side"], CONFIG["channels"], CONFIG["hidden"], CONFIG["heads"])
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    labels = torch.from_numpy(data.labels)
    clock = training.Clock(minutes * 60)
    for step, rows in enumerate(training.batches(len(data.images), BATCH, rng)):
        training.set_rate(optimizer, training.cosine(clock.share, PEAK_RATE))
        images = soften(torch.from_numpy(data.images[rows]).float() / 255, rng)
        loss = attributes_loss(classifier(images), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            training.progress(clock, step, step * BATCH, (0, 0), loss=loss.item())
        if clock.share >= 1:
            return classifier.eval()


def main() -> None:
    options = training.arguments(__doc__, minutes=training.MINUTES["train_classifier"], seed=14).parse_args()
    torch.set_num_threads(options.threads)
    classifier = train(dataset.load(options.work / "data"), options.minutes, options.seed)
    models.save_module(classifier, CONFIG, options.work / "classifier")


if __name__ == "__main__":
    main()
