"""Write the receipt of the environment it runs in: the Python version and every installed package, one a line.

In an environment that is new it also imports what the programs there will import, so that Python writes the bytecode:
6 s of one core for torch and diffusers, beside those of another environment and not in jobs that have all cores.
"""

import argparse
import multiprocessing
import platform
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import distributions
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from diffsweep.engines import ENGINES, load_engine
from diffsweep.engines.imports import import_diffusers, uncollected
from diffsweep.sweep.files import atomic
from diffsweep.sweep.outcomes import run_program

LIMIT_S = 300.0
# What takes long to import where no engine runs.
OTHERS = {"export": "optimum.exporters.onnx", "scoring": "diffsweep.quality.scoring"}


def receipt() -> str:
    """The text of the receipt, sorted, the same on every machine that installed the same lock."""
    packages = sorted({f"{d.metadata['Name'].lower()}=={d.version}" for d in distributions()})
    return "\n".join([f"python=={platform.python_version()}", *packages]) + "\n"


def is_new() -> bool:
    """Has nobody imported torch here yet? (Nor will anybody where there is none.)"""
    torch = find_spec("torch")
    keeps_bytecode = torch is not None and not sys.dont_write_bytecode
    return keeps_bytecode and not Path(cache_from_source(torch.origin)).exists()


def import_for_the_first_time(environment: str) -> None:
    """In a child, whatever becomes of it: what cannot be imported is for the programs to report that need it."""
    child = multiprocessing.get_context("fork").Process(target=import_all, args=(environment,), daemon=True)
    child.start()
    child.join(LIMIT_S)
    child.kill()


def import_all(environment: str) -> None:
    with suppress(Exception), uncollected():
        if environment in ENGINES:
            import_diffusers()
            import_module("diffsweep.serving.app")
            load_engine(environment)
        elif environment in OTHERS:
            import_module(OTHERS[environment])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", required=True, help="the environment's name")
    parser.add_argument("--out", type=Path, required=True, help="where the receipt goes")
    options = parser.parse_args()
    if is_new():
        import_for_the_first_time(options.environment)
    with atomic(options.out) as temporary:
        temporary.write_text(receipt(), encoding="utf-8")


if __name__ == "__main__":
    run_program(main)
