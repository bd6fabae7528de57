"""Chrome's trace format, which Perfetto (https://ui.perfetto.dev) opens: events with times in microseconds.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU, "Trace Event Format".
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


def complete(name: str, began_us: float, took_us: float, pid: int, tid: int, **arguments: object) -> dict:
    """A span ("X", a complete event) on the line `tid` of the group `pid`."""
    return {"ph": "X", "name": name, "ts": began_us, "dur": took_us, "pid": pid, "tid": tid, "args": arguments}


def group_name(pid: int, name: str) -> dict:
    return {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}


def line_name(pid: int, tid: int, name: str) -> dict:
    return {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}


def write_trace(events: Sequence[dict], path: Path) -> None:
    """Write events as gzipped JSON."""
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=6) as handle:
        json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, handle)


def self_times(events: Iterable[dict]) -> Iterator[tuple[str, float]]:
    """(name, seconds) of every span, without the time in the spans inside of it on the same line."""
    ordered = sorted(events, key=lambda event: (event["pid"], event["tid"], event["ts"], -event["dur"]))
    own_us = [event["dur"] for event in ordered]
    open_spans: list[int] = []
    for place, event in enumerate(ordered):
        while open_spans and not _inside(event, ordered[open_spans[-1]]):
            open_spans.pop()
        if open_spans:
            own_us[open_spans[-1]] -= event["dur"]
        open_spans.append(place)
    for event, own in zip(ordered, own_us, strict=True):
        yield event["name"], max(own, 0.0) / 1e6  # a child's end may be rounded beyond its parent's


def _inside(inner: dict, outer: dict) -> bool:
    same_line = (inner["pid"], inner["tid"]) == (outer["pid"], outer["tid"])
    return same_line and inner["ts"] < outer["ts"] + outer["dur"]
