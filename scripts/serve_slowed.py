"""The server of the calibration: scripts/serve.py with a slow-down of known size planted into the pipeline.

After every call of the text encoder, the denoiser and the VAE decoder it keeps one core busy for a share of the time
that has passed since the last such call ended, so that a request takes longer by that share of all but its image
encoding and transfer. The share is spec["variant"]["slowdown"], 0.05 for 5 %; without one, this is scripts/serve.py.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import serve
from diffsweep.serving.worker import Generate


def busy_until(moment_s: float) -> None:
    """Work, as a slower program would, rather than sleep: a sleeping thread leaves its core to others."""
    while time.perf_counter() < moment_s:
        pass


class Slowdown:
    """Makes what it wraps take longer by `share` of the time since the last wrapped call ended, or `begin`."""

    def __init__(self, share: float):
        self._share, self._mark_s = share, time.perf_counter()

    def begin(self) -> None:
        self._mark_s = time.perf_counter()

    def wrap(self, work: Callable) -> Callable:
        def slowed(*arguments: Any, **options: Any) -> Any:
            result = work(*arguments, **options)
            now_s = time.perf_counter()
            busy_until(now_s + self._share * (now_s - self._mark_s))
            self.begin()
            return result

        return slowed


def slowed_pipeline(pipeline: Any, share: float) -> Slowdown:
    """Plant the slow-down into a pipeline of engine torch, in place."""
    slowdown = Slowdown(share)
    for component, method in (("text_encoder", "forward"), ("unet", "forward"), ("vae", "decode")):
        module = getattr(pipeline, component)
        setattr(module, method, slowdown.wrap(getattr(module, method)))
    return slowdown


def load(spec: Mapping, artifact: Path) -> Generate:
    share = spec["variant"].get("slowdown", 0.0)
    pipeline = serve.load_pipeline(spec, artifact)
    run = serve.generator_of(pipeline)
    if not share:
        return run
    slowdown = slowed_pipeline(pipeline, share)

    def run_slowed(wanted: Any) -> tuple:
        slowdown.begin()
        return run(wanted)

    return run_slowed


if __name__ == "__main__":
    serve.main(load)
