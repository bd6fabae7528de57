"""Serve one variant over HTTP on loopback, by openai's image interface.

    scripts/in_env torch python scripts/serve.py --spec SPEC --artifact results/artifacts/reference/torch-fp32 \\
        --port 8000 --ready /tmp/ready.json
    curl -s localhost:8000/v1/images/generations -H 'content-type: application/json' \\
        -d '{"prompt": "a large plain red circle on a blue background", "seed": 1}'

SPEC is JSON or @file.json: {"model", "artifact", "variant", "limits"} as in the plan. The ready file appears when
requests are accepted: {"port", "pid", "load_s", ...}, or {"problem", "status"} when the artifact cannot be loaded.
The server ends with the process that started it.
"""

import argparse
import dataclasses
import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffsweep.engines.imports import uncollected
from diffsweep.engines.manifests import versions
from diffsweep.serving.http import HttpThread, listen
from diffsweep.serving.parsing import Limits, Service, Wanted
from diffsweep.serving.worker import OFF, Batching, Generate, Worker
from diffsweep.sweep.files import write_json
from diffsweep.sweep.options import add_spec_option, read_spec
from diffsweep.sweep.outcomes import Failed, Unsupported, describe
from diffsweep.sweep.workflow import die_with_parent

Loader = Callable[[Mapping, Path], Generate]


def main(load: Loader | None = None) -> None:
    """Serve until the parent ends. `load`: how an artifact becomes the function that makes images."""
    started_s = time.perf_counter()
    die_with_parent(os.getppid())
    options = parse_options()
    spec = read_spec("serve", options.spec)
    try:
        listener = listen(options.port)
    except OSError as error:
        sys.exit(f"serve: {error}")
    worker = Worker(limits_of(spec).queue, batching_of(spec))

    def make_app() -> Any:
        from diffsweep.serving.app import create_app

        return create_app(service_of(spec), worker)

    http = HttpThread(make_app, listener, on_exit=worker.stop)
    with uncollected():
        http.start()  # imports FastAPI while this thread loads the model
        generate = load_or_report(load or load_generator, spec, options)
        http.wait_until_accepting()
    if http.failed:
        sys.exit("serve: the HTTP server could not start")
    gc.collect()
    gc.freeze()  # else a collection walks through all of torch and diffusers (0.2 s) in the middle of some request
    ready = {"port": listener.getsockname()[1], "pid": os.getpid(), "load_s": time.perf_counter() - started_s}
    ready["ready_monotonic_s"] = time.monotonic()
    write_json(options.ready, {**ready, "environment": environment(), "versions": versions()})
    worker.run(generate)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spec_option(parser, "what to serve")
    parser.add_argument("--artifact", required=True, type=Path, help="the artifact's folder")
    parser.add_argument("--port", type=int, default=0, help="0 (the default): any free port")
    parser.add_argument("--ready", required=True, type=Path, help="the file that says that requests are accepted")
    return parser.parse_args()


def limits_of(spec: Mapping) -> Limits:
    return Limits(**spec.get("limits", {}))


def batching_of(spec: Mapping) -> Batching:
    """How the variant's server puts requests together; a variant without the axis runs each alone."""
    axis = spec["variant"].get("batching")
    return Batching(axis["max_batch"], axis["max_wait_ms"] / 1e3) if axis else OFF


def service_of(spec: Mapping) -> Service:
    from diffsweep.engines.pipelines import SCHEDULERS

    model, variant = spec["model"], spec["variant"]
    return Service(
        model=model["name"],
        width=model["width"],
        height=model["height"],
        scheduler=variant["scheduler"],
        steps=variant["steps"],
        guidance=variant["guidance"],
        schedulers=tuple(SCHEDULERS),
        limits=limits_of(spec),
        variant=variant["name"],
        artifact=spec["artifact"]["name"],
    )


def load_or_report(load: Loader, spec: Mapping, options: argparse.Namespace) -> Generate:
    """The function that makes images. What goes wrong is written into the ready file before it ends this process."""
    try:
        return load(spec, options.artifact)
    except (Unsupported, Failed) as reason:
        status = "unsupported" if isinstance(reason, Unsupported) else "failed"
        write_json(options.ready, {"problem": str(reason), "status": status})
        raise
    except Exception as error:
        write_json(options.ready, {"problem": describe(error), "status": "failed"})
        raise


def load_generator(spec: Mapping, artifact: Path) -> Generate:
    generate = generator_of(load_pipeline(spec, artifact))
    warm_up(generate, service_of(spec), batching_of(spec).max_batch)
    return generate


def load_pipeline(spec: Mapping, artifact: Path) -> Any:
    from diffsweep.engines import load_engine
    from diffsweep.engines.sources import source_of

    engine = load_engine(spec["artifact"]["engine"])
    return engine.load(source_of(spec["model"]), artifact, spec["artifact"], batching_of(spec).max_batch)


def generator_of(pipeline: Any) -> Generate:
    from diffsweep.engines.pipelines import ImageRequest, generate

    def run(batch: Sequence[Wanted]) -> tuple:
        requests = []
        for wanted in batch:
            shared = dataclasses.asdict(wanted)
            requests += [ImageRequest(seed=seed, **shared) for seed in shared.pop("seeds")]
        return generate(pipeline, requests)

    return run


def warm_up(generate: Generate, service: Service, max_batch: int) -> None:
    """Run every size that a batch may have once, so that no request waits while an engine prepares for it."""
    for size in range(1, max_batch + 1) if max_batch > 1 else ():
        shared = (service.guidance, service.width, service.height)
        generate([Wanted("", "", tuple(range(size)), "ddim", 1, *shared)])


def environment() -> str | None:
    """Name and digest of the lock's environment that this runs in."""
    folder = os.environ.get("VIRTUAL_ENV")
    return Path(folder).name if folder else None


if __name__ == "__main__":
    main()
