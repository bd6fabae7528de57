"""Writes the model card, resources/reference-model/README.md, from evaluation.json; no number in it is typed by hand.

    python -m reference.write_card --resources resources

The text around the numbers is card.md beside this file; `{...}` marks in it are filled in here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

TEMPLATE = Path(__file__).with_name("card.md")
GOALS = {"attributes_right": 0.95, "all_right": 0.90}
METRICS = {"fid": "FID", "clip_score": "CLIP score", "attributes_right": "attributes right", "all_right": "all right"}
PARTS = {
    "denoiser (UNet)": "reference-model/unet/",
    "autoencoder": "reference-model/vae/",
    "text encoder": "reference-model/text_encoder/",
    "CLIP (both towers)": "clip/",
    "FID extractor": "fid/weights",
    "FID reference statistics": "fid/reference",
    "attribute classifier": "classifier/",
    "all": "total",
}


def with_interval(found: dict, digits: int) -> str:
    return f"{found['value']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def digits_of(metric: str) -> int:
    return 3 if metric.endswith("right") else 2


def cell(row: dict, metric: str) -> str:
    """Value and interval; a change that is worse beyond its interval is marked."""
    if metric not in row:
        return "n/a"
    change = row.get("change", {}).get(metric)
    return with_interval(row[metric], digits_of(metric)) + (
        " **worse**" if change and change["worse_beyond_interval"] else ""
    )


def damage_table(rows: dict[str, dict]) -> str:
    lines = ["| images | " + " | ".join(METRICS.values()) + " |", "|---" * (len(METRICS) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cell(row, metric) for metric in METRICS) + " |" for name, row in rows.items()]
    return "\n".join(lines)


def attribute_table(default: dict[str, float], hard: dict[str, float]) -> str:
    lines = ["| attribute | default suite | hard suite |", "|---|---|---|"]
    for head in dict.fromkeys([*default, *hard]):
        cells = [f"{found[head]:.3f}" if head in found else "n/a" for found in (default, hard)]
        lines.append(f"| {head.removesuffix('_right').replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def size_table(sizes: dict[str, int]) -> str:
    lines = ["| part | MB |", "|---|---|"]
    for part, prefix in PARTS.items():
        total = sum(size for name, size in sizes.items() if name.startswith(prefix))
        lines.append(f"| {part} | {total / 1e6:.2f} |")
    return "\n".join(lines)


def verdicts(baseline: dict) -> str:
    """One sentence per goal: reached or not, by the measured value."""
    lines = []
    for metric, goal in GOALS.items():
        found = baseline[metric]
        word = "reached" if found["value"] >= goal else "**not reached**"
        lines.append(f"- {METRICS[metric]}: {with_interval(found, 3)}; the goal of {goal:.2f} is {word}.")
    return "\n".join(lines)


def render(evaluation: dict) -> str:
    settings, judge = evaluation["settings"], evaluation["classifier_on_drawn_held_out_images"]
    return TEMPLATE.read_text(encoding="utf-8").format(
        goals=verdicts(evaluation["default"]["baseline"]),
        hard="\n".join(
            f"- {METRICS[metric]}: {with_interval(found, digits_of(metric))}"
            for metric, found in evaluation["hard"].items()
        ),
        damage=damage_table(evaluation["default"]),
        attributes=attribute_table(evaluation["default_per_attribute"], evaluation["hard_per_attribute"]),
        sizes=size_table(evaluation["safetensors_bytes"]),
        count=settings["prompts"]["default"],
        hard_count=settings["prompts"]["hard"],
        per_prompt=settings["images_per_prompt"],
        images=settings["prompts"]["default"] * settings["images_per_prompt"],
        references=settings["reference_images"],
        settings=f"{settings['scheduler']}, {settings['steps']} steps, guidance {settings['guidance']:g}, "
        f"{settings['dtype']}",
        versions=", ".join(f"{name} {number}" for name, number in settings["versions"].items()),
        judge_single=f"{judge['single']['all_right']:.3f}",
        judge_two=f"{judge['two']['all_right']:.3f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=Path, default=Path("resources"))
    folder = parser.parse_args().resources / "reference-model"
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(render(evaluation), encoding="utf-8")


if __name__ == "__main__":
    main()
