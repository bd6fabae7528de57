"""The name of a run: one call of Snakemake, or of a program by hand."""

import os
import secrets
import sys
import time
from pathlib import Path


def current_run() -> str:
    """DIFFSWEEP_RUN where it is set (by the Snakefile for its jobs); otherwise a new name from time and chance."""
    made = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
    return os.environ.get("DIFFSWEEP_RUN", made)


def prefer_this_python() -> None:
    """Make `python` in a rule the one that runs Snakemake, whether or not its environment was activated."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
