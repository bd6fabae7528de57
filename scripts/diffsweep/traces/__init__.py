"""Operator traces: what an engine's own profiler sees while a variant makes images, as one common table.

They are taken outside of the measured runs, since a profiler costs time. Each engine has a module here, of the same
name as its module in diffsweep/engines, with one function:

    trace(source, artifact_dir, artifact, requests, out)   a Trace of one pipeline call for `requests`

`source`, `artifact_dir` and `artifact` are those of the engine's `load`, `requests` a batch of ImageRequest. It warms
up before it traces, and writes its raw traces into the folder `out`. Tracers stand apart from the engines so that a
change in one measures nothing anew.
"""

import importlib
from types import ModuleType

from diffsweep.engines import ENGINES


def load_tracer(engine: str) -> ModuleType:
    """The module that traces the engine `engine`."""
    return importlib.import_module(f"{__name__}.{ENGINES[engine].module}")
