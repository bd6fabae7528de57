"""Renders the training set once, so that every training program reads the same images from a memory map."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import world

COUNT = 80_000
CHUNK = 1000


@dataclass(frozen=True)
class Dataset:
    """`images` (N, 3, 64, 64) uint8, memory-mapped; `captions` N strings; `labels` (N, heads) int64."""

    images: np.ndarray
    captions: list[str]
    labels: np.ndarray


def render(folder: Path, count: int, seed: int, single_share: float = world.SINGLE_SHARE) -> None:
    """Draws `count` scenes of the training split into `folder`; a finished folder is left as it is."""
    if (folder / "captions.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    scenes = world.sample_scenes(count, rng, single_share=single_share)
    shape = (count, 3, world.SIDE, world.SIDE)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, count, CHUNK):
        images[start : start + CHUNK] = world.draw_batch(scenes[start : start + CHUNK], rng)
    images.flush()
    np.save(folder / "labels.npy", world.label_array(scenes))
    captions = [world.sample_caption(scene, rng) for scene in scenes]
    (folder / "captions.json").write_text(json.dumps(captions))  # last: marks the folder as finished


def load(folder: Path) -> Dataset:
    captions = json.loads((folder / "captions.json").read_text())
    return Dataset(np.load(folder / "images.npy", mmap_mode="r"), captions, np.load(folder / "labels.npy"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    render(arguments.folder, arguments.count, arguments.seed)


if __name__ == "__main__":
    main()
