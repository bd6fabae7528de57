"""Config -> plan: what is to be done, with every axis of every variant spelled out.

The plan is data (JSON): the workflow derives its jobs from it, the report explains itself with it.
Whatever is wrong with a config is found here, before anything runs, and told in one line that names the key.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from diffsweep.sweep import models
from diffsweep.sweep.documents import ConfigError, check_name, read_yaml, shorten, suggest, validate
from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.variants import matrix_entries, resolve_variants

PRICES = "config/prices.yaml"

# Many replicates of few requests: the interval comes from the variation between replicates. The baseline against itself
# (A/A) has more of them, since every verdict is judged by the noise that it shows. Which differences each preset finds
# is measured by `snakemake calibration`.
PRESETS = {
    "default": {"replicates": 5, "aa_replicates": 13, "requests": 20},
    "publish": {"replicates": 16, "aa_replicates": 32, "requests": 20},
}

# Folders of a sweep that are not models.
RESERVED_MODELS = ("calibration", "plots", "states", "tables")

# Folders below results/ that are not sweeps.
RESERVED = ("artifacts", "envs", "published")


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
