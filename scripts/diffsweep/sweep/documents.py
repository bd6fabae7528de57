"""Config files as documents: YAML that is read strictly, checked against a schema, completed with its defaults.

Whatever is wrong is a ConfigError: one line that names the key, what is wrong with it, and how to mend it.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend

from diffsweep.sweep.environments import PROJECT

SCHEMAS = PROJECT / "workflow" / "schemas"
PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
MOST_VALUES = 1_000_000  # in one file, with every alias written out


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


def check_name(kind: str, name: Any) -> None:
    """Names become folders and words in tables, so they are plain words."""
    if not isinstance(name, str) or not PLAIN_WORD.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"{kind}.{shorten(name)}: a name is a plain word of up to 64 letters, digits and . _ + - "
            "(starting with a letter or digit, quoted if YAML reads it as a number)"
        )
