"""Broken configs made from valid ones: a key misspelt, dropped, doubled or swapped, a value of another kind or size.

`check_config` and `check_files` take hypothesis' `draw` and fail when what was drawn shows a traceback: whatever the
file, it resolves, or it is a ConfigError of one printable line.
"""

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from conftest import PROJECT
from diffsweep.sweep.documents import ConfigError, read_yaml
from diffsweep.sweep.plan import make_plan, read_prompts, read_targets, resolve_price

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
KEYS = st.one_of(STRANGE, st.text(max_size=8), st.integers(), st.none(), st.booleans())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths to everything inside `value`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(p for key, inner in inside for p in places(inner, (*path, key)))]


def mutate(draw, document: Any) -> Any:
    """`document` with one to three things changed."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        found = places(document)
        if not found:
            return document
        *path, last = draw(st.sampled_from(found))
        holder = document
        for part in path:
            holder = holder[part]
        change(draw, holder, last, document)
    return document


def change(draw, holder: Any, key: Any, document: Any) -> None:
    how = draw(st.sampled_from(["value", "value", "drop", "rename", "add", "elsewhere", "wrap"]))
    if how == "value":
        holder[key] = draw(VALUES)
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


def check_config(draw) -> None:
    config = mutate(draw, draw(st.sampled_from([DEFAULT, SMOKE])))
    settle(lambda: json.dumps(make_plan(config), allow_nan=False))


def check_files(draw, folder: Path) -> None:
    """A config, a targets file or a prompt suite with letters changed, or mutated as data and written again."""
    name = draw(st.sampled_from(sorted(TEXTS)))
    path = folder / "fuzzed.yaml"
    path.write_bytes(draw(st.sampled_from([scramble, rewrite]))(draw, TEXTS[name]))
    read = {
        "smoke.yaml": lambda: json.dumps(make_plan(read_yaml(path)), allow_nan=False),
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
