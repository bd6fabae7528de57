"""A replicate of the benchmark: latency, load, resources."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffsweep.measure.records import CapacityRecord, LatencyRecord
from diffsweep.sweep.files import digest_file
from synthetic.cells import Cell, outcome, write_json, write_lines
from synthetic.plan import artifact_name

STARTED_UNIX_S = 1_780_000_000.0


def write_replicate(folder: Path, cell: Cell, replicate: int) -> None:
    failure = cell.failure_at("convert", "benchmark", replicate=replicate)
    rng = np.random.default_rng((cell.seed, replicate))
    latency, capacity = ([], []) if failure else (latency_records(cell, replicate, rng), [])
    if not failure and is_loaded(cell, replicate):
        capacity = capacity_records(cell, replicate, rng)
    write_lines(folder / "latency.jsonl", [vars(LatencyRecord(**line)) for line in latency])
    write_lines(folder / "capacity.jsonl", [vars(CapacityRecord(**line)) for line in capacity])
    server = {
        "start_s": 4.1,
        "first_image_s": 5.2,
        "peak_memory_bytes": int(cell.truth.peak_memory_bytes * np.exp(0.01 * rng.standard_normal())),
        "cpu_s": 41.0,
        "versions": {"torch": "2.13.0", "diffusers": "0.42.1", "python": "3.11.2"},
    }
    both = {} if shares_server(cell) else {"baseline": server | {"peak_memory_bytes": 900_000_000}}
    levels = [] if not capacity else [note_level(level, capacity) for level in cell.plan["protocol"]["levels"]]
    write_json(
        folder / "replicate.json",
        {
            "outcome": outcome("benchmark", failure),
            **identity(cell, replicate),
            "baseline": cell.baseline["name"],
            "protocol": {k: v for k, v in cell.plan["protocol"].items() if k not in ("replicates", "prompts")},
            "started_unix_s": STARTED_UNIX_S,
            "ended_unix_s": STARTED_UNIX_S + 60,
            "first_role": "baseline" if replicate % 2 else "variant",
            "shared_server": shares_server(cell),
            "warmup": cell.plan["protocol"]["warmup"],
            "host": {"cpu_model": "Synthetic CPU", "cpus": 2, "before": {"load_1min": 0.1}},
            "servers": {} if failure else {"variant": server, **both},
            "disturbed_blocks": [],
            "levels": levels,
            "seconds": {"start": 5.2, "warmup": 3.0, "latency": 24.0, "capacity": 15.0, "end": 0.3},
            "files": digests(folder),
        },
    )


def is_loaded(cell: Cell, replicate: int) -> bool:
    protocol = cell.plan["protocol"]
    return replicate <= protocol.get("load_replicates", protocol["replicates"])


def digests(folder: Path) -> dict[str, str]:
    """The digest of each record file of a replicate, by name."""
    return {path.name: digest_file(path) for path in sorted(folder.glob("*.jsonl"))}


def shares_server(cell: Cell) -> bool:
    """Variants that differ only in what a request carries share the baseline's server; the A/A test does not."""
    return artifact_name(cell.variant) == artifact_name(cell.baseline) and cell.variant != cell.baseline


def note_level(level: int, records: list[dict]) -> dict:
    """As measure/load.py notes a level, from its records; they follow each other at a distance of 1,000 s."""
    mine = [r for r in records if r["level"] == level]
    opened_s = max(r["done_s"] for r in mine if not r["steady"])
    times = {"window_start_s": opened_s, "window_s": mine[-1]["done_s"] - opened_s}
    known = {"scenario": "steps", "level": level, "server_cpu_cores": 1.9, "valid": True, "reason": None, "errors": {}}
    return {**known, "started_unix_s": STARTED_UNIX_S + 1000 * level, **times}


def run_name(cell: Cell, replicate: int) -> str:
    return f"{cell.variant['name']}-{replicate}"


def sides(cell: Cell, replicate: int) -> list[str]:
    """The role of each block: A B B A, variant first in every other replicate."""
    per_side = cell.plan["protocol"]["requests"] // cell.plan["protocol"]["block"]
    first, second = ("baseline", "variant") if replicate % 2 else ("variant", "baseline")
    pairs = [(first, second) if pair % 2 == 0 else (second, first) for pair in range(per_side)]
    return [role for pair in pairs for role in pair]


def latency_records(cell: Cell, replicate: int, rng: np.random.Generator) -> list[dict]:
    """The lines of latency.jsonl: warm-up of both servers, then the blocks."""
    protocol = cell.plan["protocol"]
    process = {role: cell.truth.between_spread * rng.standard_normal() for role in ("baseline", "variant")}
    if shares_server(cell):
        process["variant"] = process["baseline"]
    drift = np.cumsum(0.004 * rng.standard_normal(4 * (protocol["requests"] + protocol["warmup"])))
    clock, order, records = STARTED_UNIX_S, 1, []

    def ask(role: str, block: int, prompt: int, warmup: bool) -> None:
        nonlocal clock, order
        side = cell.truth if role == "variant" else cell.baseline_truth
        steps = (cell.variant if role == "variant" else cell.baseline)["steps"]
        slow = (1.6 if rng.random() < side.outliers else 1.0) * (1.3 if warmup else 1.0)
        factor = slow * np.exp(process[role] + drift[order] + side.within_spread * rng.standard_normal())
        step_s = side.step_s * factor * np.exp(0.02 * rng.standard_normal(steps))
        parts = {
            "queue_s": 0.0002,
            "prompt_encode_s": float(side.prompt_encode_s * factor),
            "setup_s": 0.0001,
            "step_s": [round(float(s), 7) for s in step_s],
            "decode_s": float(side.decode_s * factor),
            "image_encode_s": float(side.image_encode_s * factor),
        }
        rest_s = side.overhead_s * factor - parts["queue_s"] - parts["setup_s"]
        e2e_s = sum(parts["step_s"]) + rest_s + sum(v for k, v in parts.items() if k != "step_s")
        records.append(
            {
                **identity(cell, replicate),
                "role": role,
                "block": block,
                "order": order,
                "prompt_id": f"{prompt:04d}",
                "seed": prompt,
                "warmup": warmup,
                "status": "ok",
                "error": None,
                "sent_unix_s": clock,
                "e2e_s": float(e2e_s),
                **parts,
                "residual_s": float(0.3 * rest_s),
                "transfer_s": float(0.7 * rest_s),
                "first_byte_s": float(e2e_s - 0.0001),
            }
        )
        clock, order = clock + e2e_s + 0.001, order + 1

    for role in ("baseline", "variant"):
        for prompt in range(protocol["warmup"]):
            ask(role, 0, prompt, warmup=True)
    for block, role in enumerate(sides(cell, replicate), start=1):
        for position in range(protocol["block"]):
            ask(
                role,
                block,
                ((block - 1) // 2 * protocol["block"] + position) % protocol["distinct_prompts"],
                warmup=False,
            )
    return records


def identity(cell: Cell, replicate: int) -> dict:
    names = {"model": cell.model, "target": cell.target, "variant": cell.variant["name"]}
    return {"schema": 1, "run": run_name(cell, replicate), **names, "replicate": replicate}


def capacity_records(cell: Cell, replicate: int, rng: np.random.Generator) -> list[dict]:
    """The lines of capacity.jsonl: a server that works one request after the other, a little better when kept busy.

    As measure/capacity.py does it: the level ends with its last measured completion, the first `level` are ramp-up.
    """
    records = []
    process = np.exp(cell.truth.between_spread * rng.standard_normal())
    service_s = cell.truth.latency_s(cell.variant["steps"]) * process
    for level in cell.plan["protocol"]["levels"]:
        mean_s = service_s / (cell.truth.parallel_gain if level > 1 else 1.0)
        free_at, ready = 0.0, [0.0] * level  # when the server, and each client, can go on
        for place in range(level + cell.plan["protocol"]["requests_per_level"]):
            client = int(np.argmin(ready))
            sent = ready[client]
            free_at = max(free_at, sent) + mean_s * np.exp(cell.truth.within_spread * rng.standard_normal())
            ready[client] = free_at + 0.0005
            records.append(
                {
                    **identity(cell, replicate),
                    "scenario": "steps",
                    "level": level,
                    "scheduled_s": None,
                    "sent_s": float(sent),
                    "done_s": float(free_at),
                    "status": "ok",
                    "error": None,
                    "images": 1,
                    "client": client,
                    "steady": place >= level,
                }
            )
    return records


def records_of_steps(
    variant_steps_s: Sequence[Sequence[float]], baseline_steps_s: Sequence[Sequence[float]], replicate: int = 1
) -> list[LatencyRecord]:
    """The latency records of one replicate with these steps, one list a request, and 10 ms for all else."""
    shared = {"schema": 1, "run": "r", "model": "m", "target": "t", "variant": "v", "prompt_id": "p"}
    shared |= {"replicate": replicate}
    shared |= {"warmup": False, "status": "ok", "error": None, "sent_unix_s": 1e9, "queue_s": 0.0, "residual_s": 0.0}
    shared |= {"prompt_encode_s": 0.004, "decode_s": 0.003, "image_encode_s": 0.002, "transfer_s": 0.001}
    return [
        LatencyRecord(
            **shared,
            role=role,
            block=2 * i + side,
            order=2 * i + side,
            seed=i,
            step_s=steps,
            e2e_s=sum(steps) + 0.01,
            first_byte_s=sum(steps) + 0.009,
        )
        for side, (role, asked) in enumerate((("variant", variant_steps_s), ("baseline", baseline_steps_s)), start=1)
        for i, steps in enumerate(asked)
    ]
