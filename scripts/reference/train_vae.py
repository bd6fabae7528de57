"""Trains the autoencoder, and folds its latents' mean and deviation into the quant convolutions.

python -m reference.train_vae --work WORK        reads WORK/data, writes WORK/vae.safetensors
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from . import dataset, models, training

BATCH = 32
PEAK_RATE = 1.5e-3
KL_WEIGHT = 1e-3
EMA = 0.98


def as_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 to float32 from -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(images)).float() / 127.5 - 1


def edges_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 of the differences between neighbours, which keeps outlines sharp."""
    return sum(functional.l1_loss(output.diff(dim=axis), target.diff(dim=axis)) for axis in (2, 3))


def loss_of(vae: AutoencoderKL, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The training loss and, to watch, the mean squared error."""
    with training.bfloat16():
        posterior = vae.encode(pixels).latent_dist
        output = vae.decode(posterior.sample()).sample
    output = output.float()
    squared = functional.mse_loss(output, pixels)
    kl = posterior.kl().float().mean() / posterior.mean[0].numel()
    loss = functional.l1_loss(output, pixels) + 2 * squared + 0.5 * edges_loss(output, pixels) + KL_WEIGHT * kl
    return loss, squared.detach()


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, pixels: torch.Tensor) -> None:
    """Rescales the quant convolutions so that latents have mean 0 and deviation 1 per channel."""
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(64)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = models.LATENT_CHANNELS
    encode, decode = vae.quant_conv, vae.post_quant_conv
    decode.bias.add_(decode.weight[:, :, 0, 0] @ mean)
    decode.weight.mul_(deviation[None, :, None, None])
    encode.bias[:channels].sub_(mean).div_(deviation)
    encode.weight[:channels].div_(deviation[:, None, None, None])
    encode.bias[channels:].sub_(2 * deviation.log())  # the second half is the log variance


def train(
    vae: AutoencoderKL, data: dataset.Dataset, minutes: float, peak: float, seed: int, decoder_only: bool = False
) -> AutoencoderKL:
    """Trains for `minutes` and returns the averaged weights."""
    rng = np.random.default_rng(seed)
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    average = torch.optim.swa_utils.AveragedModel(vae, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA))
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=peak, betas=(0.9, 0.99), weight_decay=1e-4)
    clock = training.Clock(minutes * 60)
    for step, rows in enumerate(training.batches(len(data.images), BATCH, rng)):
        training.set_rate(optimizer, training.cosine(clock.share, peak))
        loss, squared = loss_of(vae, as_pixels(data.images[rows]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update_parameters(vae)
        if step % 100 == 0:
            decibels = 10 * torch.log10(4 / squared).item()
            training.progress(clock, step, step * BATCH, (0, 0), loss=loss.item(), psnr_db=decibels)
        if clock.share >= 1:
            break
    result = average.module.eval()
    if not decoder_only:
        fold_statistics(result, as_pixels(data.images[np.sort(rng.permutation(len(data.images))[:2000])]))
    return result


def main() -> None:
    parser = training.arguments(__doc__, minutes=training.MINUTES["train_vae"], seed=11)
    parser.add_argument("--go-on", action="store_true", help="start from WORK/vae.safetensors")
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--peak-rate", type=float, default=PEAK_RATE)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    vae, path = models.make_vae(), options.work / "vae.safetensors"
    if options.go_on:
        vae.load_state_dict(models.read_weights(path))
    data = dataset.load(options.work / "data")
    vae = train(vae, data, options.minutes, options.peak_rate, options.seed, options.decoder_only)
    training.save_weights(vae, path)


if __name__ == "__main__":
    main()
