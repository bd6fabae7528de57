"""What another load generator measured -> our capacity records, and the figures that ours would give.

    python scripts/import_load.py locust.jsonl --out capacity.jsonl       # by scripts/load/locustfile.py
    python scripts/import_load.py k6.json --out capacity.jsonl            # by scripts/load/k6.js, --out json
    python scripts/import_load.py k6-summary.json --out level.json        # k6's summaries: figures, no records

The form of FILE is found out by reading it: Locust's request events, k6's lines (`--out json`), or k6's summary as
--summary-export, handleSummary or --new-machine-readable-summary write it. The steady window is taken as our own load
takes it: from when every client has had an answer until the first one stops. What was completed after it is left out.
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TextIO

from diffsweep.measure.capacity import disagreement, littles_law, littles_law_slack, why_invalid, window_of
from diffsweep.measure.records import LARGEST, SCHEMA, CapacityRecord, RecordWriter
from diffsweep.sweep.files import atomic, write_json
from diffsweep.sweep.runs import current_run


class Unreadable(ValueError):
    """A file that must not be used; the message says where and why."""


@dataclass(frozen=True)
class Request:
    """One request as the other generator measured it. Unix seconds; error: its kind, None when ok."""

    client: str
    sent_s: float
    done_s: float
    images: int
    error: str | None


def main() -> None:
    options = parse_options()
    try:
        with open(options.file, encoding="utf-8") as handle:
            found = read(handle)
        if isinstance(found, dict):
            write_json(options.out, found)
            print(f"{options.out}: {sentence(found)}")
        else:
            write_records(options.out, *capacity_records(found, identity_of(options)))
    except (OSError, UnicodeDecodeError, Unreadable) as error:
        sys.exit(f"import_load: {options.file}: {error}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what Locust or k6 wrote")
    parser.add_argument("--out", required=True, type=Path, help="capacity records (JSON lines); a summary's figures")
    for name, default in (("model", "model"), ("target", "local"), ("variant", "variant")):
        parser.add_argument(f"--{name}", default=default, help=f"the records' {name} (default: {default})")
    parser.add_argument("--replicate", type=int, default=1, help="the records' replicate (default: 1)")
    return parser.parse_args()


def identity_of(options: argparse.Namespace) -> dict:
    names = {name: getattr(options, name) for name in ("model", "target", "variant", "replicate")}
    return {"schema": SCHEMA, "run": current_run(), **names}


def write_records(out: Path, records: Sequence[CapacityRecord], left_out: int) -> None:
    with atomic(out) as temporary, RecordWriter(temporary) as writer:
        for record in records:
            writer.append(record)
    print(f"{out}: {len(records)} requests; {left_out} after the steady window left out")
    print(sentence(figures(records)))


def read(handle: TextIO) -> list[Request] | dict:
    """The requests in a file of lines, or the figures in a summary. Raises Unreadable."""
    try:
        first = json.loads(handle.readline())
    except json.JSONDecodeError:
        first = None  # a summary with line breaks, or nothing that we know
    handle.seek(0)
    if isinstance(first, dict) and first.get("tool") == "locust":
        return locust_requests(json_lines(handle))
    if isinstance(first, dict) and first.get("type") in ("Metric", "Point"):
        return k6_requests(json_lines(handle))
    return k6_summary(handle.read())


# --- requests -> capacity records ------------------------------------------------------------------------------------


def capacity_records(requests: Sequence[Request], identity: Mapping) -> tuple[list[CapacityRecord], int]:
    """(records in order of completion, number of requests left out after the steady window). Raises Unreadable."""
    ordered = sorted(requests, key=lambda r: r.done_s)
    first_s = {r.client: r.done_s for r in reversed(ordered)}
    last_s = {r.client: r.done_s for r in ordered}
    clients = {client: number for number, client in enumerate(sorted(first_s))}
    opened_s, closed_s = max(first_s.values(), default=0), min(last_s.values(), default=0)
    if not opened_s < closed_s:
        raise Unreadable(f"too short: there is no time in which all of its {len(clients)} clients were at work")
    began_s = min(r.sent_s for r in requests)
    records = [
        CapacityRecord(
            **identity,
            scenario="steps",
            level=len(clients),
            scheduled_s=None,
            sent_s=round(r.sent_s - began_s, 7),
            done_s=round(r.done_s - began_s, 7),
            status="ok" if r.error is None else "error",
            error=r.error,
            images=r.images if r.error is None else 0,
            client=clients[r.client],
            steady=r.done_s > opened_s,
        )
        for r in ordered
        if r.done_s <= closed_s
    ]
    return records, len(requests) - len(records)


def figures(records: Sequence[CapacityRecord]) -> dict:
    """Throughput and latency of the steady window, and whether it may be used, as for a level of our own load."""
    errors, window = sum(r.error is not None for r in records), window_of(records)
    latencies = window.latencies_s if window else ()
    law = littles_law(window, records[0].level) if window else None
    differ, slack = (disagreement([window]), littles_law_slack(window, records[0].level)) if window else (None, 0.0)
    return level_of(
        clients=records[0].level,
        requests=len(records),
        errors=errors,
        law=law,
        reason=why_invalid(len(records), errors, law, differ, slack),
        requests_per_s=window.requests / window.seconds if window else None,
        images_per_s=window.images_per_s if window else None,
        latency_mean_s=statistics.fmean(latencies) if latencies else None,
        latency_p50_s=statistics.median(latencies) if latencies else None,
        latency_max_s=max(latencies, default=None),
    )


def level_of(clients: float, requests: int, errors: int, law: float | None, reason: str, **more: float | None) -> dict:
    """The figures of a level, with Little's law and the verdict on it (METHOD.md, "Load")."""
    known = {"scenario": "steps", "level": clients, "requests": requests, "errors": errors}
    return {**known, **more, "littles_law": law, "valid": not reason, "reason": reason or None}


def sentence(level: Mapping) -> str:
    median = "n/a" if level["latency_p50_s"] is None else f"{level['latency_p50_s']:.4f} s"
    rate = "n/a" if level["requests_per_s"] is None else f"{level['requests_per_s']:.3f}"
    verdict = "valid" if level["valid"] else f"not valid: {level['reason']}"
    return f"{level['level']:g} clients: {rate} requests/s, median {median} ({verdict})"


# --- files of single requests ----------------------------------------------------------------------------------------


def json_lines(lines: Iterable[str]) -> Iterator[tuple[int, dict]]:
    """(number, object) of each line. Raises Unreadable that names the line."""
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            raise Unreadable(f"line {number} is cut off (no end of line)")
        try:
            document = json.loads(line)
        except json.JSONDecodeError as error:
            raise Unreadable(f"line {number} is not JSON: {error.msg} at character {error.pos + 1}") from None
        if not isinstance(document, dict):
            raise Unreadable(f"line {number} is not a JSON object")
        yield number, document


def locust_requests(lines: Iterator[tuple[int, dict]]) -> list[Request]:
    """Events as scripts/load/locustfile.py writes them: a head, the requests, and an end with their number."""
    _, head = next(lines)
    requests, counted = [], None
    for number, line in lines:
        if "end" in line:
            counted = line.get("requests")
            break
        sent_s, took_s = number_in(line, "sent_unix_s", number), number_in(line, "response_s", number)
        request = Request(str(line.get("client")), sent_s, sent_s + took_s, 0, line.get("error"))
        requests.append(judged(request, int(number_in(line, "images", number))))
    if counted is None:
        raise Unreadable(f"cut off: Locust's last line, the count, is missing after {len(requests)} requests")
    if counted != len(requests):
        raise Unreadable(f"lines are missing: it holds {len(requests)} requests and its last line counts {counted}")
    answered = len({request.client for request in requests})
    if answered != head.get("clients"):
        raise Unreadable(f"too short: {answered} of {head.get('clients')} clients had an answer")
    return requests


def k6_requests(lines: Iterator[tuple[int, dict]]) -> list[Request]:
    """k6's points: of each request one http_reqs, one http_req_duration (milliseconds), dated at its end, and one of
    scripts/load/k6.js's own, diffsweep_images: what its reply held. The points of a client are in the order of time.
    """
    requests: dict[str, list[Request]] = {}
    images: dict[str, list[int]] = {}
    seen: Counter = Counter()
    for number, line in lines:
        if line.get("type") == "Point":
            seen[line.get("metric")] += 1
            if line.get("metric") == "http_req_duration":
                request = k6_request(line.get("data"), number)
                requests.setdefault(request.client, []).append(request)
            elif line.get("metric") == "diffsweep_images":
                client, count = k6_images(line.get("data"), number)
                images.setdefault(client, []).append(count)
    if not seen["diffsweep_complete"]:
        raise Unreadable("cut off, or by another script: it has no diffsweep_complete, scripts/load/k6.js's last point")
    if seen["http_reqs"] != seen["http_req_duration"]:
        raise Unreadable(f"lines are missing: {seen['http_reqs']} requests and {seen['http_req_duration']} durations")
    counts = {client: (len(requests.get(client, ())), len(images.get(client, ()))) for client in requests | images}
    for client, (asked, looked) in counts.items():
        if asked != looked:
            told = f"{asked} requests of client {client} and {looked} diffsweep_images"
            raise Unreadable(f"lines are missing, or it is by another script than scripts/load/k6.js: {told}")
    return [judged(*pair) for client in requests for pair in zip(requests[client], images[client], strict=True)]


def judged(request: Request, images: int) -> Request:
    """With what its reply held: without an image it is an error, whatever its status."""
    return replace(request, images=images, error=request.error or (None if images else "garbage"))


def k6_request(data: Mapping | None, number: int) -> Request:
    """One http_req_duration point, the images not counted yet. Raises Unreadable."""
    client = k6_client(data, number)
    try:
        done_s, status = datetime.fromisoformat(data["time"]).timestamp(), data["tags"]["status"]
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"line {number} is not a request of k6: {type(error).__name__}: {error}") from None
    took_s = number_in(data, "value", number) / 1000
    error = {"200": None, "0": "connection"}.get(status, f"http {status}")
    return Request(client, done_s - took_s, done_s, 0, error)


def k6_images(data: Mapping | None, number: int) -> tuple[str, int]:
    """(client, images in a reply) of one diffsweep_images point. Raises Unreadable."""
    return k6_client(data, number), int(number_in(data, "value", number))


def k6_client(data: Mapping | None, number: int) -> str:
    """Whose point it is. vu is a system tag that has to be asked for; newer versions put it under metadata."""
    try:
        tags, metadata = data["tags"] or {}, data.get("metadata") or {}
        client = tags.get("client") or tags.get("vu") or metadata.get("vu")
    except (KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"line {number} is not a point of k6: {type(error).__name__}: {error}") from None
    if client is None:
        raise Unreadable(f"line {number} has no client's number: use scripts/load/k6.js, or k6's system tag vu")
    return str(client)


def number_in(line: Mapping, name: str, number: int) -> float:
    value = line.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise Unreadable(f"line {number}: {name} is {str(value)[:40]!r}, not a number that it can be")
    return value


# --- k6's summaries --------------------------------------------------------------------------------------------------


def k6_summary(text: str) -> dict:
    """The figures in one of k6's summaries: flat (--summary-export), with values (handleSummary), or as a list
    (--new-machine-readable-summary). Raises Unreadable.

    A summary has no single requests: the ramp and the end are in its rates, and no steady window can be taken.
    """
    try:
        document = json.loads(text)
        if "results" in document:
            metrics = {metric["name"]: metric["values"] for metric in document["results"]["metrics"]}
        else:
            metrics = {name: metric.get("values", metric) for name, metric in document["metrics"].items()}
        requests, failed, took = (metrics[name] for name in ("http_reqs", "http_req_failed", "http_req_duration"))
        failed = metrics.get("diffsweep_failed", failed)  # of scripts/load/k6.js, which looks into the replies
        failed_share = failed["rate"] if "rate" in failed else failed["value"]
        clients = metrics.get("vus", metrics["vus_max"])["max"]  # vus is sampled: a short run has none
        milliseconds = {"mean": took["avg"], "p50": took["med"], "p95": took.get("p(95)"), "max": took["max"]}
        latency = {f"latency_{k}_s": None if v is None else v / 1000 for k, v in milliseconds.items()}
        # Not from "passes" and "fails": they count what the metric asks for, so that a failed request is a pass.
        errors, rate = round(failed_share * requests["count"]), requests["rate"] * (1 - failed_share)
        law = rate * latency["latency_mean_s"] / clients
    except json.JSONDecodeError as error:
        raise Unreadable(f"neither Locust's or k6's lines nor a whole summary of k6: {error}") from None
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise Unreadable(f"not a summary of k6's http requests: {type(error).__name__}: {error}") from None
    reason = why_invalid(requests["count"], errors, law, differ=None)
    return level_of(clients, requests["count"], errors, law, reason, requests_per_s=rate, **latency)


if __name__ == "__main__":
    main()
