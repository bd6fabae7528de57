"""The files that a finished sweep consists of, for whoever passes them on. Logs and model files stay behind."""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffsweep.sweep.files import list_files, read_json
from diffsweep.sweep.paths import ARTIFACTS, RESULTS

RAW = {".jsonl", ".json", ".parquet", ".npy", ".txt"}
METADATA = Path(".snakemake", "metadata")
# What the workflow itself consists of, but for its resources.
CODE = ("Snakefile", "LICENSE", "pyproject.toml", "workflow", "scripts", "profiles", "envs")
# Read when no config names another.
CONFIG_DEFAULTS = ("config/targets.yaml", "config/prices.yaml")


def raw_files(results: Path) -> list[Path]:
    """Records, outcomes and scores of every cell, manifests of every artifact, receipts of the environments."""
    models = read_json(results / "plan.json")["models"]
    cells = [path for model in models for path in _finished(results / model)]
    return sorted(path for path in (*cells, *_shared(models)) if path.suffix in RAW)


def all_files(results: Path) -> list[Path]:
    """Everything of a sweep, images too, oldest first: whoever writes them in this order keeps what is newer newer."""
    own = [path for path in _finished(results) if path.suffix not in (".log", ".zip")]
    found = {*own, *_shared(read_json(results / "plan.json")["models"])}
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path))


def _finished(folder: Path) -> list[Path]:
    """All files below `folder` but those that a job is still writing, or has left when it was killed."""
    return [path for path in list_files(folder) if not any(part.endswith(".partial") for part in path.parts)]


def _shared(models: Iterable[str]) -> Iterator[Path]:
    for model in models:
        yield from sorted(Path(ARTIFACTS, model).glob("*/manifest.json"))
    yield from sorted(Path(RESULTS, "envs").glob("*.txt"))


def code_files() -> list[Path]:
    """The files of the workflow and its programs."""
    found = [path for name in CODE for path in ([Path(name)] if Path(name).is_file() else list_files(name))]
    return [path for path in found if "__pycache__" not in path.parts and not path.name.startswith(".")]


def config_files(*documents: object) -> list[Path]:
    """The files of this folder that a config or a plan names: prompt suites, targets, prices."""
    named = {*CONFIG_DEFAULTS, *(text for document in documents for text in _texts(document) if len(text) < 256)}
    plain = (Path(text) for text in named if re.fullmatch(r"[\w.+/-]+\.(ya?ml|json)", text))
    return sorted(path for path in plain if path.is_file() and not path.is_absolute() and ".." not in path.parts)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def snakemake_records(outputs: Iterable[Path]) -> dict[Path, dict]:
    """Snakemake's record of each of `outputs` that it has one of, by the record's own path.

    A record's name is its output's path in base64, in pieces that begin with @ where it is long.
    """
    wanted = {path.as_posix() for path in outputs}
    found = {}
    for path in list_files(METADATA):
        name = "".join(part.removeprefix("@") for part in path.relative_to(METADATA).parts)
        try:
            output = urlsafe_b64decode(name).decode()
            record = json.loads(path.read_text(encoding="utf-8")) if output in wanted else None
        except ValueError:  # not a record, or one that was being written when Snakemake was killed
            continue
        if record is not None:
            found[path] = record
    return found
