"""Trace one variant: which operators its time goes to, by its engine's profiler, and by Nsight Systems where it exists.

    scripts/in_env onnxruntime python scripts/trace.py --artifact results/artifacts/reference/onnxruntime-fp32 \\
        --out trace.json --spec '{"model": ..., "target": ..., "variant": ..., "artifact": ..., "prompts": ...}'

Writes trace.json, which appears last, and beside it the folder trace/: operators.csv and operators.json, the common
table, and the raw traces. *.json.gz open in Perfetto (https://ui.perfetto.dev), *.nsys-rep in Nsight Systems. What is
traced is one image, or for a variant that batches one full batch, after the same once to warm up.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path

from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.files import atomic_folder, digest_file, list_files, read_json, write_json
from diffsweep.sweep.options import add_spec_option, read_spec
from diffsweep.sweep.outcomes import Outcome, handed_on, run_program, run_supervised
from diffsweep.sweep.runs import current_run

STAGE = "trace"
FOLDER = "trace"
FACTS = ".facts.json"
SEED = 0


def main() -> None:
    options = parse_options()
    spec, attempt = options.spec, options.spec.get("attempt", 0)
    limits = {"stage": STAGE, "timeout_s": limit_s(spec), "attempt": attempt}
    with atomic_folder(options.out.parent / FOLDER) as folder:
        outcome = system = handed_on(read_json(options.artifact / "manifest.json"), "convert", STAGE, attempt)
        if outcome is None:
            outcome = run_supervised(lambda: trace_engine(spec, options.artifact, folder), **limits)
            system = run_supervised(lambda: trace_system(spec, options.artifact, folder), **limits)
        document = {**manifest(spec, outcome, system, folder), "run": current_run()}
        files = {f"{FOLDER}/{path.relative_to(folder).as_posix()}": digest_file(path) for path in list_files(folder)}
    made_from = {"artifact": digest_file(options.artifact / "manifest.json")}
    write_json(options.out, {**document, "inputs": made_from, "files": files})
    for name, found in document["profilers"].items():
        say(f"{spec['variant']['name']}, {name}: {found['outcome']['reason'] or top(found)}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spec_option(parser, "what to trace")
    parser.add_argument("--artifact", required=True, type=Path, help="the artifact's folder")
    parser.add_argument("--out", required=True, type=Path, help="trace.json; the traces go to trace/ beside it")
    options = parser.parse_args()
    options.spec = read_spec("trace", options.spec)
    return options


def say(text: str) -> None:
    print(f"trace: {text}", flush=True)


def top(found: Mapping) -> str:
    """The first operators in words: "Conv 41 %, MatMul 30 %, Add 5 %"."""
    return ", ".join(f"{row['operator']} {row['share']:.0%}" for row in found["operators"][:3]) or found["note"]


def manifest(spec: Mapping, outcome: Outcome, system: Outcome, folder: Path) -> dict:
    """What trace.json says; the facts that the children left in `folder` move into it."""
    engine = spec["artifact"]["engine"]
    return {
        "schema": 1,
        "model": spec["model"]["name"],
        "target": spec["target"]["name"],
        "variant": spec["variant"]["name"],
        "outcome": outcome.as_dict(),
        "images": batch_size(spec),
        "profilers": {name: facts_of(folder, name, how) for name, how in ((engine, outcome), ("nsys", system))},
    }


def facts_of(folder: Path, profiler: str, outcome: Outcome) -> dict:
    facts = folder / f"{FACTS}{profiler}"
    nothing = {"operators": [], "files": [], "traced_s": None, "plain_s": None, "note": ""}
    known = read_json(facts) if facts.exists() else {}
    facts.unlink(missing_ok=True)
    return {"outcome": outcome.as_dict(), **nothing, **known}


def note(folder: Path, profiler: str, trace, table: str, plain_s: float | None = None) -> None:
    """Write a trace's table, and the facts for the manifest."""
    from diffsweep.traces.operators import write_table

    write_table(trace.operators, folder / table)
    facts = {**trace.as_dict(), "plain_s": plain_s, "files": [f"{FOLDER}/{name}" for name in trace.files]}
    write_json(folder / f"{FACTS}{profiler}", facts)


def limit_s(spec: Mapping) -> float:
    return spec.get("timeout_s", 1800)


def batch_size(spec: Mapping) -> int:
    return (spec["variant"].get("batching") or {"max_batch": 1})["max_batch"]


# --- in the children, where the heavy imports are --------------------------------------------------------------------


def prompts_of(spec: Mapping) -> list[str]:
    """As many prompts as a batch has images: the suite's first ones, from the beginning again when it is short."""
    from diffsweep.engines.prompts import read_suite

    return list(islice(cycle(read_suite(spec["prompts"]["path"])["prompts"]), batch_size(spec)))


def trace_engine(spec: Mapping, artifact: Path, folder: Path) -> None:
    """What the engine's profiler says; and how long the same call takes without it."""
    from diffsweep.engines.pipelines import ImageRequest
    from diffsweep.engines.sources import source_of
    from diffsweep.traces import load_tracer

    shared = {axis: spec["variant"][axis] for axis in ("scheduler", "steps", "guidance")}
    shared |= {side: spec["model"][side] for side in ("width", "height")}
    requests = [ImageRequest(prompt, "", SEED + number, **shared) for number, prompt in enumerate(prompts_of(spec))]
    source, engine = source_of(spec["model"]), spec["artifact"]["engine"]
    plain_s = time_plain(source, artifact, spec["artifact"], requests)
    trace = load_tracer(engine).trace(source, artifact, spec["artifact"], requests, folder)
    note(folder, engine, trace, "operators", plain_s)


def time_plain(source: Path, artifact_dir: Path, artifact: dict, requests: list) -> float:
    from diffsweep.engines import load_engine
    from diffsweep.engines.pipelines import generate

    pipeline = load_engine(artifact["engine"]).load(source, artifact_dir, artifact, len(requests))
    generate(pipeline, requests)
    began_s = time.perf_counter()
    generate(pipeline, requests)
    return time.perf_counter() - began_s


def trace_system(spec: Mapping, artifact: Path, folder: Path) -> None:
    """What Nsight Systems sees of the variant's server."""
    from diffsweep.measure.clients import request_body
    from diffsweep.traces.nsys import find_nsys, trace_server

    find_nsys()
    with tempfile.TemporaryDirectory() as scratch:
        ready, images = Path(scratch) / "ready.json", batch_size(spec)
        server = {name: spec[name] for name in ("model", "artifact", "variant")} | {"limits": {"n": images}}
        options = ["--spec", json.dumps(server), "--artifact", str(artifact), "--ready", str(ready)]
        command = [sys.executable, str(PROJECT / "scripts" / "serve.py"), *options]
        body = json.loads(request_body(spec["model"], spec["variant"], prompts_of(spec)[0], SEED))
        trace = trace_server(command, ready, json.dumps({**body, "n": images}).encode(), folder, limit_s(spec) / 4)
    note(folder, "nsys", trace, "nsys-operators")


if __name__ == "__main__":
    run_program(main, supervises=True)
