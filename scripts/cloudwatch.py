"""The figures of a finished sweep for Amazon CloudWatch: in embedded metric format to a file, or pushed.

    python scripts/cloudwatch.py --results results/default                      # results/default/cloudwatch.jsonl
    scripts/in_env cloudwatch python scripts/cloudwatch.py --results results/default --push

One line of the file is one variant: a log event whose metrics CloudWatch Logs takes out by itself (the agent, Lambda
or put_log_events brings it there), with verdict and intervals as fields that Logs Insights finds. --push sends the
same metrics at once, by the account, region and credentials that boto3 finds in its usual places; none is an option
here. Pushing a sweep twice counts it twice.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from diffsweep.show.console import read_summary
from diffsweep.sweep.files import atomic, read_json

# Columns of summary.csv -> CloudWatch's unit. The names stay as they are.
UNITS = {
    "latency_e2e_mean_s": "Seconds",
    "latency_e2e_p50_s": "Seconds",
    "latency_e2e_p95_s": "Seconds",
    "latency_e2e_p99_s": "Seconds",
    "latency_sampling_p50_s": "Seconds",
    "latency_step_p50_s": "Seconds",
    "speedup": "None",
    "images_per_s": "Count/Second",
    "usd_per_hour_on_demand": "None",
    "usd_per_hour_spot": "None",
    "usd_per_1000_images_on_demand": "None",
    "usd_per_1000_images_spot": "None",
    "peak_memory_bytes": "Bytes",
    "artifact_bytes": "Bytes",
    "build_s": "Seconds",
    "requests": "Count",
    "images": "Count",
    "defects": "Count",
    "fid": "None",
    "clip_score": "None",
}
# 1 where the variant was measured, 0 where it is a hole: what an alarm can be set on.
OK = "ok"
DIMENSIONS = ("sweep", "model", "target", "variant")
FIELDS = ("status", "reason", "verdict", "quality_verdict")
# Of CloudWatch: an older metric is refused; so are more metrics in one request. (PutMetricData; also at most 1 MB,
# which a thousand of ours, of 300 bytes each, do not reach.)
OLDEST_S = 14 * 24 * 3600
PER_REQUEST = 1000


def main() -> None:
    options = parse_options()
    try:
        documents = list(events(options.results, options.namespace, time.time() if options.now else None))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"cloudwatch: {options.results}: {type(error).__name__}: {error}; let the sweep end first")
    out = options.out or options.results / "cloudwatch.jsonl"
    with atomic(out) as temporary:
        temporary.write_text("".join(json.dumps(d, allow_nan=False) + "\n" for d in documents), encoding="utf-8")
    print(f"{len(documents)} variants in {out}")
    if options.push:
        push(documents, options.namespace, time.time())


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="a finished sweep, results/<sweep>")
    parser.add_argument("--out", type=Path, help="the file (default: cloudwatch.jsonl in the sweep's folder)")
    parser.add_argument("--namespace", default="diffsweep", help="CloudWatch's namespace (default: diffsweep)")
    parser.add_argument("--now", action="store_true", help="date the metrics now, not when they were measured")
    parser.add_argument("--push", action="store_true", help="send the metrics to CloudWatch too")
    return parser.parse_args()


# --- embedded metric format ------------------------------------------------------------------------------------------


def events(results: Path, namespace: str, now_s: float | None) -> Iterator[dict]:
    """One log event per row of the sweep's summary, dated `now_s`, or when it was measured."""
    sweep = read_json(results / "plan.json")["sweep"]
    for row in read_summary(results / "summary.csv"):
        yield event({**row, "sweep": sweep}, namespace, now_s or measured_at(results, row))


def measured_at(results: Path, row: Mapping) -> float:
    """When a variant's last replicate ended; when the sweep began for one that was never measured. Unix seconds."""
    cell = results / row["model"] / row["target"] / row["variant"]
    ended = [read_json(path).get("ended_unix_s") for path in cell.glob("replicate-*/replicate.json")]
    known = [seconds for seconds in ended if seconds is not None]
    return max(known) if known else read_json(results / "run.json")["started_unix_s"]


def event(row: Mapping, namespace: str, unix_s: float) -> dict:
    """A row of the summary in embedded metric format (AWS, "Specification: Embedded metric format").

    What was not measured is left out, and its interval with it.
    """
    metrics = {name: row[name] for name in UNITS if is_number(row.get(name))}
    bounds = {f"{name}_{end}": row.get(f"{name}_{end}") for name in metrics for end in ("low", "high")}
    directive = {
        "Namespace": namespace,
        "Dimensions": [list(DIMENSIONS)],
        "Metrics": [{"Name": name, "Unit": UNITS[name]} for name in metrics] + [{"Name": OK, "Unit": "Count"}],
    }
    return {
        "_aws": {"Timestamp": round(unix_s * 1000), "CloudWatchMetrics": [directive]},
        **{name: row[name] for name in DIMENSIONS},
        **{name: row[name] for name in FIELDS if row.get(name)},
        **metrics,
        **{name: bound for name, bound in bounds.items() if is_number(bound)},
        OK: int(row["status"] == "ok"),
    }


def is_number(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


# --- pushing ---------------------------------------------------------------------------------------------------------


def metric_data(document: Mapping) -> Iterator[dict]:
    """An event's metrics as PutMetricData takes them."""
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    dimensions = [{"Name": name, "Value": document[name]} for name in DIMENSIONS]
    for metric in directive["Metrics"]:
        yield {
            "MetricName": metric["Name"],
            "Dimensions": dimensions,
            "Timestamp": document["_aws"]["Timestamp"] / 1000,
            "Value": document[metric["Name"]],
            "Unit": metric["Unit"],
        }


def push(documents: Sequence[Mapping], namespace: str, now_s: float) -> None:
    """Send the metrics of events; one line and the end when that cannot be."""
    oldest_s = min((document["_aws"]["Timestamp"] / 1000 for document in documents), default=now_s)
    if now_s - oldest_s > OLDEST_S:
        days = (now_s - oldest_s) / 86400
        sys.exit(f"cloudwatch: measured {days:.0f} days ago; CloudWatch takes at most 14: add --now to date it now")
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ModuleNotFoundError:
        sys.exit("cloudwatch: --push needs boto3: scripts/in_env cloudwatch python scripts/cloudwatch.py ... --push")
    data = iter([datum for document in documents for datum in metric_data(document)])
    sent = 0
    try:
        client = boto3.client("cloudwatch")
        while batch := list(islice(data, PER_REQUEST)):
            client.put_metric_data(Namespace=namespace, MetricData=batch)
            sent += len(batch)
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"cloudwatch: {sent} metrics were sent, then: {' '.join(str(error).split())}")
    print(f"{sent} metrics sent to CloudWatch in {client.meta.region_name}")


if __name__ == "__main__":
    main()
