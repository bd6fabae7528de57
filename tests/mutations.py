"""Broken configs made from valid ones: a key misspelt, dropped, doubled or swapped, a value of another kind or size.

`check_config` and `check_files` take hypothesis' `draw` and fail when what was drawn shows a traceback: whatever the
file, it resolves, or it is a ConfigError of one printable line. What resolves must also give every stage its spec.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from conftest import PROJECT
from diffsweep.measure import machines
from diffsweep.sweep import cluster, specs
from diffsweep.sweep.documents import SCHEMAS, ConfigError, read_yaml
from diffsweep.sweep.plan import make_plan, read_prompts, read_targets, replicates_of, resolve_price
from diffsweep.sweep.requests import requests_of

DEFAULT = read_yaml(PROJECT / "config" / "config.yaml")
SMOKE = read_yaml(PROJECT / "config" / "smoke.yaml")
PRICE = next(iter(read_yaml(PROJECT / "config" / "prices.yaml")["prices"]))
TEXTS = {
    name: (PROJECT / "config" / name).read_text()
    for name in ("smoke.yaml", "targets.yaml", "prices.yaml", "prompts/edge.yaml")
}

STRANGE = st.sampled_from(
    [
        "",
        " ",
        "..",
        "../..",
        "/",
        "~",
        "a\nb",
        "\x1b[31m",
        "\x00",
        "é",
        "\ud800",
        "x" * 5000,
        "null",
        "1e999",
        "-0",
        "{}",
    ]
)
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 1, 2**63, 10**400, 1e308, float("inf"), float("nan"), True])
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, STRANGE, st.text(max_size=8), st.dates())
GENTLE, ROUGH = ("alike", "drop"), ("value", "value", "drop", "rename", "add", "elsewhere", "wrap")
KEYS = st.one_of(STRANGE, st.text(max_size=8), st.integers(), st.none(), st.booleans())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


AXES = read_yaml(SCHEMAS / "config.schema.yaml")["$defs"]["variant"]["properties"]
WORDS = st.sampled_from([*(word for axis in AXES.values() for word in axis.get("enum", ())), *DEFAULT["variants"]])


def alike(value: Any) -> st.SearchStrategy:
    """Values of the same kind and about the same size: most such configs resolve, and then mean something odd."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int | float):
        return st.integers(0, 40) | st.sampled_from([value * 2, value / 2, value + 1, 0.5])
    return WORDS if isinstance(value, str) else VALUES


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths to everything inside `value`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(p for key, inner in inside for p in places(inner, (*path, key)))]


def mutate(draw, document: Any) -> Any:
    """`document` with one to three things changed; every second one gently, so that it may well resolve."""
    document = copy.deepcopy(document)
    ways = draw(st.sampled_from([GENTLE, ROUGH]))
    for _ in range(draw(st.integers(1, 3)) if ways is ROUGH else 1):
        found = places(document)
        if not found:
            return document
        *path, last = draw(st.sampled_from(found))
        holder = document
        for part in path:
            holder = holder[part]
        change(draw, draw(st.sampled_from(ways)), holder, last, document)
    return document


def change(draw, how: str, holder: Any, key: Any, document: Any) -> None:
    if how == "value":
        holder[key] = draw(VALUES)
    elif how == "alike":
        holder[key] = draw(alike(holder[key]))
    elif how == "drop":
        del holder[key]
    elif how == "wrap":
        holder[key] = draw(st.sampled_from([[holder[key]], {"x": holder[key]}, str(holder[key])]))
    elif how == "elsewhere":  # what stands at another place
        value = document
        for part in draw(st.sampled_from(places(document))):
            value = value[part]
        holder[key] = copy.deepcopy(value)
    elif isinstance(holder, list):
        holder.append(draw(VALUES))
    elif how == "rename":
        holder[draw(KEYS)] = holder.pop(key)
    else:
        holder[draw(KEYS)] = draw(VALUES)


def settle(work) -> None:
    """`work` ends well or in a ConfigError of one printable line."""
    try:
        work()
    except ConfigError as error:
        assert str(error).isprintable() and str(error)


def resolve(config: Any) -> None:
    """What the Snakefile makes of a config before any job runs: the plan, and what every job is told.

    Once there is a plan nothing is refused any more: even a ConfigError would reach the user as a traceback.
    """
    plan = make_plan(config)
    try:
        requests_of(config)
        json.dumps([plan, *told_to_jobs(plan)], allow_nan=False)
    except ConfigError as error:
        raise AssertionError("refused too late") from error


def told_to_jobs(plan: dict) -> Iterator[Any]:
    """The specs, limits and resources of all jobs of a sweep, as workflow/rules asks for them."""
    yield specs.plan_digest(plan)
    yield specs.limits_of(plan)
    for model in plan["models"]:
        yield specs.export_spec(plan, model, "digest")
        for artifact in specs.artifacts_of(plan):
            yield specs.convert_spec(plan, model, artifact, "digest")
            yield cluster.home_of(plan, artifact)
        for target in plan["targets"]:
            yield specs.calibration_spec(plan, model, target)
            for variant in plan["variants"]:
                cell = (plan, model, target, variant)
                yield [specs.benchmark_spec(*cell, number) for number in replicates_of(plan, variant["name"])[-1:]]
                yield [specs.arrivals_spec(*cell, 1), specs.images_spec(*cell)]
                named = (plan, model, target, variant["name"])
                yield [specs.trace_spec(*named), specs.score_spec(*named)]
    for name, target in plan["targets"].items():
        yield machines.this_machine(target)
        yield cluster.misplaced(target, None, submits_to_slurm=False)
        yield [cluster.resources(plan, stage, name) for stage in cluster.STAGES]


def check_config(draw) -> None:
    config = mutate(draw, draw(st.sampled_from([DEFAULT, SMOKE])))
    settle(lambda: resolve(config))


def check_files(draw, folder: Path) -> None:
    """A config, a targets file or a prompt suite with letters changed, or mutated as data and written again."""
    name = draw(st.sampled_from(sorted(TEXTS)))
    path = folder / "fuzzed.yaml"
    path.write_bytes(draw(st.sampled_from([scramble, rewrite]))(draw, TEXTS[name]))
    read = {
        "smoke.yaml": lambda: resolve(read_yaml(path)),
        "prices.yaml": lambda: resolve_price(PRICE, "targets.local.price", str(path)),
        "targets.yaml": lambda: read_targets(str(path), ["local"]),
        "prompts/edge.yaml": lambda: read_prompts(str(path)),
    }
    settle(read[name])


def scramble(draw, text: str) -> bytes:
    data = bytearray(text.encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        piece = draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"&a ", b"*a", b"!!set ", b"- ", b"\n  ", b": "]))
        )
        data[at : at + draw(st.integers(0, 12))] = piece
    return bytes(data)


def rewrite(draw, text: str) -> bytes:
    document = mutate(draw, yaml.safe_load(text))
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
