"""Facts about engines/pipelines.py and engines/sources.py, found in an environment with torch; JSON on stdout.

scripts/in_env torch python tests/engines/probes.py MODEL_FOLDER
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import numpy as np

from diffsweep.engines.imports import import_diffusers  # noqa: E402

diffusers = import_diffusers()
import torch  # noqa: E402

from diffsweep.engines.pipelines import SCHEDULERS, ImageRequest, Timeline, generate, recorded_calls  # noqa: E402
from diffsweep.engines.sources import invented_weights, load_original  # noqa: E402

torch.set_num_threads(1)


def request(seed: int, **changes) -> ImageRequest:
    settings = {"scheduler": "ddim", "steps": 3, "guidance": 3.0, "width": 16, "height": 16}
    return ImageRequest(prompt="a b c"[: seed + 1], negative_prompt="", seed=seed, **{**settings, **changes})


def stock_image(pipeline, wanted: ImageRequest) -> np.ndarray:
    """The same image by diffusers' own call, prompt to PIL."""
    stock_class = getattr(diffusers, SCHEDULERS[wanted.scheduler])
    pipeline.scheduler = stock_class.from_config(pipeline.model_scheduler.config, timestep_spacing="trailing")
    pipeline.progress_bar = type(pipeline).progress_bar.__get__(pipeline)
    with torch.inference_mode():
        image = pipeline(
            wanted.prompt,
            negative_prompt=wanted.negative_prompt,
            num_inference_steps=wanted.steps,
            guidance_scale=wanted.guidance,
            generator=torch.Generator("cpu").manual_seed(wanted.seed),
            width=wanted.width,
            height=wanted.height,
        ).images[0]
    return np.asarray(image)


def largest_difference(found: np.ndarray, expected: np.ndarray) -> int:
    return int(np.abs(found.astype(int) - expected.astype(int)).max())


def stock_differences(pipeline, stock) -> dict[str, int]:
    """Largest difference of any pixel to diffusers' own call, for every scheduler, with and without guidance."""
    wanted = [request(1, scheduler=name, guidance=g) for name in SCHEDULERS for g in (3.0, 1.0)]
    return {
        f"{w.scheduler} {w.guidance}": largest_difference(generate(pipeline, [w])[0][0], stock_image(stock, w))
        for w in wanted
    }


def batch_difference(pipeline) -> int:
    requests = [request(seed) for seed in range(3)]
    alone = np.concatenate([generate(pipeline, [one])[0] for one in requests])
    return largest_difference(generate(pipeline, requests)[0], alone)


def clocks(pipeline) -> dict:
    started = time.perf_counter()
    _, measured = generate(pipeline, [request(0, steps=5)])
    total_s = time.perf_counter() - started
    parts_s = [measured.prompt_encode_s, measured.setup_s, *measured.step_s, measured.decode_s]
    return {"total_s": total_s, "parts_s": parts_s, "steps": len(measured.step_s)}


class Queue:
    """Stands for a GPU's stream: work takes its time there, whatever the host does meanwhile."""

    def __init__(self) -> None:
        self.now_s, self.synchronised = 0.0, 0

    def event(self, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def record(self) -> None:
        self.at_s = self._queue.now_s

    def synchronize(self) -> None:
        self._queue.synchronised += 1

    def elapsed_time(self, end: "Event") -> float:
        return 1e3 * (end.at_s - self.at_s)  # milliseconds, as torch.cuda.Event


def times_on_a_gpu() -> dict:
    """Two steps whose work the host has queued in no time."""
    queue = Queue()
    original, torch.cuda.Event = torch.cuda.Event, queue.event
    try:
        timeline = Timeline(torch.device("cuda"))
        with timeline.progress_bar():
            for step, duration_s in enumerate((0.25, 0.5)):
                queue.now_s += duration_s
                timeline.on_step_end(None, step, None, {})
        return {"between_s": timeline.between_s(), "synchronised": queue.synchronised}
    finally:
        torch.cuda.Event = original


def calls_per_image(pipeline) -> list[list[int]]:
    """Shapes of the denoiser's input in one guided image of 3 steps."""
    with recorded_calls(pipeline) as calls:
        generate(pipeline, [request(0)])
    return [list(call.arguments[0].shape) for call in calls]


def refusal(pipeline, requests: list[ImageRequest]) -> str:
    try:
        generate(pipeline, requests)
    except ValueError as error:
        return str(error)
    return ""


def made_up(pipeline, source: Path) -> list[list[str]]:
    """What is found to be in none of the files: before and after one parameter was changed."""
    files = list((source / "vae").glob("*.safetensors"))
    before = invented_weights(pipeline.vae, files)
    pipeline.vae.decoder.conv_in.bias.data += 1
    return [before, invented_weights(pipeline.vae, files)]


def main(source: Path) -> dict:
    pipeline, stock = load_original(source), load_original(source)
    stock.set_progress_bar_config(disable=True)
    stock.model_scheduler = stock.scheduler
    return {
        "stock": stock_differences(pipeline, stock),
        "batch": batch_difference(pipeline),
        "clocks": clocks(pipeline),
        "gpu": times_on_a_gpu(),
        "calls": calls_per_image(pipeline),
        "mixed": refusal(pipeline, [request(0), request(1, steps=4)]),
        "empty": refusal(pipeline, []),
        "scheduler": refusal(pipeline, [request(0, scheduler="magic")]),
        "torchao": "torchao" in sys.modules,
        "made_up": made_up(pipeline, source),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
