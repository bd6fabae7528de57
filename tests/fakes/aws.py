"""Run a program where CloudWatch is moto's, then print what arrived there: {metric: [dimensions, values, units]}.

usage: aws.py NAMESPACE PROGRAM [ARGUMENT ...]
"""

import json
import runpy
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
from moto import mock_aws


def arrived(namespace: str) -> list[dict]:
    client, now = boto3.client("cloudwatch"), datetime.now(UTC)
    found = []
    for page in client.get_paginator("list_metrics").paginate(Namespace=namespace):
        for metric in page["Metrics"]:
            asked = {"StartTime": now - timedelta(days=15), "EndTime": now + timedelta(hours=1), "Period": 15 * 86400}
            points = client.get_metric_statistics(**metric, **asked, Statistics=["Sum", "SampleCount"])["Datapoints"]
            dimensions = {d["Name"]: d["Value"] for d in metric["Dimensions"]}
            values = [[p["Sum"], p["SampleCount"], p["Unit"]] for p in points]
            found.append({"name": metric["MetricName"], "dimensions": dimensions, "points": values})
    return found


if __name__ == "__main__":
    namespace, program, *arguments = sys.argv[1:]
    sys.argv = [program, *arguments]
    sys.path.insert(0, str(Path(program).parent))
    with mock_aws():
        runpy.run_path(program, run_name="__main__")
        print(json.dumps(arrived(namespace)))
