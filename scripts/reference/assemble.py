"""Puts the trained parts of a work folder together as `resources/`.

    python -m reference.assemble --work WORK --resources resources

Run it with transformers 4.57 (models.save_pipeline says why). Parts that are missing keep random weights with
--allow-untrained, which is of use only while the other stages are being developed.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from . import models
from . import tokenizer as words

PARTS = ("clip", "vae", "unet-ema")
SCORERS = ("fid", "classifier")


def build_parts(work: Path, allow_untrained: bool) -> list[torch.nn.Module]:
    """(clip, vae, unet) with the weights of the work folder."""
    words.write(work / "tokenizer")
    tokenizer = words.load(work / "tokenizer")
    parts = [models.make_clip(len(tokenizer), tokenizer.eos_token_id), models.make_vae(), models.make_unet()]
    for part, name in zip(parts, PARTS, strict=True):
        path = work / f"{name}.safetensors"
        if path.exists() or not allow_untrained:
            part.load_state_dict(models.read_weights(path))
    return parts


def assemble(work: Path, resources: Path, allow_untrained: bool = False) -> None:
    """Writes each folder of `resources`; the model card and evaluation.json in them stay."""
    clip, vae, unet = build_parts(work, allow_untrained)
    models.save_clip(clip, resources / "clip")
    models.save_pipeline(clip, vae, unet, resources / "reference-model")
    for name in SCORERS:
        if (work / name).exists() or not allow_untrained:
            shutil.copytree(work / name, resources / name, dirs_exist_ok=True)
    for path in resources.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes files that only their owner reads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--resources", type=Path, default=Path("resources"))
    parser.add_argument("--allow-untrained", action="store_true")
    options = parser.parse_args()
    assemble(options.work, options.resources, options.allow_untrained)


if __name__ == "__main__":
    main()
