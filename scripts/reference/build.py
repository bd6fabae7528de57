"""Makes all of `resources/` from nothing: data, CLIP, autoencoder, denoiser, scorers, evaluation.

    PYTHONPATH=scripts python -m reference.build --work WORK

About 100 minutes on two cores. Every stage that has left its output in WORK is skipped, so the same command goes on
after a stop. Stages that do not need each other run side by side, one core each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

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


def command(program: str, work: Path) -> list[str]:
    arguments = {
        "make_prompts": ["--out", "config/prompts"],
        "dataset": [str(work / "data")],
        "evaluate": ["--images", str(work / "images")],
        "write_card": [],
    }.get(program, ["--work", str(work)])
    return [sys.executable, "-m", f"reference.{program}", *arguments]


def run_stage(programs: tuple[str, ...], outputs: tuple[str | None, ...], work: Path) -> None:
    """Starts what is not done yet and waits for all of it; a failed program ends the build."""
    due = [
        (program, output)
        for program, output in zip(programs, outputs, strict=True)
        if output is None or not (work / output).exists()
    ]
    started = [(program, output, subprocess.Popen(command(program, work))) for program, output in due]
    for program, output, process in started:
        if process.wait():
            raise SystemExit(f"reference.{program} failed with exit code {process.returncode}")
        if output and output.endswith(".done"):
            (work / output).touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    for programs, outputs in STAGES:
        print("==", ", ".join(programs), flush=True)
        run_stage(programs, outputs, work)


if __name__ == "__main__":
    main()
