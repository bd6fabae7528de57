"""Does the picture show what the caption says? An attribute classifier for the reference model's world.

The classifier reads shape, colour, texture, size, background and layout off an image; the caption is parsed into the
same words. It shares no weights with the FID extractor or CLIP, so it checks both independently.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

LAYOUT_OF = {"left": "horizontal", "right": "horizontal", "above": "vertical", "below": "vertical"}
NAMED_SECOND = ("right", "below")  # "x right of y": y is the left one, which the classifier calls the first


class AttributeClassifier(nn.Module):
    """(N, 3, side, side) floats from 0 to 1 to one row of logits per head; `heads` maps a head to its words."""

    def __init__(self, side: int, channels: list[int], hidden: int, heads: dict[str, list[str]]):
        super().__init__()
        self.heads = heads
        widths = [3, *channels]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        rest = side // 2 ** len(channels)
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * rest * rest, hidden), nn.ReLU())
        self.outputs = nn.ModuleDict({head: nn.Linear(hidden, len(words)) for head, words in heads.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        trunk = self.trunk(images.float() * 2 - 1)
        return {head: output(trunk) for head, output in self.outputs.items()}


def load_classifier(folder: str | Path) -> AttributeClassifier:
    """The classifier in `folder` (config.json, weights.safetensors), in evaluation mode, without gradients."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    classifier = AttributeClassifier(config["side"], config["channels"], config["hidden"], config["heads"])
    classifier.load_state_dict(load_file(folder / "weights.safetensors"))
    return classifier.eval().requires_grad_(False)


def parse_prompt(prompt: str, heads: dict[str, list[str]]) -> dict[str, str]:
    """The attributes that the caption names, head -> word; empty where it does not speak of this world.

    >>> heads = {"background": ["blue"], "first_shape": ["star"], "first_colour": ["red"], "layout": ["single"]}
    >>> parse_prompt("a red star on a blue background", heads)
    {'layout': 'single', 'background': 'blue', 'first_shape': 'star', 'first_colour': 'red'}
    """
    things: list[dict[str, str]] = [{}]
    relation = None
    said: dict[str, str] = {}
    for word in prompt.lower().replace(",", " , ").split():
        if word in LAYOUT_OF:
            relation = word
            things.append({})
        elif word in ("on", ","):
            things.append({})  # what follows is the background
        else:
            things[-1].update(_attribute(word, heads))
    objects = [thing for thing in things if "shape" in thing]
    if not objects:
        return {}
    said["layout"] = LAYOUT_OF.get(relation, "single")
    if "colour" in things[-1] and "shape" not in things[-1]:
        said["background"] = things[-1]["colour"]
    if "size" in objects[0]:
        said["size"] = objects[0]["size"]
    if relation in NAMED_SECOND:
        objects.reverse()
    for slot, thing in zip(("first", "second"), objects, strict=False):
        said |= {f"{slot}_{kind}": thing[kind] for kind in ("shape", "colour", "texture") if kind in thing}
    return {head: word for head, word in said.items() if word in heads.get(head, ())}


def _attribute(word: str, heads: dict[str, list[str]]) -> dict[str, str]:
    """{"colour": "red"} for "red"; nothing for a word that is no attribute."""
    for kind in ("shape", "colour", "texture"):
        if word in heads.get(f"first_{kind}", ()):
            return {kind: word}
    return {"size": word} if word in heads.get("size", ()) else {}


def attribute_accuracy(
    images: torch.Tensor, prompts: list[str], classifier: AttributeClassifier
) -> list[dict[str, float | bool | int | None]]:
    """Per image: `attributes` named, `right` of them, `share` = right / attributes, `all_right`, each head's result.

    `images` is (N, 3, side, side), uint8 or float from 0 to 1. A prompt that names nothing gives None for the share.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    with torch.inference_mode():
        seen = {head: logits.argmax(1).tolist() for head, logits in classifier(images).items()}
    rows = []
    for index, prompt in enumerate(prompts):
        said = parse_prompt(prompt, classifier.heads)
        results = {head: classifier.heads[head][seen[head][index]] == word for head, word in said.items()}
        right = sum(results.values())
        rows.append(
            {
                "attributes": len(results),
                "right": right,
                "share": right / len(results) if results else None,
                "all_right": right == len(results) if results else None,
                **{f"{head}_right": value for head, value in results.items()},
            }
        )
    return rows
