"""Writes the prompt suites of the reference model: config/prompts/{default,hard,edge,calibration}.yaml.

python -m reference.make_prompts --out config/prompts
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import yaml

from . import world

DEFAULT_COUNT, HARD_COUNT, CALIBRATION_COUNT = 200, 100, 32

EDGE = [
    "",
    "a large plain red circle on a blue background " * 60,
    "an astronaut riding a horse in the style of an oil painting",
    "ein großer roter Kreis auf blauem Grund, 一个红色的圆圈, красный круг",
    "🔴 on a 🟦 background 🎉🎉",
    "?!.,;:-()[]{}'\"",
    "<b>a large plain red circle</b> <script>alert(1)</script> &amp; on a blue background",
    "   a   large plain\tred circle\n on a blue background   ",
    "A LARGE PLAIN RED CIRCLE ON A BLUE BACKGROUND",
    "a circle",
]


def _attributes(scene: world.Scene) -> set[str]:
    thing = scene.things[0]
    return {thing.shape, thing.colour, thing.texture, f"on {scene.background}", str(thing.size)}


def most_diverse_first(scenes: list[world.Scene]) -> list[world.Scene]:
    """Orders scenes so that any beginning of the list shows every attribute about equally often."""
    seen: dict[str, int] = {}
    rest, ordered = list(scenes), []
    while rest:
        # Small families of words weigh more: of two sizes each should be every second, of eight colours each eighth.
        best = min(rest, key=lambda scene: sum(seen.get(word, 0) ** 2 for word in _attributes(scene)))
        rest.remove(best)
        ordered.append(best)
        for word in _attributes(best):
            seen[word] = seen.get(word, 0) + 1
    return ordered


def _worded(scenes: list[world.Scene]) -> list[str]:
    """Captions; one in five uses another wording than the plain one."""
    return [world.caption(scene, (0, 0, 0, 0, 1, 0, 0, 0, 0, 2)[index % 10]) for index, scene in enumerate(scenes)]


def default_prompts(rng: np.random.Generator) -> list[str]:
    held_out = [scene for scene in world.single_scenes() if world.is_held_out(scene)]
    shuffled = [held_out[index] for index in rng.permutation(len(held_out))]
    return _worded(most_diverse_first(shuffled)[:DEFAULT_COUNT])


def hard_prompts(rng: np.random.Generator) -> list[str]:
    return _worded(world.sample_scenes(HARD_COUNT, rng, held_out=True, single_share=0.0))


def calibration_prompts(rng: np.random.Generator) -> list[str]:
    singles = world.sample_scenes(CALIBRATION_COUNT - 4, rng, single_share=1.0)
    return _worded(singles + world.sample_scenes(4, rng, single_share=0.0))


def suites(seed: int) -> dict[str, dict]:
    """Name -> suite, each with its own random numbers."""
    texts = {
        "default": "One object, attribute combinations held out of training; any beginning of the list is diverse.",
        "hard": "Two objects, combinations held out of training.",
        "edge": "Input that is valid but odd: empty, far too long, unknown words, other scripts, punctuation, HTML.",
        "calibration": "Training-split prompts for the calibration of int8 conversions; never used for scores.",
    }
    makers = {"default": default_prompts, "hard": hard_prompts, "calibration": calibration_prompts}
    made = {name: maker(np.random.default_rng([seed, index])) for index, (name, maker) in enumerate(makers.items())}
    made["edge"] = EDGE
    return {name: {"name": name, "description": text, "prompts": made[name]} for name, text in texts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, suite in suites(arguments.seed).items():
        text = yaml.safe_dump(suite, sort_keys=False, allow_unicode=True, width=1000)
        (arguments.out / f"{name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
