"""A job ends with the Snakemake that started it, however that ended.

Between Snakemake and a program stands a shell, so the kernel's "die with my parent" does not reach that far: after
`kill -9` of Snakemake a job would run on, and write beside the job that the next call starts. So the Snakefile leaves
its process number in the environment, and whoever waits for something long waits for the end of that process as well.
"""

import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

VARIABLE = "DIFFSWEEP_WORKFLOW"
GONE = "the workflow that started this job has ended, and so does the job"
LOCK_POLL_S = 0.5  # a try costs microseconds, and somebody else is being measured meanwhile


def announce() -> None:
    """Be the process that every program started from here ends with."""
    os.environ[VARIABLE] = _identity(os.getpid())


@cache
def descriptor() -> int | None:
    """A descriptor that becomes readable when the workflow ends. None where there is none: called by hand, or started
    from another machine or container. Raises SystemExit when it has ended already."""
    told = os.environ.get(VARIABLE, "")
    pid = told.split(" ")[0]
    if not pid.isdigit() or told.split(" ")[2:] != _here():
        return None
    try:
        handle = os.pidfd_open(int(pid))
    except ProcessLookupError:
        sys.exit(GONE)
    if _identity(int(pid)) != told:  # the number is another's by now
        sys.exit(GONE)
    return handle


def leave_if_gone() -> None:
    """Raise SystemExit when the workflow has ended."""
    handle = descriptor()
    if handle is not None and select.select([handle], [], [], 0)[0]:
        sys.exit(GONE)


def wait_for(process: subprocess.Popen) -> int:
    """The exit code of `process`; when the workflow ends first, kill it and raise SystemExit."""
    handle = descriptor()
    if handle is None:
        return process.wait()
    ended = os.pidfd_open(process.pid)
    try:
        if ended not in select.select([ended, handle], [], [])[0]:
            process.kill()
            process.wait()
            sys.exit(GONE)
    finally:
        os.close(ended)
    return process.wait()


def lock(descriptor_of_file: int) -> None:
    """Wait for the lock on an open file; when the workflow ends meanwhile, raise SystemExit."""
    handle = descriptor()
    if handle is None:
        fcntl.flock(descriptor_of_file, fcntl.LOCK_EX)
        return
    while True:
        try:
            return fcntl.flock(descriptor_of_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            select.select([handle], [], [], LOCK_POLL_S)
            leave_if_gone()


def end_with_workflow() -> None:
    """End this process, whatever it is doing, as soon as the workflow ends. A thread sleeps in the kernel until then:
    not for a process that forks, or that has something to clean up. Raises SystemExit when it has ended already."""
    leave_if_gone()
    handle = descriptor()
    if handle is not None:
        _end_with(handle, GONE)


def end_with_process(pid: int) -> None:
    """The same with any other process: for a worker, whose parent is the fork server."""
    _end_with(os.pidfd_open(pid), "the process that this one works for has ended")


def _end_with(handle: int, reason: str) -> None:
    def wait() -> None:
        select.select([handle], [], [])
        os.write(2, f"{reason}\n".encode())
        os._exit(1)

    threading.Thread(target=wait, name="end with another", daemon=True).start()


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when `parent` dies, which started it: a killed job leaves nothing running."""
    import ctypes

    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _identity(pid: int) -> str:
    """A process as no other process on any machine is: its number, when it started, and where numbers are counted."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        started = "gone"
    return " ".join([str(pid), started, *_here()])


def _here() -> list[str]:
    """This start of this machine, and the name space of its process numbers."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return [boot, os.readlink("/proc/self/ns/pid")]
