"""The variants of a sweep: each a parent and one changed axis in the config, every axis spelled out in the plan."""

from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from diffsweep.sweep import matrix
from diffsweep.sweep.documents import SCHEMAS, ConfigError, check_name, explain, read_yaml, shorten, suggest

# One thing that can change between a variant and its parent. Order is the order of the columns.
AXES = ("engine", "precision", "compile", "scheduler", "steps", "guidance", "batching")
# Axes that a baseline need not state, and what it is then. A spec names such an axis only where it is something else,
# so that an axis that is added here reruns nothing that was measured before.
UNSTATED = {"batching": None}
# The axes that decide which files an engine runs; the others travel with each request.
ARTIFACT_AXES = ("engine", "precision", "compile")
MOST_GENERATIONS = 200  # from a variant to the baseline


def resolve_variants(variants: Mapping[str, Mapping], baseline: str) -> list[dict]:
    """Every variant with all its axes, parents before children otherwise in config order.

    Raises ConfigError: unknown baseline or parent, a cycle, a missing axis of the baseline, no change, two changes
    without `compound: true`, two variants with equal axes.
    """
    for name in variants:
        check_name("variants", name)
    if baseline not in variants:
        raise ConfigError(f"baseline: there is no variant {baseline!r}; {suggest(baseline, variants)}")
    resolved: dict[str, dict] = {}
    for name in variants:
        _resolve_variant(name, variants, baseline, resolved, ())
    ordered = [resolved[name] for name in variants]
    _refuse_duplicates(ordered)
    return ordered


def _resolve_variant(name: str, variants: Mapping, baseline: str, resolved: dict, descent: tuple[str, ...]) -> dict:
    if name in resolved:
        return resolved[name]
    if name in descent:
        raise ConfigError(f"variants.{name}: its parents form a cycle: {' -> '.join([*descent, name])}")
    if len(descent) > MOST_GENERATIONS:
        raise ConfigError(f"variants.{name}: more than {MOST_GENERATIONS} generations down; choose a nearer parent")
    given = variants[name]
    parent_name = given.get("parent")
    if name == baseline:
        resolved[name] = _baseline(name, given)
        return resolved[name]
    if parent_name is None:
        raise ConfigError(f"variants.{name}.parent: missing; only the baseline ({baseline!r}) has no parent")
    if parent_name not in variants:
        raise ConfigError(
            f"variants.{name}.parent: there is no variant {parent_name!r}; {suggest(parent_name, variants)}"
        )
    parent = _resolve_variant(parent_name, variants, baseline, resolved, (*descent, name))
    axes = {axis: parent[axis] for axis in AXES} | _axes_in(name, given)
    changes = [f"{axis}: {say(parent[axis])} -> {say(axes[axis])}" for axis in AXES if axes[axis] != parent[axis]]
    if not changes:
        raise ConfigError(f"variants.{name}: changes nothing against its parent {parent_name!r}; change an axis")
    if len(changes) > 1 and not given.get("compound"):
        raise ConfigError(
            f"variants.{name}: changes {len(changes)} axes ({'; '.join(changes)}); change one, or say `compound: true`"
        )
    resolved[name] = _variant(name, parent_name, "; ".join(changes), axes)
    return resolved[name]


def _axes_in(name: str, given: Mapping) -> dict:
    """The axes that a variant states. `batching: off` is None, as if it had never been turned on."""
    axes = {axis: given[axis] for axis in AXES if axis in given}
    if axes.get("batching") is True:
        raise ConfigError(f"variants.{name}.batching: on is too little; say {{max_batch: 4, max_wait_ms: 10}}, or off")
    return axes | ({"batching": None} if axes.get("batching") is False else {})


def say(value: Any) -> str:
    """The value of an axis in words: on, off, 25, "up to 4 within 10 ms"."""
    if isinstance(value, Mapping):
        return f"up to {value['max_batch']} within {value['max_wait_ms']:g} ms"
    if value is None or isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _baseline(name: str, given: Mapping) -> dict:
    if given.get("parent") is not None:
        raise ConfigError(f"variants.{name}.parent: the baseline has no parent; remove the key")
    axes = UNSTATED | _axes_in(name, given)
    missing = [axis for axis in AXES if axis not in axes]
    if missing:
        raise ConfigError(f"variants.{name}: the baseline must state every axis; add {', '.join(missing)}")
    return _variant(name, None, "", {axis: axes[axis] for axis in AXES})


def _variant(name: str, parent: str | None, change: str, axes: dict) -> dict:
    return {"name": name, "parent": parent, "change": change, **axes}


def _refuse_duplicates(variants: Iterable[Mapping]) -> None:
    seen: dict[tuple, str] = {}
    for variant in variants:
        axes = tuple(say(v) if isinstance(v, Mapping) else v for v in map(variant.get, AXES))
        if axes in seen:
            raise ConfigError(
                f"variants.{variant['name']}: the same as {seen[axes]!r} on every axis; remove one of them"
            )
        seen[axes] = variant["name"]


def matrix_entries(wanted: Mapping, variants: Iterable[Mapping], baseline: str) -> dict[str, dict]:
    """The variants of `matrix:` as lines of the config (sweep/matrix.py), by name.

    Raises ConfigError: an unknown parent, axis or value, a name that another variant has, too many combinations.
    """
    by_name = {variant["name"]: variant for variant in variants}
    root = wanted.get("parent", baseline)
    if root not in by_name:
        raise ConfigError(f"matrix.parent: there is no variant {root!r}; {suggest(root, by_name)}")
    schema = read_yaml(SCHEMAS / "config.schema.yaml")
    for axis, values in wanted["axes"].items():
        if axis not in AXES:
            raise ConfigError(f"matrix.axes: there is no axis {shorten(axis)}; {suggest(axis, AXES)}")
        kind = {"$defs": schema["$defs"], "type": "array", "items": schema["$defs"]["variant"]["properties"][axis]}
        error = best_match(Draft202012Validator(kind).iter_errors(values))
        if error is not None:
            raise ConfigError(f"matrix.axes.{axis}.{explain(error)}")
    for axis, value in (pair for left_out in wanted["exclude"] for pair in left_out.items()):
        if value not in wanted["axes"].get(axis, ()):
            raise ConfigError(f"matrix.exclude: no combination has {axis} {shorten(value)}; remove it")
    try:
        return matrix.expand(wanted, by_name, root, "" if root == baseline else f"{root}-", AXES)
    except matrix.Clash as clash:
        raise ConfigError(f"matrix: {clash}") from None


def artifact_name(variant: Mapping, target: str) -> str:
    """The artifact a variant runs. Compiled code depends on the hardware, so its artifact names the target."""
    name = f"{variant['engine']}-{variant['precision']}"
    return f"{name}-compile-{target}" if variant["compile"] else name


def find_variant(plan: Mapping, name: str) -> dict:
    return next(variant for variant in plan["variants"] if variant["name"] == name)
