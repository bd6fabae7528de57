"""Makes all of `resources/` from nothing: data, CLIP, autoencoder, denoiser, scorers, evaluation.

    scripts/in_env scoring env PYTHONPATH=scripts python -m reference.build --work WORK

About two hours on two cores: 100 minutes of training, then images and scores for the card. Every stage that has left
its output in WORK is skipped, so the same command goes on after a stop. Stages that do not need each other run side by
side, one core each. To see that all of it runs, without touching what ships: --share 0.02 --resources WORK/resources.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from . import dataset, training

# (programs that run side by side, the file each leaves behind)
STAGES = (
    (("make_prompts",), (None,)),
    (("dataset",), ("data/captions.json",)),
    (("train_clip", "train_vae"), ("clip.safetensors", "vae.safetensors")),
    (("encode_latents",), ("latents.done",)),
    (("train_decoder",), ("decoder.done",)),
    (("train_unet",), ("unet.done",)),
    (("train_classifier", "train_extractor"), ("classifier/config.json", "fid/reference.safetensors")),
    (("assemble",), (None,)),
    (("evaluate",), (None,)),
    (("write_card",), (None,)),
)


def command(program: str, work: Path, resources: Path, share: float) -> list[str]:
    arguments = {
        "make_prompts": ["--out", "config/prompts"],
        "dataset": [str(work / "data"), "--count", str(round(dataset.COUNT * share))],
        "assemble": ["--work", str(work), "--resources", str(resources)],
        "evaluate": ["--images", str(work / "images"), "--resources", str(resources)],
        "write_card": ["--resources", str(resources)],
    }.get(program, ["--work", str(work)])
    minutes = ["--minutes", str(training.MINUTES[program] * share)] if program in training.MINUTES else []
    return [sys.executable, "-m", f"reference.{program}", *arguments, *minutes]


def run_stage(
    programs: tuple[str, ...], outputs: tuple[str | None, ...], work: Path, resources: Path, share: float
) -> None:
    """Starts what is not done yet and waits for all of it; a failed program ends the build."""
    due = [
        (program, output)
        for program, output in zip(programs, outputs, strict=True)
        if output is None or not (work / output).exists()
    ]
    started = [(program, output, subprocess.Popen(command(program, work, resources, share))) for program, output in due]
    for program, output, process in started:
        if process.wait():
            raise SystemExit(f"reference.{program} failed with exit code {process.returncode}")
        if output and output.endswith(".done"):
            (work / output).touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the data, weights and checkpoints")
    parser.add_argument("--resources", type=Path, default=Path("resources"), help="where the model and scorers go")
    parser.add_argument("--share", type=float, default=1.0, help="of the data, and of the training time")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for programs, outputs in STAGES:
        print("==", ", ".join(programs), flush=True)
        run_stage(programs, outputs, options.work, options.resources, options.share)


if __name__ == "__main__":
    main()
