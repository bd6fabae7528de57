"""The parity gate: an artifact against the FP32 original, on the same prompts, seeds and latents.

Two figures. The relative L2 error of single denoiser calls, on inputs that the original met while it sampled (noise at
the first step, nearly an image at the last): it shows a wrong conversion at once, and is not blurred by the sampler.
And the PSNR of the final images, which also covers the text encoder, the decoder and what the steps add up to.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from diffsweep.engines.pipelines import DenoiserCall, ImageRequest, call_denoiser, recorded_calls, sample

PROMPTS = 4  # how many images are compared
SEED = 20_000  # far from the seeds of calibration and of quality images
# Images that agree to rounding have no meaningful PSNR: 100 dB stands for "100 or more".
PSNR_CEILING_DB = 100.0


@dataclass(frozen=True)
class Parity:
    """The worst relative error of a denoiser call, the PSNR in dB of all images together (0..1), and their limits.

    A figure is None where the artifact gave NaN or infinity.
    """

    denoiser_relative_error: float | None
    image_psnr_db: float | None
    limits: dict[str, float]
    passed: bool
    problem: str | None

    def as_dict(self) -> dict:
        return asdict(self)


def parity_requests(prompts: Sequence[str], settings: dict, width: int, height: int) -> list[ImageRequest]:
    """What is compared: the last prompts of the calibration suite, whose first ones calibrated the artifact."""
    return [
        ImageRequest(prompt=prompt, negative_prompt="", seed=SEED + index, width=width, height=height, **settings)
        for index, prompt in enumerate(prompts[-PROMPTS:])
    ]


def compare(original, candidate, requests: Sequence[ImageRequest], limits: dict[str, float]) -> Parity:
    """Run both pipelines on `requests`, one at a time, as the server does.

    `limits`: {"denoiser_relative_error": at most, "image_psnr_db": at least}.
    """
    calls: list[DenoiserCall] = []
    expected, found = [], []
    for request in requests:
        with recorded_calls(original) as recorded:
            expected.append(sample(original, [request])[0])
        calls += [recorded[0], recorded[len(recorded) // 2], recorded[-1]]
    error = max(denoiser_error(candidate, call) for call in calls)
    found = [sample(candidate, [request])[0] for request in requests]
    return judge(error, psnr_db(np.stack(found), np.stack(expected)), limits)


@torch.inference_mode()
def denoiser_error(candidate, call: DenoiserCall) -> float:
    """||candidate - original|| / ||original|| of one denoiser call; infinite when the output is not finite."""
    output = call_denoiser(candidate, call).float()
    error = ((output - call.output).norm() / call.output.norm()).item()
    return error if math.isfinite(error) else math.inf


def psnr_db(found: np.ndarray, expected: np.ndarray) -> float:
    """Peak signal-to-noise ratio of images in 0..1, clipped as when they are saved; -infinity when not finite."""
    if not np.isfinite(found).all():
        return -math.inf
    error = np.mean((found.clip(0, 1) - expected.clip(0, 1)) ** 2, dtype=np.float64)
    return min(PSNR_CEILING_DB, -10 * math.log10(max(error, 1e-30)))


def judge(error: float, psnr: float, limits: dict[str, float]) -> Parity:
    """The figures against their limits."""
    problems = []
    if not math.isfinite(error) or not math.isfinite(psnr):
        problems.append("the output is not finite")
    if error > limits["denoiser_relative_error"]:
        problems.append(f"denoiser relative error {error:.3g}, limit {limits['denoiser_relative_error']:g}")
    if psnr < limits["image_psnr_db"]:
        problems.append(f"image PSNR {psnr:.1f} dB, limit {limits['image_psnr_db']:g} dB")
    return Parity(
        denoiser_relative_error=error if math.isfinite(error) else None,
        image_psnr_db=psnr if math.isfinite(psnr) else None,
        limits=dict(limits),
        passed=not problems,
        problem="; ".join(problems) or None,
    )
