"""Closed-loop load on the endpoint by Locust: each user sends its next request when the last one is answered.

    scripts/in_env locust python -m locust -f scripts/load/locustfile.py --headless --only-summary \\
        --host http://127.0.0.1:8000 --users 4 --spawn-rate 4 --run-time 60s --records locust.jsonl
    python scripts/import_load.py locust.jsonl --out capacity.jsonl

The file has one line per request event, as Locust measured it, between a first line that says what ran and a last one
that says how many there are. Locust's own percentiles are rounded to two digits, up to 4.8 % off. All users must be
there before the measured window, so let --spawn-rate be --users. At the end Locust breaks off what is under way
(--stop-timeout 0): those requests have no event, as in our own load, and the slowest are the likeliest among them.
Beside a fast server one Locust process is soon the bottleneck: it warns when its CPU is above 90 %.
"""

import itertools
import json
from pathlib import Path

import locust
from locust import FastHttpUser, constant, events, task

ENDPOINT = "/v1/images/generations"


class Records:
    """The file that is being written; None before a test starts."""

    file = None
    requests = 0

    @classmethod
    def write(cls, **line) -> None:
        cls.file.write(json.dumps(line) + "\n")


@events.init_command_line_parser.add_listener
def add_options(parser) -> None:
    parser.add_argument("--records", default="locust.jsonl", help="the file for the request events")
    parser.add_argument("--prompt", default="a large plain red circle on a blue background", help="what is asked for")
    parser.add_argument("--fields", default="{}", help="a JSON object: more fields of each request")


@events.test_start.add_listener
def begin(environment, **_) -> None:
    options = environment.parsed_options
    Records.file = Path(options.records).open("w", encoding="utf-8")  # noqa: SIM115  closed by end()
    Records.write(tool="locust", version=locust.__version__, clients=options.num_users or 1)


@events.request.add_listener
def note(response_time, response, context, exception, start_time, **_) -> None:
    status = getattr(response, "status_code", 0) or 0
    images, error = 0, None
    if status != 200:
        error = f"http {status}" if status else "connection"
    else:
        images = images_in(response)
        error = None if images else "garbage"
    Records.requests += 1
    Records.write(
        client=context["client"],
        sent_unix_s=start_time,
        response_s=response_time / 1000,
        error=error or (exception and type(exception).__name__),
        images=images,
    )


def images_in(response) -> int:
    """How many images a reply holds: none unless each entry of its data is one."""
    try:
        found = [image["b64_json"] for image in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return 0
    return len(found) if all(isinstance(base64, str) and base64 for base64 in found) else 0


@events.quitting.add_listener
def end(**_) -> None:
    if Records.file:
        Records.write(end=True, requests=Records.requests)
        Records.file.close()


class Client(FastHttpUser):
    """One client of the closed loop."""

    wait_time = constant(0)
    network_timeout = connection_timeout = 600.0
    numbers = itertools.count()
    seeds = itertools.count()

    def on_start(self) -> None:
        self.number = next(self.numbers)
        options = self.environment.parsed_options
        self.fields = {"prompt": options.prompt, **json.loads(options.fields)}

    def context(self) -> dict:
        return {"client": self.number}

    @task
    def generate(self) -> None:
        self.client.post(ENDPOINT, json={**self.fields, "seed": next(self.seeds)})
