"""CLIP score per image: 100 x the cosine between the image's and the prompt's embedding (Hessel et al. 2021)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The model is a local folder; nothing is ever looked up on the hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402

# Per image, which the public CLIPScore does not give: it keeps only a sum. The lock pins torchmetrics, and a test
# compares the mean with the public class.
from torchmetrics.functional.multimodal.clip_score import _clip_score_update  # noqa: E402

transformers.utils.logging.set_verbosity_error()


@dataclass(frozen=True)
class Clip:
    """A CLIP model in evaluation mode, and its processor."""

    model: Any
    processor: Any


def load_clip(folder: Path | str) -> Clip:
    """The CLIP model in `folder` (transformers format: CLIPModel, CLIPTokenizer, CLIPImageProcessor)."""
    model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
    processor = transformers.CLIPProcessor(
        image_processor=transformers.CLIPImageProcessor.from_pretrained(folder, local_files_only=True),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True),
    )
    return Clip(model, processor)


@torch.inference_mode()
def scores_of(images: torch.Tensor, prompts: Sequence[str], clip: Clip) -> list[float]:
    """The CLIP score of each uint8 image (n, 3, height, width) for its prompt."""
    scores, _ = _clip_score_update(list(images), list(prompts), clip.model, clip.processor)
    return scores.tolist()


def truncated(prompts: Sequence[str], clip: Clip) -> int:
    """How many prompts have more tokens than the model reads; their ends are not scored."""
    longest = clip.model.config.text_config.max_position_embeddings
    return sum(len(ids) > longest for ids in clip.processor.tokenizer(list(prompts))["input_ids"])


def resize_method(clip: Clip) -> str:
    """How images are brought to the model's size, in words."""
    image = clip.processor.image_processor
    size = f"{image.size.get('height', image.size.get('shortest_edge'))} px"
    return f"resize to {size}, PIL resample {int(image.resample)}" if image.do_resize else "none"
