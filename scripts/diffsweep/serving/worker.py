"""The one thread that runs the pipeline, the bounded queue before it, and the batches made of what waits there."""

import base64
import io
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from diffsweep.serving.parsing import Wanted

# (requests of equal settings) -> their images in order, uint8 (N, height, width, 3), and the clocks of the call: an
# object with prompt_encode_s, setup_s, step_s (one per step) and decode_s.
Generate = Callable[[Sequence[Wanted]], tuple[Any, Any]]


class QueueFull(Exception):
    """As many requests wait as are allowed to."""


@dataclass(frozen=True)
class Batching:
    """max_batch: images of one call that requests are put together to, at most (a request that asks for more runs
    alone); max_wait_s: how long the oldest request waits for others, at most, counted from its arrival."""

    max_batch: int = 1
    max_wait_s: float = 0.0


OFF = Batching()


@dataclass(frozen=True)
class Done:
    """One finished job: images as base64 of PNG, and its seconds (started_s on time.perf_counter's scale).

    The clocks are those of its whole batch, which it went through from the beginning to the end; image_encode_s counts
    from the end of decoding until its own images were encoded. batch_size: images of the batch, its own included.
    """

    images: tuple[str, ...]
    started_s: float
    prompt_encode_s: float
    setup_s: float
    step_s: tuple[float, ...]
    decode_s: float
    image_encode_s: float
    batch_size: int


@dataclass(frozen=True, eq=False)
class Job:
    wanted: Wanted
    queued_s: float = field(default_factory=time.perf_counter)
    future: "Future[Done]" = field(default_factory=Future)


class Worker:
    """Runs jobs batch after batch, in the thread that calls `run`.

    That should be the thread that loaded the pipeline: OpenMP keeps its threads and their number per calling thread.

    Every batch begins with the job that has waited longest, so none is passed over for ever: jobs of other settings
    that arrived later may only join an earlier batch, never put one before it.
    """

    def __init__(self, limit: int, batching: Batching = OFF):
        self._limit, self._batching = limit, batching
        self._jobs: deque[Job] = deque()
        self._stopping = False
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """How many jobs are in the queue now."""
        return len(self._jobs)

    def submit(self, wanted: Wanted) -> "Future[Done]":
        """Queue a job; cancelling its future while it waits takes it out again. Raises QueueFull."""
        with self._changed:
            if len(self._jobs) >= self._limit:
                raise QueueFull
            job = Job(wanted)
            self._jobs.append(job)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job) if future.cancelled() else None)
        return job.future

    def _forget(self, job: Job) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self._changed.notify()

    def stop(self) -> None:
        """Let `run` return after the jobs that wait now. Safe to call from any thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self, generate: Generate) -> None:
        while self.run_next(generate):
            pass

    def run_next(self, generate: Generate) -> bool:
        """Wait for a batch and do it; False when told to stop. What fails, fails for its batch: the futures say why."""
        batch = self._next_batch()
        wanted = [job for job in batch if job.future.set_running_or_notify_cancel()]
        try:
            if wanted:
                do(wanted, generate)
        except Exception as error:  # the boundary between batches: whatever it was goes to the senders
            for job in wanted:
                if not job.future.done():
                    job.future.set_exception(error)
        return bool(batch)

    def _next_batch(self) -> list[Job]:
        """Take the next batch out of the queue, when it is full or its oldest job has waited enough; [] to stop."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                if not self._jobs:
                    return []
                batch, full = together(self._jobs, self._batching.max_batch)
                left_s = batch[0].queued_s + self._batching.max_wait_s - time.perf_counter()
                if full or left_s <= 0 or self._stopping:
                    for job in batch:
                        self._jobs.remove(job)
                    return batch
                self._changed.wait(left_s)


def together(jobs: Iterable[Job], most: int) -> tuple[list[Job], bool]:
    """The first job and those behind it with its settings, in order, up to `most` images; and whether that is all that
    fits: the next one has too many images, or none could be added."""
    batch: list[Job] = []
    images = 0
    for job in jobs:
        if batch and job.wanted.settings != batch[0].wanted.settings:
            continue
        if batch and images + len(job.wanted.seeds) > most:
            return batch, True
        batch.append(job)
        images += len(job.wanted.seeds)
    return batch, images >= most


def do(jobs: Sequence[Job], generate: Generate) -> None:
    """Make the images of one batch and hand each job its own, in order."""
    started_s = time.perf_counter()
    images, clocks = generate([job.wanted for job in jobs])
    decoded_s = time.perf_counter()
    left = iter(images)
    for job in jobs:
        encoded = tuple(encode_png(image) for image in islice(left, len(job.wanted.seeds)))
        job.future.set_result(
            Done(
                images=encoded,
                started_s=started_s,
                prompt_encode_s=clocks.prompt_encode_s,
                setup_s=clocks.setup_s,
                step_s=tuple(clocks.step_s),
                decode_s=clocks.decode_s,
                image_encode_s=time.perf_counter() - decoded_s,
                batch_size=len(images),
            )
        )


def encode_png(image: Any) -> str:
    """Base64 of an uint8 (height, width, 3) array as PNG, which is lossless at any compression level."""
    from PIL import Image

    buffer = io.BytesIO()
    # Level 1: 4 times as fast as the default at 512x512, for 10 to 20 % more bytes.
    Image.fromarray(image).save(buffer, "png", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
