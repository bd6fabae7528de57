"""The name of a run: one call of Snakemake, or of a program by hand."""

import os
import secrets
import time


def current_run() -> str:
    """DIFFSWEEP_RUN where it is set (by the Snakefile for its jobs); otherwise a new name from time and chance."""
    made = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
    return os.environ.get("DIFFSWEEP_RUN", made)
