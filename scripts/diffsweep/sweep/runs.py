"""The name of a run, one call of Snakemake or of a program by hand, and the revision of the code that it is of."""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

from diffsweep.sweep.environments import PROJECT


def current_run() -> str:
    """DIFFSWEEP_RUN where it is set (by the Snakefile for its jobs); otherwise a new name from time and chance."""
    made = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
    return os.environ.get("DIFFSWEEP_RUN", made)


def prefer_this_python() -> None:
    """Make `python` in a rule the one that runs Snakemake, whether or not its environment was activated."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def git_revision() -> dict:
    """The commit that is checked out, and whether tracked files differ from it; null outside of a repository."""
    revision = _git("rev-parse", "--verify", "--quiet", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no") if revision else None
    return {"git_revision": revision or None, "git_dirty": None if changed is None else bool(changed)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        print(f"git {arguments[0]}: {error}", file=sys.stderr)
        return None
    return done.stdout.strip() if done.returncode == 0 else None
