"""Raw measurements: one request a line of JSON, appended and never edited (the contract is in DESIGN.md).

All times are seconds. A field that does not apply is null; fields that a reader does not know are left aside, so that
later versions can add some.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

SCHEMA = 1


class CorruptRecords(ValueError):
    """A record file that must not be used; the message names the file, the line and what is wrong there."""


@dataclass(frozen=True)
class LatencyRecord:
    """One request of the paired measurement (METHOD.md, "Clocks").

    role: "variant" or "baseline"; block: 0 for warm-up, then 1, 2, ...; order: the request's place in the replicate;
    status: "ok" or "error"; error: its kind. e2e_s is the client's, from before the request is sent until its last
    byte is there. e2e_s = queue_s + prompt_encode_s + setup_s + sum(step_s) + decode_s + image_encode_s + transfer_s
    + residual_s: transfer_s is what passes outside of the server's handler, residual_s what nothing else accounts for.
    Records without setup_s are older, and have that time in residual_s.
    attempt: 1, and one more each time that a disturbed pair of blocks was measured again; `valid` leaves out what was
    thereby replaced.
    """

    schema: int
    run: str
    model: str
    target: str
    variant: str
    role: str
    replicate: int
    block: int
    order: int
    prompt_id: str
    seed: int
    warmup: bool
    status: str
    error: str | None
    sent_unix_s: float
    e2e_s: float | None
    queue_s: float | None
    prompt_encode_s: float | None
    step_s: list[float] | None
    decode_s: float | None
    image_encode_s: float | None
    residual_s: float | None
    transfer_s: float | None
    first_byte_s: float | None
    attempt: int = 1
    batch_size: int | None = None  # images of the pipeline call that the request ran in
    setup_s: float | None = None


@dataclass(frozen=True)
class CapacityRecord:
    """One request under load. scenario: "steps" (closed loop) or "arrivals" (open loop); level: clients or requests/s.

    sent_s and done_s count from the start of the level; scheduled_s is null in a closed loop, where nothing is
    scheduled. steady: completed inside the window that throughput is taken from. images: how many came back. trial:
    which run of the search for the highest rate, from 1; null in a closed loop. attempt: 2 where a disturbed level or
    run was made again, which `valid` takes instead of the first.
    """

    schema: int
    run: str
    model: str
    target: str
    variant: str
    scenario: str
    level: float
    scheduled_s: float | None
    sent_s: float
    done_s: float
    status: str
    error: str | None
    images: int
    replicate: int
    client: int
    steady: bool
    trial: int | None = None
    batch_size: int | None = None
    attempt: int = 1


@dataclass(frozen=True)
class ResourceSample:
    """What the servers and devices did at one moment (measure/sampler.py); None where the machine does not say.

    memory_bytes: resident, by server name; package_energy_j: of all processor packages, from the first sample on. gpus:
    one dict per device with `utilisation` (0 to 1), `memory_used_bytes`, `clock_mhz`, `memory_clock_mhz`, `power_w`,
    `temperature_c`, `clock_event_reasons` (NVML's bits), `energy_j` (counts from when the driver was loaded).
    """

    schema: int
    unix_s: float
    memory_bytes: dict[str, int]
    cpu_mhz: float | None
    cpu_temperature_c: float | None
    package_energy_j: float | None
    gpus: list[dict[str, float | None]]


Record = TypeVar("Record", LatencyRecord, CapacityRecord, ResourceSample)
Measured = TypeVar("Measured", LatencyRecord, CapacityRecord)


class RecordWriter:
    """Appends records to a file; each is in the kernel's hands when `append` returns, so a killed job keeps it."""

    def __init__(self, path: Path | str):
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  closed by the context manager

    def append(self, record: LatencyRecord | CapacityRecord | ResourceSample) -> None:
        self._file.write(json.dumps(asdict(record), allow_nan=False).encode() + b"\n")

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()


def read_latency(path: Path | str) -> list[LatencyRecord]:
    """All records of a latency.jsonl. Raises CorruptRecords, and FileNotFoundError."""
    return list(_read(path, LatencyRecord))


def read_capacity(path: Path | str) -> list[CapacityRecord]:
    """All records of a capacity.jsonl. Raises CorruptRecords, and FileNotFoundError."""
    return list(_read(path, CapacityRecord))


def read_resources(path: Path | str) -> list[ResourceSample]:
    """All samples of a resources.jsonl. Raises CorruptRecords, and FileNotFoundError."""
    return list(_read(path, ResourceSample))


def valid(records: Sequence[Measured]) -> list[Measured]:
    """The records of one replicate without those of blocks, levels and runs that were disturbed and measured again."""
    parts = [_part_of(record) for record in records]
    last: dict[Any, int] = {}
    for record, part in zip(records, parts, strict=True):
        last[part] = max(record.attempt, last.get(part, 1))
    return [record for record, part in zip(records, parts, strict=True) if record.attempt == last[part]]


def _part_of(record: LatencyRecord | CapacityRecord) -> Any:
    """What was, or would be, measured again as a whole."""
    return record.block if isinstance(record, LatencyRecord) else (record.scenario, record.level, record.trial)


def _read(path: Path | str, kind: type[Record]) -> Iterator[Record]:
    checks, defaults = _known_of(kind)
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                yield _parse(line, kind, checks, defaults)
            except ValueError as error:
                raise CorruptRecords(f"{path}:{number}: {error}") from None


@cache
def _known_of(kind: type[Record]) -> tuple[dict, dict]:
    """The check of each field of a record, and the values of those that may be missing."""
    checks = {field.name: _check_of(field.type) for field in fields(kind)}
    return checks, {field.name: field.default for field in fields(kind) if field.default is not MISSING}


def _parse(line: bytes, kind: type[Record], checks: dict, defaults: dict) -> Record:
    if not line.endswith(b"\n"):
        raise ValueError("the last record is cut off (no end of line)")
    try:
        document = _DECODER.decode(line.decode())
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not a record: {error.msg} at character {error.pos + 1}") from None
    if not isinstance(document, dict):
        raise ValueError("not a record: not a JSON object")
    if document.get("schema") != SCHEMA:
        raise ValueError(f"schema is {document.get('schema')!r}; this version reads schema {SCHEMA}")
    document = {**defaults, **document}  # a record of an earlier version lacks what was added since
    for name, check in checks.items():
        if name not in document:
            raise ValueError(f"{name} is missing")
        if not check(document[name]):
            raise ValueError(f"{name} is {str(document[name])[:40]!r}, which it cannot be")
    return kind(**{name: document[name] for name in checks})


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a measurement")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _check_of(kind: Any) -> Callable[[Any], bool]:
    """value -> bool: whether a JSON value fits a field's type. By exact types: True is no int here."""
    options = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)
    plain = frozenset(plain for option in options if get_origin(option) is None for plain in _types_of(option))
    containers = [_container_check(option) for option in options if get_origin(option) is not None]
    if not containers:
        return lambda value: type(value) in plain
    return lambda value: type(value) in plain or any(check(value) for check in containers)


def _types_of(kind: type) -> tuple[type, ...]:
    return (float, int) if kind is float else (kind,)


def _container_check(kind: Any) -> Callable[[Any], bool]:
    """Of list[...] and dict[str, ...]."""
    container, inner = get_origin(kind), get_args(kind)[-1]
    items = dict.values if container is dict else iter
    if get_origin(inner) is None:
        allowed = frozenset(_types_of(inner))
        return lambda value: type(value) is container and allowed.issuperset(map(type, items(value)))
    check = _check_of(inner)
    return lambda value: type(value) is container and all(check(item) for item in items(value))
