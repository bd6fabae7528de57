"""Config -> plan: what is to be done, with every axis of every variant spelled out.

The plan is data (JSON): the workflow derives its jobs from it, the report explains itself with it.
Whatever is wrong with a config is found here, before anything runs, and told in one line that names the key.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend

from diffsweep.sweep import matrix, models
from diffsweep.sweep.environments import PROJECT

SCHEMAS = PROJECT / "workflow" / "schemas"
PRICES = "config/prices.yaml"

# One thing that can change between a variant and its parent. Order is the order of the columns.
AXES = ("engine", "precision", "compile", "scheduler", "steps", "guidance", "batching")
# Axes that a baseline need not state, and what it is then. A spec names such an axis only where it is something else,
# so that an axis that is added here reruns nothing that was measured before.
UNSTATED = {"batching": None}
# The axes that decide which files an engine runs; the others travel with each request.
ARTIFACT_AXES = ("engine", "precision", "compile")

# Many replicates of few requests: the interval comes from the variation between replicates. The baseline against itself
# (A/A) has more of them, since every verdict is judged by the noise that it shows. Which differences each preset finds
# is measured by `snakemake calibration`.
PRESETS = {
    "default": {"replicates": 5, "aa_replicates": 15, "requests": 15},
    "publish": {"replicates": 16, "aa_replicates": 32, "requests": 15},
}

# Folders of a sweep that are not models.
RESERVED_MODELS = ("calibration", "plots", "states", "tables")

# Folders below results/ that are not sweeps.
RESERVED = ("artifacts", "envs", "published")

PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


MOST_VALUES = 1_000_000  # in one file, with every alias written out
MOST_GENERATIONS = 200  # from a variant to the baseline


class ConfigError(Exception):
    """Something in a config file is wrong; the message is one line: where, what, and how to mend it."""

    def __init__(self, message: str):
        line = " ".join(message.split())  # a key may hold a line break, or what a terminal would obey
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))


# libyaml's parser where it is there: the same language, ten times as fast.
class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML without tags and without silent duplicates (YAML itself lets the last of two equal keys win)."""


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    loader.flatten_mapping(node)
    seen: dict = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
        if key in seen:
            line = key_node.start_mark.line + 1
            raise ConfigError(f"line {line}: the key {key!r} is there twice; remove or rename one of them")
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def read_yaml(path: Path | str) -> Any:
    """The content of a YAML file. Raises ConfigError: missing, not YAML, not UTF-8, a tag, a duplicate key."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_StrictLoader)
        _count_values(content, {})
        return content
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {_one_line(error)}") from None


def _count_values(value: Any, known: dict[int, int]) -> int:
    """How many values `value` holds. Raises ConfigError when there are too many, which a few nested aliases make."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES  # should it hold itself
        known[id(value)] = 1 + sum(
            _count_values(v, known) for v in (value.values() if isinstance(value, dict) else value)
        )
    if known[id(value)] > MOST_VALUES:
        raise ConfigError(f"its aliases stand for more than {MOST_VALUES:,} values; write out what you mean")
    return known[id(value)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# --- schema -------------------------------------------------------------------------------------------------------


def validate(document: Any, schema_name: str, where: str, part: str | None = None) -> Any:
    """`document` with the schema's defaults filled in. Raises ConfigError for the most telling violation.

    `part`: the document is only this definition of the schema.
    """
    whole = _schema(schema_name)
    schema = whole["$defs"][part] if part else whole
    filled = fill_defaults(document, schema, whole)
    error = best_match(_Validator(schema).iter_errors(filled), key=_depth)
    if error is not None:
        raise ConfigError(f"{where}: {explain(error)}")
    endless = _not_finite(filled)
    if endless is not None:
        raise ConfigError(f"{where}: {'.'.join(map(str, endless))}: give a finite number")
    return filled


def _is_whole(_checker: Any, value: Any) -> bool:
    """A step count of 8.0, an integer by JSON Schema, is none to what it is handed to."""
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = extend(Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_whole))


def _not_finite(value: Any, path: tuple = ()) -> tuple | None:
    """The path to the first infinite or undefined number, which YAML has and JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next((found for key, v in inside if (found := _not_finite(v, (*path, key))) is not None), None)


@cache
def _schema(name: str) -> Mapping:
    return read_yaml(SCHEMAS / f"{name}.schema.yaml")


def _depth(error: ValidationError) -> int:
    return -len(error.path)


def fill_defaults(value: Any, schema: Mapping, root: Mapping) -> Any:
    """A copy of `value` with every `default` of the schema where a key is absent."""
    schema = _resolve(schema, root)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        other = schema.get("additionalProperties")
        filled = {k: fill_defaults(v, properties.get(k, other or {}), root) for k, v in value.items()}
        for key, sub in properties.items():
            sub = _resolve(sub, root)
            if key not in filled and "default" in sub:
                filled[key] = fill_defaults(sub["default"], sub, root)
        return filled
    if isinstance(value, list):
        return [fill_defaults(item, schema.get("items", {}), root) for item in value]
    return value


def _resolve(schema: Any, root: Mapping) -> Mapping:
    if not isinstance(schema, Mapping):
        return {}
    reference = schema.get("$ref")
    if reference is None:
        return schema
    resolved: Any = root
    for part in reference.removeprefix("#/").split("/"):
        resolved = resolved[part]
    return {**resolved, **{k: v for k, v in schema.items() if k != "$ref"}}


def explain(error: ValidationError) -> str:
    """One line about a schema violation: the key, what is wrong, what would be right."""
    key = ".".join(str(part) for part in error.absolute_path)
    place = f"{key}: " if key else ""
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        unknown = sorted(str(k) for k in error.instance if k not in known)
        return f"{place}unknown key {unknown[0]!r}; {suggest(unknown[0], known)}"
    if error.validator == "enum":
        return f"{place}{error.instance!r} is not a known value; {suggest(error.instance, error.validator_value)}"
    if error.validator == "required":
        missing = [k for k in error.validator_value if k not in error.instance]
        sub = error.schema.get("properties", {}).get(missing[0], {}) if isinstance(error.schema, Mapping) else {}
        meaning = f" ({sub['description']})" if "description" in sub else ""
        return f"{place}{missing[0]!r} is missing{meaning}; add it"
    hint = error.schema.get("description", "") if isinstance(error.schema, Mapping) else ""
    if error.validator == "type":
        types = error.validator_value
        wanted = types if isinstance(types, str) else " or ".join(types)
        return f"{place}{shorten(error.instance)} is not of type {wanted}" + (f" ({hint})" if hint else "")
    message = error.message if len(error.message) < 200 else f"{shorten(error.instance)} does not fit"
    return f"{place}{message}" + (f" ({hint})" if hint else "")


def shorten(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def suggest(word: Any, known: Iterable[Any]) -> str:
    known = [str(k) for k in known]
    close = difflib.get_close_matches(str(word), known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known[:20])}" + (f" and {len(known) - 20} more" if len(known) > 20 else "")


# --- variants -----------------------------------------------------------------------------------------------------


def check_name(kind: str, name: Any) -> None:
    """Names become folders and words in tables, so they are plain words."""
    if not isinstance(name, str) or not PLAIN_WORD.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"{kind}.{shorten(name)}: a name is a plain word of up to 64 letters, digits and . _ + - "
            "(starting with a letter or digit, quoted if YAML reads it as a number)"
        )


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


# --- models, targets, prompts ---------------------------------------------------------------------------------------


def check_model(name: str, model: Mapping) -> dict:
    """A model entry that can be loaded. Raises ConfigError: no or two sources, missing folder, unpinned revision."""
    check_name("models", name)
    where = f"models.{name}"
    if name in RESERVED_MODELS:
        raise ConfigError(f"{where}: a sweep has a folder of that name with a meaning of its own; choose another name")
    if ("path" in model) == ("hub" in model):
        raise ConfigError(f"{where}: give either `path` (a local folder) or `hub` (with a pinned `revision`)")
    if "hub" in model:
        if not re.fullmatch(r"[0-9a-f]{40}", str(model.get("revision", ""))):
            raise ConfigError(
                f"{where}.revision: a hub model needs a pinned revision, the commit's 40 hex digits "
                "(branches and tags move); copy it from the model's page"
            )
        return {"name": name, **model}
    check_model_folder(f"{where}.path: {model['path']!r}", PROJECT / model["path"])
    return {"name": name, **model}


def check_model_folder(where: str, folder: Path) -> None:
    """Raise ConfigError unless `folder` holds a diffusers pipeline that is safe to load."""
    try:
        found = (folder / "model_index.json").is_file()
    except (OSError, ValueError):  # no name that a file can have
        found = False
    if not found:
        raise ConfigError(
            f"{where} is not a diffusers pipeline folder (it has no model_index.json); "
            "give a folder written by save_pretrained, relative to the project"
        )
    link = models.link_out_of(folder)
    if link:
        raise ConfigError(f"{where}: {link} is a symbolic link out of the folder; put the file itself there")
    refused = models.refusal(folder)
    if refused:
        raise ConfigError(f"{where}: {refused}")


def read_targets(path: str, wanted: Iterable[str]) -> dict[str, dict]:
    """The targets of a sweep, by name. Raises ConfigError: unknown target, a price without date or source."""
    known = validate(read_yaml(PROJECT / path), "targets", path)["targets"]
    targets = {}
    for name in wanted:
        check_name("targets", name)
        if name not in known:
            raise ConfigError(f"targets: there is no target {name!r} in {path}; {suggest(name, known)}")
        price = resolve_price(known[name]["price"], f"{path}: targets.{name}.price")
        targets[name] = {"name": name, **known[name], "price": price}
        check_slurm(f"{path}: targets.{name}", known[name])
    return targets


def resolve_price(given: str | Mapping, where: str, path: str = PRICES) -> dict:
    """A target's price: what it says itself, or the entry of the prices file that it names. Raises ConfigError."""
    if isinstance(given, Mapping):
        return check_price(given, where)
    document = read_yaml(PROJECT / path)
    known = document.get("prices") if isinstance(document, dict) else None
    if not isinstance(known, dict):
        raise ConfigError(f"{path}: 'prices' is missing (a mapping from names to prices); add it")
    if given not in known:
        raise ConfigError(f"{where}: there is no price {given!r} in {path}; {suggest(given, known)}")
    return check_price(known[given], f"{path}: prices.{given}")


def check_price(price: Any, where: str) -> dict:
    """A price that can be defended, with its defaults. Raises ConfigError."""
    checked = validate(price, "price", where)
    try:
        date.fromisoformat(checked["date"])
    except ValueError:
        raise ConfigError(f"{where}.date: {checked['date']!r} is no day; give the day the price was read") from None
    return checked


def check_slurm(where: str, target: Mapping) -> None:
    """Raises ConfigError when a target that is a partition is described by this machine, or contradicts itself."""
    asked = target.get("slurm")
    if asked is None:
        return
    if target["threads"] == "all":
        raise ConfigError(f"{where}.threads: 'all' would count this machine's cores; give the number of a node's cores")
    for key in ("gpu_model", "gpus"):
        if key in asked and target["device"] != "cuda":
            raise ConfigError(f"{where}.slurm.{key}: the device is cpu; remove the key, or say `device: cuda`")


def read_prompts(path: str) -> list[str]:
    return validate(read_yaml(PROJECT / path), "prompts", path)["prompts"]


# --- the plan -------------------------------------------------------------------------------------------------------


def make_plan(config: Mapping) -> dict:
    """The resolved plan of a sweep. Raises ConfigError with one line for the first thing that is wrong."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"config: {shorten(config)} is no mapping of keys to values; see config/config.yaml for one")
    settings = validate(dict(config), "config", "config")
    check_name("sweep", settings["sweep"])
    if settings["sweep"] in RESERVED:
        raise ConfigError(
            f"sweep: {settings['sweep']!r} is a folder of results/ with a meaning of its own; choose another name"
        )
    variants = resolve_variants(settings["variants"], settings["baseline"])
    settings["protocol"] = resolve_protocol(settings["protocol"])
    if "matrix" in settings:
        entries = matrix_entries(settings["matrix"], variants, settings["baseline"])
        variants = resolve_variants({**settings["variants"], **entries}, settings["baseline"])
    check_requests(settings, [variant["name"] for variant in variants])
    for path in (settings["protocol"]["prompts"], settings["quality"]["prompts"], settings["conversion"]["prompts"]):
        read_prompts(path)
    return {
        "schema": 1,
        "sweep": settings["sweep"],
        "models": {name: check_model(name, model) for name, model in settings["models"].items()},
        "targets": read_targets(settings["targets_file"], settings["targets"]),
        "baseline": settings["baseline"],
        "variants": variants,
        **{
            key: settings[key]
            for key in ("protocol", "arrivals", "quality", "conversion", "calibration", "limits", "gate")
        },
    }


def resolve_protocol(given: Mapping) -> dict:
    """The protocol with what its preset says where it says nothing. Raises ConfigError."""
    preset = dict(PRESETS[given["preset"]])
    if "replicates" in given:
        preset["aa_replicates"] = given["replicates"]
    protocol = {**preset, **given}
    if protocol["aa_replicates"] < protocol["replicates"]:
        raise ConfigError(
            f"protocol.aa_replicates: {protocol['aa_replicates']} are fewer than the {protocol['replicates']} of the "
            "variants that are judged by them; give at least as many"
        )
    return protocol


def replicates_of(plan: Mapping, variant: str) -> range:
    """The numbers of a variant's replicates, from 1."""
    protocol = plan["protocol"]
    aa = protocol.get("aa_replicates", protocol["replicates"])  # plans of older sweeps have no such key
    return range(1, (aa if variant == plan["baseline"] else protocol["replicates"]) + 1)


def gate_settings(given: Mapping, where: str) -> dict:
    """The thresholds of scripts/gate, with the schema's defaults. Raises ConfigError."""
    return validate(dict(given), "config", where, part="gate")


def check_requests(settings: Mapping, variants: Iterable[str]) -> None:
    """Are the requests of this call (failed, stale, only) ones that can be met? Raises ConfigError."""
    if not settings["only"]:
        return
    if settings["failed"] != "retry" and settings["stale"] != "rerun":
        raise ConfigError(
            "only: says which variants failed=retry or stale=rerun mean; give one of the two, or leave it"
        )
    for name in settings["only"]:
        if name not in variants:
            raise ConfigError(f"only: there is no variant {name!r}; {suggest(name, variants)}")


def find_variant(plan: Mapping, name: str) -> dict:
    return next(variant for variant in plan["variants"] if variant["name"] == name)
