"""`matrix:` in a config -> variants: every combination of the listed values, each with its parent.

A combination's parent is the variant nearest to it that is part of the sweep: one axis is set back to the root's value,
the last axis first (what a request carries before what an artifact is), or more than one where such a combination was
left out (a compound then). Its name says what differs from the root and nothing else, so that it stays the same when
values are added to the matrix.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

MOST = 100_000  # combinations: beyond this a config is a typing error


class Clash(Exception):
    """The combinations cannot all be variants; the message says which one, and how to mend it."""


def expand(matrix: Mapping, written: Mapping[str, Mapping], root: str, prefix: str, axes: Sequence[str]) -> dict:
    """The combinations as lines of the config, by name (`prefix` begins it); those already written are left out.

    `written`: the other variants by name, all axes spelled out; `root`: the one that the combinations descend from.
    """
    count = math.prod(len(values) for values in matrix["axes"].values())
    if count > MOST:
        raise Clash(f"{count:,} combinations are more than {MOST:,}; list fewer values")
    origin = {axis: written[root][axis] for axis in axes}
    known = {_key(variant, axes): name for name, variant in written.items()}
    wanted = [c for c in _combinations(matrix, origin, axes) if _key(c, axes) not in known]
    taken = set(written)
    for combination in wanted:
        differing = _differing(combination, origin, axes)
        name = prefix + "-".join(_word(axis, combination[axis]) for axis in differing)
        if name in taken:
            said = ", ".join(f"{axis} {combination[axis]}" for axis in differing)
            raise Clash(
                f"{said} would be named {name!r}, as is a variant with other values; rename that one, "
                "or exclude the combination"
            )
        taken.add(name)
        known[_key(combination, axes)] = name
    return {known[_key(c, axes)]: _entry(c, origin, known, axes) for c in wanted}


def _combinations(matrix: Mapping, origin: Mapping, axes: Sequence[str]) -> Iterator[dict]:
    listed = [axis for axis in axes if axis in matrix["axes"]]
    for values in product(*(matrix["axes"][axis] for axis in listed)):
        combination = {**origin, **dict(zip(listed, values, strict=True))}
        if not any(all(combination[axis] == v for axis, v in out.items()) for out in matrix["exclude"]):
            yield combination


def _entry(combination: Mapping, origin: Mapping, known: Mapping, axes: Sequence[str]) -> dict:
    """What the combination would be as a line of the config: the nearest known parent, and what changes against it."""
    differing = list(reversed(_differing(combination, origin, axes)))
    resets = (reset for count in range(1, len(differing) + 1) for reset in combinations(differing, count))
    for reset in resets:  # the last of them leads to the root, which is known
        parent = known.get(_key({**combination, **{axis: origin[axis] for axis in reset}}, axes))
        if parent is not None:
            break
    return {"parent": parent, "compound": len(reset) > 1, **{axis: combination[axis] for axis in reset}}


def _key(variant: Mapping, axes: Sequence[str]) -> tuple:
    return tuple(_frozen(variant[axis]) for axis in axes)


def _frozen(value: Any) -> Any:
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else value


def _differing(combination: Mapping, origin: Mapping, axes: Sequence[str]) -> list[str]:
    return [axis for axis in axes if combination[axis] != origin[axis]]


def _word(axis: str, value: Any) -> str:
    """A value as part of a name: a word stands for itself, a number or a switch needs its axis."""
    if isinstance(value, str):
        return value
    if value is True:
        return axis
    if value is False or value is None:
        return f"no-{axis}"
    if isinstance(value, Mapping):
        return "-".join([axis, *(f"{key}-{part}" for key, part in sorted(value.items()))])
    return f"{axis}-{value:g}"
