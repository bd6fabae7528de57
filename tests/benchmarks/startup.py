"""How long a server takes to its first image, from the start of its process, by engine.

    .venv/bin/python tests/benchmarks/startup.py [--starts 7] [--model FOLDER] [--out results/published/timings.csv]

Each engine serves an fp32 artifact of its own, one server at a time and nothing beside it; engines take turns. The
system has the files in memory, as in a sweep, whose conversions have just written and read them. Printed are medians. A
missed limit makes it exit with 1.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))

from figures import Figure, conclude  # noqa: E402

from diffsweep.measure import servers  # noqa: E402
from diffsweep.measure.clients import Client, request_body  # noqa: E402
from diffsweep.measure.host import measuring_alone  # noqa: E402
from diffsweep.measure.keeper import Keeper  # noqa: E402
from diffsweep.measure.servers import Launch  # noqa: E402
from diffsweep.sweep.files import read_json  # noqa: E402

LIMITS_S = {"torch": 10.0, "onnxruntime": 8.0, "openvino": 8.0}
PROMPT = "a large plain red circle on a blue background"
REQUEST = {"scheduler": "ddim", "steps": 25, "guidance": 3.0}
TIMEOUT_S = 120.0


def run_in(environment: str, program: str, *arguments: str) -> None:
    command = [sys.executable, str(PROJECT / "scripts" / "in_env"), environment, "python"]
    subprocess.run([*command, str(PROJECT / "scripts" / program), *arguments], check=True, stdout=sys.stderr)


def launches(model: Path, threads: int, folder: Path) -> list[Launch]:
    """How each engine's server is started, on an artifact that is made for it in `folder`."""
    known = {"model": {"name": "reference", "path": str(model.resolve()), "width": 64, "height": 64}}
    run_in("export", "export_onnx.py", "--spec", json.dumps(known), "--out", str(folder / "onnx"))
    found = []
    for engine in LIMITS_S:
        axes = {"name": f"{engine}-fp32", "engine": engine, "precision": "fp32", "compile": False}
        spec = {**known, "artifact": {**axes, "threads": threads, "device": "cpu"}, "request": REQUEST}
        spec["calibration"] = {"path": str(PROJECT / "config" / "prompts" / "calibration.yaml")}
        spec["parity"] = {"denoiser_relative_error": 1e-3, "image_psnr_db": 40}
        out = folder / axes["name"]
        run_in(engine, "convert.py", "--spec", json.dumps(spec), "--onnx", str(folder / "onnx"), "--out", str(out))
        outcome = read_json(out / "manifest.json")["outcome"]
        if outcome["status"] != "ok":
            sys.exit(f"startup: {engine}: {outcome['reason']}")
        served = {**known, "artifact": spec["artifact"], "variant": {"name": axes["name"], **REQUEST}, "limits": {}}
        found.append(Launch(engine, engine, PROJECT / "scripts" / "serve.py", served, out))
    return found


def start_once(launch: Launch, keeper: Keeper) -> tuple[float, float]:
    """Seconds from the start of the process until the server is ready, and until its first image is there."""
    server = servers.start(launch, keeper)
    try:
        servers.wait_until_ready(server, TIMEOUT_S)
        with closing(Client(server.ready["port"], TIMEOUT_S)) as client:
            reply = client.generate(request_body(launch.spec["model"], launch.spec["variant"], PROMPT, seed=1))
        if reply.error:
            sys.exit(f"startup: {launch.name}: {reply.error}: {reply.detail}")
        return server.start_s, time.monotonic() - server.spawned_s
    finally:
        servers.stop([server], keeper)


def measure(todo: Sequence[Launch], starts: int) -> list[Figure]:
    """The medians of `starts` starts of each."""
    found: dict[str, list[tuple[float, float]]] = {launch.name: [] for launch in todo}
    with closing(Keeper()) as keeper:
        for number in range(starts):
            for launch in todo:
                found[launch.name].append(start_once(launch, keeper))
            last = ", ".join(f"{name} {times[-1][1]:.2f} s" for name, times in found.items())
            print(f"start {number + 1} of {starts}: {last}", flush=True)
    figures = []
    for engine, times in found.items():
        ready_s, first_s = (statistics.median(column) for column in zip(*times, strict=True))
        figures.append(Figure(f"{engine}: start to first image", first_s, "s", LIMITS_S[engine]))
        figures.append(Figure(f"{engine}: start to ready", ready_s, "s"))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=PROJECT / "resources" / "reference-model")
    parser.add_argument("--out", type=Path, help="the table that keeps the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        todo = launches(options.model, options.threads, Path(folder))
        with measuring_alone():
            figures = measure(todo, options.starts)
    sys.exit(conclude(figures, Path(__file__).stem, options.out))


if __name__ == "__main__":
    main()
