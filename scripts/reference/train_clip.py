"""Trains the small CLIP: captions and images into one space, with one hard negative caption per image.

    python -m reference.train_clip --work WORK       reads WORK/data, writes WORK/clip.safetensors and WORK/tokenizer

Beside the contrastive loss, throw-away linear heads read the attributes off both embeddings; with so little training
time they teach both towers what to look at. A caption's hard negative differs from it in one word.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPModel

from . import dataset, models, training, world
from . import tokenizer as words

BATCH = 128
PEAK_RATE = 1.5e-3
HELPER_WEIGHT = 1.0
KINDS = (world.SHAPES, tuple(world.COLOURS), world.SIZES, world.TEXTURES)


def hard_negative(caption: str, rng: np.random.Generator) -> str:
    """The caption with one attribute word changed, or, now and then, its two objects' words exchanged."""
    parts = caption.split()
    places = [(place, kind) for place, word in enumerate(parts) for kind in KINDS if word in kind]
    place, kind = places[rng.integers(len(places))]
    others = [other for other, same_kind in places if same_kind is kind and parts[other] != parts[place]]
    if others and rng.random() < 0.5:
        other = others[rng.integers(len(others))]
        parts[place], parts[other] = parts[other], parts[place]
    else:
        parts[place] = str(rng.choice([word for word in kind if word != parts[place]]))
    return " ".join(parts)


def as_clip_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 to float32 from -1 to 1, which is what the saved image processor makes of a 64x64 picture."""
    return torch.from_numpy(np.ascontiguousarray(images)).float() / 127.5 - 1


class Helpers(nn.Module):
    """Linear heads that read every attribute off an embedding; used in training only."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(names)) for names in world.HEADS.values())

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = [
            functional.cross_entropy(head(embedding), labels[:, column], ignore_index=world.NOT_THERE)
            for column, head in enumerate(self.heads)
        ]
        return torch.stack(losses).nan_to_num().mean()


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """InfoNCE both ways. `text` holds the N captions and then N hard negatives; `same` (N, N) marks other rows of the
    batch with the very same attributes, which are no negatives."""
    image, text = functional.normalize(image, dim=-1), functional.normalize(text, dim=-1)
    logits = scale.exp() * image @ text.T
    count = len(image)
    mask = torch.cat([same, torch.zeros_like(same)], 1)
    logits = logits.masked_fill(mask, -1e4)
    target = torch.arange(count)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits[:, :count].T, target)) / 2


def train(data: dataset.Dataset, clip: CLIPModel, tokenizer, minutes: float, seed: int) -> CLIPModel:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    helpers = nn.ModuleDict({"image": Helpers(64), "text": Helpers(64)})
    parameters = [*clip.parameters(), *helpers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02)
    ids = words.encode(tokenizer, data.captions)
    labels = torch.from_numpy(data.labels)
    clock = training.Clock(minutes * 60)
    for step, rows in enumerate(training.batches(len(data.images), BATCH, rng)):
        training.set_rate(optimizer, training.cosine(clock.share, PEAK_RATE))
        negatives = words.encode(tokenizer, [hard_negative(data.captions[row], rng) for row in rows])
        truth = labels[rows]
        same = (truth[:, None] == truth[None]).all(-1) & ~torch.eye(len(rows), dtype=torch.bool)
        with training.bfloat16():
            image = clip.get_image_features(pixel_values=as_clip_pixels(data.images[rows]))
            text = clip.get_text_features(input_ids=torch.cat([ids[rows], negatives]))
        image, text = image.float(), text.float()
        contrast = contrastive_loss(image, text, clip.logit_scale, same)
        helped = helpers["image"](image, truth) + helpers["text"](text[: len(rows)], truth)
        optimizer.zero_grad()
        (contrast + HELPER_WEIGHT * helped).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, 4.0)
        if step % 25 == 0:
            training.progress(clock, step, step * BATCH, (0, 0), contrast=contrast.item(), helped=helped.item())
        if clock.share >= 1:
            return clip.eval()


def main() -> None:
    options = training.arguments(__doc__, minutes=training.MINUTES["train_clip"], seed=12).parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    words.write(options.work / "tokenizer")
    tokenizer = words.load(options.work / "tokenizer")
    clip = models.make_clip(len(tokenizer), tokenizer.eos_token_id)
    clip = train(dataset.load(options.work / "data"), clip, tokenizer, options.minutes, options.seed)
    training.save_weights(clip, options.work / "clip.safetensors")


if __name__ == "__main__":
    main()
