"""The option that every program of the workflow has: --spec, what it is told to do."""

import argparse
import json
import os
import sys
from typing import Any

from diffsweep.sweep.files import read_json


def add_spec_option(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add --spec; `purpose` begins its help ("what to measure")."""
    text = f"{purpose}: JSON, or @file.json; given again, it adds"
    parser.add_argument("--spec", required=True, action="append", help=text)


def read_spec(program: str, arguments: list[str]) -> dict:
    """The values of --spec put together, a later one wins; one line and the end when one cannot be read.

    "threads": "all" becomes the number of cores that this process may use: the spec is the same on every machine.
    """
    spec: dict = {}
    try:
        for argument in arguments:
            spec |= read_json(argument[1:]) if argument.startswith("@") else json.loads(argument)
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"{program}: --spec: {error}; give a JSON object or @file.json")
    return resolve_threads(spec)


def resolve_threads(value: Any) -> Any:
    """`value` with every "threads": "all" in it as a number."""
    if not isinstance(value, dict):
        return value
    all_ = {"threads": len(os.sched_getaffinity(0))} if value.get("threads") == "all" else {}
    return {key: resolve_threads(part) for key, part in value.items()} | all_
