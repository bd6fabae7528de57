"""Write the receipt of the environment it runs in: the Python version and every installed package, one a line."""

import argparse
import platform
from importlib.metadata import distributions
from pathlib import Path

from diffsweep.sweep.files import atomic
from diffsweep.sweep.outcomes import run_program


def receipt() -> str:
    """The text of the receipt, sorted, the same on every machine that installed the same lock."""
    packages = sorted({f"{d.metadata['Name'].lower()}=={d.version}" for d in distributions()})
    return "\n".join([f"python=={platform.python_version()}", *packages]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the receipt goes")
    with atomic(parser.parse_args().out) as temporary:
        temporary.write_text(receipt(), encoding="utf-8")


if __name__ == "__main__":
    run_program(main)
