"""The option that every program of the workflow has: --spec, what it is told to do."""

import argparse
import json
import sys

from diffsweep.sweep.files import read_json


def add_spec_option(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add --spec; `purpose` begins its help ("what to measure")."""
    text = f"{purpose}: JSON, or @file.json; given again, it adds"
    parser.add_argument("--spec", required=True, action="append", help=text)


def read_spec(program: str, arguments: list[str]) -> dict:
    """The values of --spec put together, a later one wins; one line and the end when one cannot be read."""
    spec: dict = {}
    try:
        for argument in arguments:
            spec |= read_json(argument[1:]) if argument.startswith("@") else json.loads(argument)
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"{program}: --spec: {error}; give a JSON object or @file.json")
    return spec
