"""The real app over a pipeline of noise: images are uniform in the seed, and take as long as the request has steps.

A prompt "fail: ..." makes the pipeline raise, for the whole batch.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from diffsweep.serving.http import HttpThread, listen
from diffsweep.serving.parsing import Limits, Service, Wanted
from diffsweep.serving.worker import Batching, Worker
from diffsweep.sweep.files import write_json

STEP_S = float(os.environ.get("FAKE_STEP_S", 0.002))


def generate(batch: Sequence[Wanted]) -> tuple:
    import numpy

    for wanted in batch:
        if wanted.prompt.startswith("fail:"):
            raise RuntimeError(wanted.prompt)
    step_s = []
    for _ in range(batch[0].steps):
        started_s = time.perf_counter()
        time.sleep(STEP_S)
        step_s.append(time.perf_counter() - started_s)
    seeds = [seed for wanted in batch for seed in wanted.seeds]
    images = [numpy.full((batch[0].height, batch[0].width, 3), seed % 256, numpy.uint8) for seed in seeds]
    return numpy.stack(images), SimpleNamespace(prompt_encode_s=0.0, setup_s=0.0, step_s=step_s, decode_s=0.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready", required=True, type=Path)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--max-batch", type=int, default=1)
    parser.add_argument("--max-wait-s", type=float, default=0.0)
    options = parser.parse_args()
    limits = Limits(queue=options.queue)
    service = Service("reference", 64, 48, "ddim", 5, 3.0, ("ddim", "dpm++", "unipc", "euler"), limits)
    worker, listener = Worker(limits.queue, Batching(options.max_batch, options.max_wait_s)), listen(0)

    def make_app() -> object:
        from diffsweep.serving.app import create_app

        return create_app(service, worker)

    http = HttpThread(make_app, listener, worker.stop)
    http.start()
    http.wait_until_accepting()
    if http.failed:
        sys.exit("the HTTP server could not start")
    write_json(options.ready, {"port": listener.getsockname()[1]})
    worker.run(generate)


if __name__ == "__main__":
    main()
