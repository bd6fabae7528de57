"""Environments built from locks: `.envs/<name>-<digest>/`, made on demand and shared by every job.

An environment is a cache, not a node of the DAG: the lock's digest is part of what triggers a rerun, and whoever
needs the environment builds it. Only the standard library is used here, since this runs before anything is installed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from diffsweep.sweep import workflow

PROJECT = Path(__file__).resolve().parents[3]
LOCKS = PROJECT / "envs"
CACHE = PROJECT / ".envs"

# Set for the jobs of a cluster: the submitting side has built every environment, compute nodes may have no network.
NO_BUILD = "DIFFSWEEP_NO_BUILD"

# pip's settings and what uv calls the same thing; uv's own setting wins where both are given.
PIP_TO_UV = {
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_CERT": "SSL_CERT_FILE",
}
HINT = (
    "Without network, name a folder or an index that has these packages (PIP_FIND_LINKS, PIP_INDEX_URL); environments "
    "that are built already need none."
)


class EnvironmentFailed(Exception):
    """An environment could not be built; the message is one clear paragraph for the user."""


def lock_path(name: str) -> Path:
    """The lock of environment `name`. Raises EnvironmentFailed when there is none."""
    path = LOCKS / f"{name}.lock"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in LOCKS.glob("*.lock")))
        raise EnvironmentFailed(f"environment {name!r}: there is no envs/{name}.lock; known environments: {known}")
    return path


def lock_requirements(text: str) -> list[str]:
    """The lines of a lock that say what is installed: no comments, no blank lines, no white space around."""
    lines = (line.split(" #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def lock_digest(name: str) -> str:
    """12 hex digits over what the lock installs; comments do not count."""
    requirements = lock_requirements(lock_path(name).read_text(encoding="utf-8"))
    return hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:12]


def environment_path(name: str) -> Path:
    return CACHE / f"{name}-{lock_digest(name)}"


def uv_environment(environ: dict[str, str]) -> dict[str, str]:
    """`environ` with pip's settings handed on to uv (uv separates find-links by commas, pip by spaces)."""
    translated = {uv: environ[pip] for pip, uv in PIP_TO_UV.items() if environ.get(pip)}
    if "UV_FIND_LINKS" in translated:
        translated["UV_FIND_LINKS"] = ",".join(translated["UV_FIND_LINKS"].split())
    return {**translated, **environ}


def find_uv() -> str:
    """uv in the workflow environment, where `make` bootstrapped it, or on the PATH."""
    places = (Path(sys.executable).parent / "uv", CACHE / "bootstrap" / "bin" / "uv")
    found = next((str(path) for path in places if path.exists()), None) or shutil.which("uv")
    if not found:
        raise EnvironmentFailed("uv was not found: run `make`, which puts it in place, or put uv on the PATH")
    return found


@contextmanager
def exclusive(path: Path):
    """Hold a lock on the file `path`; the kernel releases it when the process dies, however it dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:
        workflow.lock(handle.fileno())
        yield


def is_built(name: str) -> bool:
    """False also where there is no such lock."""
    return (LOCKS / f"{name}.lock").exists() and _complete(environment_path(name)).exists()


def _complete(path: Path) -> Path:
    """The mark that the environment at `path` is whole."""
    return path / ".complete"


def ensure_environment(name: str) -> Path:
    """The environment of lock `name`, built if it is not there. Safe when several jobs ask at once, or after a kill.

    Raises EnvironmentFailed when a package cannot be had.
    """
    path = environment_path(name)
    complete = _complete(path)
    if complete.exists():
        return path
    if os.environ.get(NO_BUILD):
        raise EnvironmentFailed(
            f"environment {name!r} is not in {CACHE}, and jobs of a cluster build none: "
            "the project must lie on a file system that the nodes share with the machine that submits"
        )
    with exclusive(path.with_name(path.name + ".flock")):
        if not complete.exists():
            shutil.rmtree(path, ignore_errors=True)  # what a killed build left
            _build(name, path)
            complete.touch()
    return path


def _build(name: str, path: Path) -> None:
    uv, environ = find_uv(), uv_environment(dict(os.environ))
    print(f"building environment {name} ({path.name})", file=sys.stderr, flush=True)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    _run([uv, "venv", "--quiet", "--no-project", "--python", python, str(path)], environ, name)
    # Hashes are verified where the lock has one (uv's default). They are not required: uv does not find torch's hash
    # when the lock says 2.13.0 and the wheel says 2.13.0+cpu.
    sync = [uv, "pip", "sync", "--quiet", "--python", str(path / "bin" / "python")]
    _run([*sync, *_torch_backend(environ), str(lock_path(name))], environ, name)


def _torch_backend(environ: dict[str, str]) -> list[str]:
    """Let uv find the build of torch that the locks are of, for CPU, unless the user named another or where packages
    come from. The build for a GPU needs packages that the locks do not list until they are compiled for it
    (scripts/update_lock)."""
    named = any(environ.get(k) for k in ("UV_FIND_LINKS", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_TORCH_BACKEND"))
    return [] if named else ["--torch-backend", "cpu"]


def _run(command: list[str], environ: dict[str, str], name: str) -> None:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stderr=said,
            preexec_fn=partial(workflow.die_with_parent, os.getpid()),
        )
        code = workflow.wait_for(process)
        said.seek(0)
        reason = said.read().strip()
    if code:
        raise EnvironmentFailed(
            f"environment {name!r} could not be built from envs/{name}.lock:\n{reason or f'uv ended with code {code}'}"
            f"\n{HINT}"
        )


def enter(name: str, exit_code: int = 1) -> None:
    """Go on in the environment `name`: the program starts anew inside it, unless it runs there already. One that cannot
    be built ends the program, in words of its own."""
    try:
        path = ensure_environment(name)
    except EnvironmentFailed as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(exit_code)
    if Path(sys.prefix).resolve() != path.resolve():
        python = str(path / "bin" / "python")
        os.execve(python, [python, *sys.argv], activated(path, dict(os.environ)))


def activated(path: Path, environ: dict[str, str]) -> dict[str, str]:
    """`environ` as it is inside the environment at `path`, sealed off from packages outside of it."""
    # Without byte code each start would compile torch and diffusers anew: 10 s instead of 4.
    dropped = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
    inside = {k: v for k, v in environ.items() if k not in dropped}
    inside["VIRTUAL_ENV"] = str(path)
    inside["PATH"] = f"{path / 'bin'}{os.pathsep}{environ.get('PATH', os.defpath)}"
    inside["PYTHONNOUSERSITE"] = "1"
    return inside
