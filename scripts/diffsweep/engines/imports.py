"""Import diffusers quietly, and without optional packages that no engine reaches through it."""

import functools
import gc
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

# Packages that transformers and diffusers load where they happen to be installed, for features that nobody uses here.
# Each costs start time (together about 1 s) and would differ between environments. An engine that needs one (torchao
# for int8) imports it by itself.
PROBED = ("torchao", "sklearn", "scipy", "pandas")


@contextmanager
def hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Let the packages `names` look as if they were not installed; those already loaded stay visible.

    None in sys.modules is importlib's documented way: an import raises ModuleNotFoundError, find_spec returns None.
    """
    concealed = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(concealed))
    try:
        yield
    finally:
        for name in concealed:
            del sys.modules[name]


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's garbage collector rests meanwhile: it would walk through a library's many new objects again and again,
    for a fifth of the time that importing torch and diffusers takes."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def yield_cores() -> None:
    """Let PyTorch's threads go to sleep soon when they wait for each other. Call it before torch is imported, in
    programs whose timings are not compared.

    By default libgomp's threads spin for milliseconds, in time that a thread which they wait for may need: beside two
    busy processes on two cores a conversion's parity check took 221 s, with this 7 s, and alone 2.8 s instead of 2.6.
    libgomp takes 1,000 by itself with OMP_WAIT_POLICY=active and more threads than cores (its manual, GOMP_SPINCOUNT).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@functools.cache
def import_diffusers() -> types.ModuleType:
    """The module `diffusers`, with StableDiffusionPipeline and its transformers classes loaded.

    Call it before anything else imports diffusers or transformers.
    """
    with uncollected(), hidden(PROBED):
        import diffusers
        import transformers

        for library in (diffusers, transformers):
            library.utils.logging.set_verbosity_error()
            library.utils.logging.disable_progress_bar()
        _ = diffusers.StableDiffusionPipeline, transformers.CLIPTextModel  # both libraries load on first use
    return diffusers
