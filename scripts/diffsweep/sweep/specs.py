"""Plan -> spec: the one dict that tells a program what to do, and whose change makes Snakemake run it again.

A spec holds what the result depends on and nothing else: adding a variant, or a prompt that a stage does not use,
leaves the other specs as they were. Time limits are not in it: they decide whether there is a result, not which.
"""

from collections.abc import Mapping
from functools import cache
from operator import itemgetter

from diffsweep.sweep.digests import data_digest
from diffsweep.sweep.plan import read_prompts
from diffsweep.sweep.variants import ARTIFACT_AXES, AXES, UNSTATED, artifact_name, find_variant


def axes_of(variant: Mapping) -> dict:
    """A variant without its lineage: what decides a measurement is its axes, not which parent it is written under."""
    stated = (axis for axis in AXES if axis not in UNSTATED or variant[axis] != UNSTATED[axis])
    return {"name": variant["name"], **{axis: variant[axis] for axis in stated}}


def artifact_of(plan: Mapping, variant: Mapping, target: str) -> dict:
    """The artifact that a variant runs on a target, with the device and threads it runs on there."""
    where = plan["targets"][target]
    axes = {axis: variant[axis] for axis in ARTIFACT_AXES}
    return {"name": artifact_name(variant, target), **axes, "device": where["device"], "threads": where["threads"]}


def artifacts_of(plan: Mapping) -> dict[str, dict]:
    """All artifacts of a sweep, by name, as they are built: on a CPU where any target that runs them is one.

    Neither the order of targets nor the number of a target's threads builds anything anew, but for compiled code, which
    belongs to one target and its threads.
    """
    found: dict[str, dict] = {}
    axes = {tuple(variant[axis] for axis in ARTIFACT_AXES): variant for variant in plan["variants"]}
    for target in plan["targets"]:
        for variant in axes.values():
            artifact = artifact_of(plan, variant, target)
            shared = artifact if variant["compile"] else {**artifact, "threads": "all"}
            if found.get(artifact["name"], {}).get("device") != "cpu":
                found[artifact["name"]] = shared
    return found


def export_spec(plan: Mapping, model: str, source_digest: str, attempt: int = 0) -> dict:
    return {
        "model": plan["models"][model],
        "source": source_digest,
        "attempt": attempt,
    }


def convert_spec(plan: Mapping, model: str, artifact: str, source_digest: str, attempt: int = 0) -> dict:
    made = artifacts_of(plan)[artifact]
    return {
        "model": plan["models"][model],
        "source": source_digest,
        "artifact": made,
        "request": plan["conversion"]["request"],
        "calibration": _suite(plan["conversion"]["prompts"]),
        "parity": plan["conversion"]["parity"][made["precision"]],
        "attempt": attempt,
    }


def benchmark_spec(plan: Mapping, model: str, target: str, ours: Mapping, replicate: int, attempt: int = 0) -> dict:
    """One replicate of the variant `ours`, paired with the baseline."""
    baseline = find_variant(plan, plan["baseline"])
    return {
        "model": plan["models"][model],
        "target": {k: plan["targets"][target][k] for k in ("name", "device", "threads")},  # not its price
        "variant": axes_of(ours),
        "variant_artifact": artifact_of(plan, ours, target),
        "baseline": axes_of(baseline),
        "baseline_artifact": artifact_of(plan, baseline, target),
        "environments": {"variant": ours["engine"], "baseline": baseline["engine"]},
        "replicate": replicate,
        "protocol": protocol_of(plan["protocol"], replicate),
        "prompts": _suite(plan["protocol"]["prompts"], plan["protocol"]["distinct_prompts"]),
        "attempt": attempt,
    }


def protocol_of(protocol: Mapping, replicate: int) -> dict:
    """What one replicate is told of the protocol: not what others are told, nor what decides nothing for it."""
    unused = {"preset", "replicates", "aa_replicates", "prompts", "load_replicates"}
    if replicate > protocol["load_replicates"]:
        protocol = {**protocol, "levels": []}
    if "levels" in protocol:
        unused |= {"max_clients", "objective_s"}  # what ends the ramp
    if protocol.get("levels") == []:
        unused |= {"requests_per_level"}
    return {key: value for key, value in protocol.items() if key not in unused}


def calibration_spec(plan: Mapping, model: str, target: str) -> dict:
    """Replicates of the baseline against itself, short requests without load, plain and with planted slow-downs."""
    settings, size = plan["calibration"], plan["protocol"]["replicates"]
    replicate = benchmark_spec(plan, model, target, find_variant(plan, plan["baseline"]), replicate=0)
    for role in ("variant", "baseline"):
        replicate[role] = {**replicate[role], "steps": settings["steps"]}
    shared = {key: plan["protocol"][key] for key in ("distinct_prompts", "requests", "block")}
    replicate["protocol"] = {**shared, "warmup": settings["warmup"], "levels": []}
    scenarios = [_scenario("aa", 0.0, False, size * settings["comparisons"])]
    for slowdown in settings["slowdowns"]:
        scenarios.append(_scenario(f"slower-{slowdown}", slowdown, False, settings["replicates_per_slowdown"]))
    for slowdown in (0.0, max(settings["slowdowns"])):
        name = f"disturbed-slower-{slowdown}" if slowdown else "disturbed-aa"
        scenarios.append(_scenario(name, slowdown, True, size * settings["disturbed_comparisons"]))
    return {"replicate": replicate, "scenarios": scenarios}


def _scenario(name: str, slowdown: float, disturbed: bool, replicates: int) -> dict:
    return {"name": name, "slowdown": slowdown, "disturbed": disturbed, "replicates": replicates}


def arrivals_spec(plan: Mapping, model: str, target: str, ours: Mapping, search: int, attempt: int = 0) -> dict:
    """One search for the highest rate of a variant: one replicate, since it is made by one server."""
    return {
        "model": plan["models"][model],
        "target": {k: plan["targets"][target][k] for k in ("name", "device", "threads")},
        "variant": axes_of(ours),
        "variant_artifact": artifact_of(plan, ours, target),
        "environments": {"variant": ours["engine"]},
        "replicate": search,
        "protocol": {k: plan["protocol"].get(k) for k in ("distinct_prompts", "warmup", "objective_s")},
        "arrivals": {key: value for key, value in plan["arrivals"].items() if key != "searches"},
        "prompts": _suite(plan["protocol"]["prompts"], plan["protocol"]["distinct_prompts"]),
        "attempt": attempt,
    }


def images_spec(plan: Mapping, model: str, target: str, ours: Mapping, attempt: int = 0) -> dict:
    quality = plan["quality"]
    return {
        "model": plan["models"][model],
        "target": target,
        "variant": axes_of(ours),
        "artifact": artifact_of(plan, ours, target),
        "suite": _suite(quality["prompts"], quality["images"]),
        **{key: quality[key] for key in ("images", "seed", "batch")},
        "attempt": attempt,
    }


def trace_spec(plan: Mapping, model: str, target: str, variant: str, attempt: int = 0) -> dict:
    ours = find_variant(plan, variant)
    images = (ours["batching"] or {"max_batch": 1})["max_batch"]
    return {
        "model": plan["models"][model],
        "target": {k: plan["targets"][target][k] for k in ("name", "device", "threads")},
        "variant": axes_of(ours),
        "artifact": artifact_of(plan, ours, target),
        "prompts": _suite(plan["protocol"]["prompts"], images),
        "attempt": attempt,
    }


def score_spec(plan: Mapping, model: str, target: str, variant: str, attempt: int = 0) -> dict:
    quality = plan["quality"]
    return {
        "model": model,
        "target": target,
        "variant": {"name": variant},
        "fid": {"extractor": quality["fid"]},
        "clip": {"model": quality["clip"]},
        "classifier": quality["classifier"],
        "bootstrap": quality["bootstrap"],
        "seed": quality["seed"],
        "margins": {"clip_score": quality["clip_margin"]},
        "attempt": attempt,
    }


def _suite(path: str, used: int | None = None) -> dict:
    """A prompt suite as a spec names it; the digest covers the prompts that are used, the first `used`."""
    return {"path": path, "digest": suite_digest(path, used)}


@cache
def suite_digest(path: str, used: int | None) -> str:
    """The digest of the first `used` prompts of a suite (all: None). Read once: a sweep asks for every job."""
    return data_digest(read_prompts(path)[:used])


def plan_digest(plan: Mapping) -> str:
    """What the plan says, in whatever order its variants are written."""
    return data_digest({**plan, "variants": sorted(plan["variants"], key=itemgetter("name"))})


def limits_of(plan: Mapping) -> dict[str, dict]:
    """What each stage is told of time limits, beside its spec."""
    limits = plan["limits"]
    return {
        "convert": {"timeout_s": limits["convert_s"]},
        "benchmark": {"timeout_s": limits["replicate_s"], "request_timeout_s": limits["request_s"]},
        "arrivals": {"timeout_s": limits["arrivals_s"], "request_timeout_s": limits["request_s"]},
        "images": {"timeout_s": limits["images_s"]},
        "score": {"timeout_s": limits["score_s"]},
        "trace": {"timeout_s": limits["trace_s"]},
    }
