"""Raw measurements: one request a line of JSON, appended and never edited (the contract is in DESIGN.md).

All times are seconds. A field that does not apply is null; fields that a reader does not know are left aside, so that
later versions can add some.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import msgspec

SCHEMA = 1
LARGEST = 1e12  # of any time; a wrong unit is found early
Seconds = Annotated[float, msgspec.Meta(ge=0, le=LARGEST)]
Difference = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]  # of two clocks, which may be below zero
PARTS = ("prompt_encode_s", "step_s", "decode_s", "image_encode_s")
OWNER = ("run", "model", "target", "variant", "replicate")
NO_JOB: Mapping = MappingProxyType({})


class CorruptRecords(ValueError):
    """A record file that must not be used; the message names the file, the line if it is one, and what is wrong."""


@dataclass(frozen=True)
class LatencyRecord:
    """One request of the paired measurement (METHOD.md, "Clocks").

    block: 0 for warm-up, then 1, 2, ...; order: the request's place in the replicate; error: its kind. e2e_s is the
    client's, from before the request is sent until its last byte is there. e2e_s = queue_s + prompt_encode_s + setup_s
    + sum(step_s) + decode_s + image_encode_s + transfer_s + residual_s: transfer_s is what passes outside of the
    server's handler, residual_s what nothing else accounts for. Records without setup_s are older, and have that time
    in residual_s.
    attempt: 1, and one more each time that a disturbed pair of blocks was measured again; `valid` leaves out what was
    thereby replaced.
    """

    schema: Literal[1]
    run: str
    model: str
    target: str
    variant: str
    role: Literal["variant", "baseline"]
    replicate: int
    block: int
    order: int
    prompt_id: str
    seed: int
    warmup: bool
    status: Literal["ok", "error"]
    error: str | None
    sent_unix_s: Seconds
    e2e_s: Seconds | None
    queue_s: Seconds | None
    prompt_encode_s: Seconds | None
    step_s: list[Seconds] | None
    decode_s: Seconds | None
    image_encode_s: Seconds | None
    residual_s: Difference | None
    transfer_s: Difference | None
    first_byte_s: Seconds | None
    attempt: int = 1
    batch_size: int | None = None  # images of the pipeline call that the request ran in
    setup_s: Seconds | None = None


@dataclass(frozen=True)
class CapacityRecord:
    """One request under load. scenario: a closed loop (steps) or an open one (arrivals); level: clients or requests/s.

    sent_s and done_s count from the start of the level; scheduled_s is null in a closed loop, where nothing is
    scheduled. steady: completed inside the window that throughput is taken from. images: how many came back. trial:
    which run of the search for the highest rate, from 1; null in a closed loop. attempt: 1, and one more each time that
    a level or run was made again; `valid` takes the last.
    """

    schema: Literal[1]
    run: str
    model: str
    target: str
    variant: str
    scenario: Literal["steps", "arrivals"]
    level: int | float
    scheduled_s: Seconds | None
    sent_s: Seconds
    done_s: Seconds
    status: Literal["ok", "error"]
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

    memory_bytes: resident, by server name; package_energy_j: of all processor packages, since the job began. gpus:
    one dict per device with `utilisation` (0 to 1), `memory_used_bytes`, `clock_mhz`, `memory_clock_mhz`, `power_w`,
    `temperature_c`, `clock_event_reasons` (NVML's bits), `energy_j` (counts from when the driver was loaded).
    """

    schema: Literal[1]
    unix_s: Seconds
    memory_bytes: dict[str, int]
    cpu_mhz: float | None
    cpu_temperature_c: float | None
    package_energy_j: float | None
    gpus: list[dict[str, float | None]]


Record = TypeVar("Record", LatencyRecord, CapacityRecord, ResourceSample)
Measured = TypeVar("Measured", LatencyRecord, CapacityRecord)
Problem = Callable[[Any], str | None]


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


# `job` is the document that the job which made the records left beside them (replicate.json, arrivals.json): they must
# be the very file whose digest it names, and of its variant. What an earlier version did not write is not asked for.


def read_latency(path: Path | str, job: Mapping = NO_JOB) -> list[LatencyRecord]:
    """All records of a latency.jsonl. Raises CorruptRecords, and FileNotFoundError."""
    return _read(path, LatencyRecord, job, _latency_problem, _clocks_problem())


def read_capacity(path: Path | str, job: Mapping = NO_JOB) -> list[CapacityRecord]:
    """All records of a capacity.jsonl. Raises CorruptRecords, and FileNotFoundError."""
    return _read(path, CapacityRecord, job, _capacity_problem)


def read_resources(path: Path | str, job: Mapping = NO_JOB) -> list[ResourceSample]:
    """All samples of a resources.jsonl. Raises CorruptRecords, and FileNotFoundError."""
    return _read(path, ResourceSample, job)


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


def _read(path: Path | str, kind: type[Record], job: Mapping, *problems: Problem) -> list[Record]:
    """Line after line, hashed on the way, so that a file is read once."""
    problems = (_owner_problem(job, {f.name for f in fields(kind)}), *problems)
    found, digest = [], hashlib.sha256()
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, start=1):
            digest.update(line)
            try:
                record = _parse(line, kind)
                for problem in problems:
                    if told := problem(record):
                        raise ValueError(told)
            except ValueError as error:
                raise CorruptRecords(f"{path}:{number}: {error}") from None
            found.append(record)
    if job.get("files", {}).get(Path(path).name, wanted := f"sha256:{digest.hexdigest()}") != wanted:
        raise CorruptRecords(
            f"{path}: is not the file that was made: its digest differs (each of its {len(found)} lines can be read)"
        )
    return found


# --- what is wrong with a record: None, or a clause ---


def _owner_problem(job: Mapping, names: Collection[str]) -> Problem:
    owner = [(key, job[key]) for key in OWNER if key in job and key in names]

    def problem(record: Record) -> str | None:
        for key, wanted in owner:
            if getattr(record, key) != wanted:
                return f"mixed from two runs: its {key} is {getattr(record, key)!r}, that of the job {wanted!r}"
        return None

    return problem


def _latency_problem(record: LatencyRecord) -> str | None:
    if record.status == "ok" and not record.e2e_s:
        return f"e2e_s is {record.e2e_s!r}, and status 'ok'"
    return _error_problem(record)


def _capacity_problem(record: CapacityRecord) -> str | None:
    if record.done_s < record.sent_s:
        return f"done_s is {record.done_s!r}, before sent_s, {record.sent_s!r}"
    if record.status == "ok" and record.images < 1:
        return f"images is {record.images!r}, and status 'ok'"
    if record.scenario == "arrivals" and None in (record.scheduled_s, record.trial):
        return "scenario is 'arrivals', and scheduled_s or trial null"
    return _error_problem(record)


def _error_problem(record: LatencyRecord | CapacityRecord) -> str | None:
    if (record.status == "ok") != (record.error is None):
        return f"status is {record.status!r}, and error {record.error!r}"
    return None


def _clocks_problem() -> Problem:
    """Of one file: the requests of a role have the same parts and steps, since they are compared part by part."""
    first: dict[str, list[int]] = {}

    def problem(record: LatencyRecord) -> str | None:
        if record.status != "ok":
            return None
        times = [_times(getattr(record, name)) for name in PARTS]
        wanted = first.setdefault(record.role, times)
        if times == wanted:
            return None
        name, here, there = next(each for each in zip(PARTS, times, wanted, strict=True) if each[1] != each[2])
        return f"{name} holds {here} times; {there} in the {record.role}'s first record"

    return problem


def _times(value: float | list[float] | None) -> int:
    """How many times a clock shows; 0 when it was not read."""
    return len(value) if type(value) is list else int(value is not None)


# --- what is wrong with a line: ValueError ---


@cache
def _decoder(kind: type[Record]) -> msgspec.json.Decoder:
    return msgspec.json.Decoder(kind)


def _parse(line: bytes, kind: type[Record]) -> Record:
    if not line.endswith(b"\n"):
        raise ValueError("the last record is cut off (no end of line)")
    try:
        return _decoder(kind).decode(line)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$.")
        if place == "schema`":
            what = f"this version reads schema {SCHEMA}; {what}"
        raise ValueError(f"{place.removesuffix('`')}: {what}" if place else what) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a record: {error}") from None
