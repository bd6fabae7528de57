"""Trains the denoiser on cached latents: v-prediction, 10 % of captions dropped, weights averaged.

    python -m reference.train_unet --work WORK --minutes 60

One process per core, each with half the batch; gradients are averaged, so all processes hold the same weights. Every
two minutes WORK/unet-state.pt (everything, for resuming) and WORK/unet-ema.safetensors (the average, for use) are
replaced. The same command goes on after a kill.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from . import models, training, world

PEAK_RATE = 1e-3
DROP_CAPTION = 0.1
EMA_DECAY = 0.999
SAVE_EVERY_S = 120.0
LOG_EVERY = 50  # steps


@dataclass
class Run:
    """What a process trains with; `seen` counts steps since the very beginning."""

    unet: nn.Module
    average: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    seen: int = 0


class Batches:
    """Random (latents, text embeddings) of the cached data set, `pair_share` of them with two objects."""

    def __init__(self, work: Path, size: int, pair_share: float, seed: list[int]):
        self.latents = np.load(work / "latents.npy")
        self.texts = np.load(work / "texts.npy", mmap_mode="r")
        self.text_index = np.load(work / "text_index.npy")
        self.rng = np.random.default_rng(seed)
        self.size = size
        self.pair_share = pair_share
        layout = np.load(work / "data" / "labels.npy")[:, list(world.HEADS).index("layout")]
        self.singles, self.pairs = np.flatnonzero(layout == 0), np.flatnonzero(layout)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        is_pair = self.rng.random(self.size) < self.pair_share
        rows = np.where(is_pair, self.rng.choice(self.pairs, self.size), self.rng.choice(self.singles, self.size))
        texts = np.where(self.rng.random(self.size) < DROP_CAPTION, 0, self.text_index[rows])  # 0: the empty caption
        return torch.from_numpy(self.latents[rows]).float(), torch.from_numpy(self.texts[texts]).float()


def velocity_loss(
    unet: nn.Module, latents: torch.Tensor, texts: torch.Tensor, cumulative: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of the predicted velocity; times are spread evenly over the batch, which calms the loss."""
    count = len(latents)
    times = ((torch.randperm(count) + torch.rand(count)) / count * len(cumulative)).long()
    signal = cumulative[times].sqrt()[:, None, None, None]
    noise_share = (1 - cumulative[times]).sqrt()[:, None, None, None]
    noise = torch.randn_like(latents)
    with training.bfloat16():
        predicted = unet(signal * latents + noise_share * noise, times, texts).sample
    return (predicted.float() - (signal * noise - noise_share * latents)).square().mean()


def average_over_processes(unet: nn.Module, *numbers: float) -> list[float]:
    """Averages gradients over the processes in place, and `numbers` along with them in the same message."""
    gradients = [parameter.grad for parameter in unet.parameters()]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor(numbers)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
    return flat[start:].tolist()


def update_average(run: Run) -> None:
    """Exponential moving average, shorter in the beginning so that early checkpoints are worth a look."""
    decay = min(EMA_DECAY, (1 + run.seen) / (10 + run.seen))
    with torch.no_grad():
        current = run.unet.state_dict()
        torch._foreach_lerp_(list(run.average.values()), [current[name] for name in run.average], 1 - decay)


def begin(work: Path, seed: int) -> tuple[Run, float]:
    """A fresh run, or the one that WORK/unet-state.pt holds; and the seconds it has been trained for."""
    torch.manual_seed(seed)
    unet = models.make_unet().train()
    models.plain_attention(unet)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    run = Run(unet, {name: value.clone() for name, value in unet.state_dict().items()}, optimizer)
    path = work / "unet-state.pt"
    if not path.exists():
        return run, 0.0
    state = torch.load(path, weights_only=True)
    unet.load_state_dict(state["unet"])
    optimizer.load_state_dict(state["optimizer"])
    run.average, run.seen = state["average"], state["seen"]
    return run, state["spent_s"]


def save(run: Run, spent_s: float, work: Path) -> None:
    state = {"unet": run.unet.state_dict(), "average": run.average, "optimizer": run.optimizer.state_dict()}
    training.save_state(state | {"seen": run.seen, "spent_s": spent_s}, work / "unet-state.pt")
    training.save_weights(run.average, work / "unet-ema.safetensors")


def train(rank: int, options: argparse.Namespace) -> None:
    """One process's share of the work; process 0 saves and reports."""
    torch.set_num_threads(options.threads)
    run, spent_s = begin(options.work, options.seed)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{options.port}", rank=rank, world_size=options.processes
    )
    torch.manual_seed(options.seed * 1000 + run.seen * options.processes + rank)
    data = Batches(options.work, options.batch // options.processes, options.pair_share, [options.seed, run.seen, rank])
    cumulative = models.make_scheduler().alphas_cumprod
    clock = training.Clock(options.minutes * 60, spent_s)
    began, saved_s, share, losses = (clock.spent_s, run.seen * options.batch), clock.spent_s, clock.share, []
    while share < 1:
        training.set_rate(run.optimizer, training.cosine(share, PEAK_RATE))
        run.optimizer.zero_grad(set_to_none=True)
        loss = velocity_loss(run.unet, *data.next(), cumulative)
        loss.backward()
        # All processes go by the average clock: their learning rates must agree, or their weights would part.
        mean_loss, share = average_over_processes(run.unet, loss.item(), clock.share)
        nn.utils.clip_grad_norm_(run.unet.parameters(), 1.0)
        run.optimizer.step()
        run.seen += 1
        losses.append(mean_loss)
        if rank > 0:
            continue
        update_average(run)
        if run.seen % LOG_EVERY == 0:
            training.progress(clock, run.seen, run.seen * options.batch, began, loss=float(np.mean(losses[-200:])))
        if clock.spent_s - saved_s > SAVE_EVERY_S:
            saved_s = clock.spent_s
            save(run, saved_s, options.work)
    if rank == 0:
        save(run, clock.spent_s, options.work)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = training.arguments(__doc__, minutes=training.MINUTES["train_unet"], seed=13)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, default=64, help="images per step, over all processes")
    parser.add_argument("--pair-share", type=float, default=0.3, help="share of training pictures with two objects")
    parser.add_argument("--port", type=int, default=29513)
    options = parser.parse_args()
    torch.multiprocessing.spawn(train, (options,), nprocs=options.processes)


if __name__ == "__main__":
    main()
