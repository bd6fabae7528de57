"""How a stage ended, as data: a variant that fails is a row with a reason, and the sweep goes on."""

import contextlib
import errno
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from diffsweep.sweep import workflow
from diffsweep.sweep.privacy import impersonal
from diffsweep.sweep.workflow import die_with_parent

FAILED_EXIT = 70  # a reason was handed over through the pipe
UNWRITABLE = "unwritable"


class Unsupported(Exception):
    """This variant cannot run on this target; the message says why."""


class Failed(Exception):
    """The stage ran and its result must not be used; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """status: ok, failed or unsupported; reason: one sentence, None when ok; attempt: 0, then 1 after a retry, ..."""

    status: str
    reason: str | None
    stage: str
    attempt: int = 0

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def as_dict(self) -> dict:
        return asdict(self)


def outcome_of(document: dict) -> Outcome:
    """The outcome in a JSON document that a stage wrote."""
    return Outcome(**document["outcome"])


def handed_on(document: dict, before: str, stage: str, attempt: int) -> Outcome | None:
    """The outcome of `stage` when the stage `before`, which wrote `document`, did not end well; None when it did."""
    upstream = outcome_of(document)
    return None if upstream.ok else Outcome(upstream.status, f"{before}: {upstream.reason}", stage, attempt)


def run_supervised(work: Callable[[], None], *, stage: str, timeout_s: float, attempt: int = 0) -> Outcome:
    """Run `work` in a forked child and say how it ended; the caller lives on whatever happens to the child.

    Call it before anything heavy is imported: a fork copies what is loaded, and threads do not survive it. The child
    leads a process group of its own, so that a time-out also ends what it started; the parent sleeps in the kernel.

    Raises SystemExit when there is no outcome, and the job is to be done again: the workflow has ended, or the disk is
    full or read-only.
    """
    workflow.leave_if_gone()
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _run_child(work, write_end)
    os.close(write_end)
    try:
        status, reason = _wait(child, read_end, timeout_s)
    finally:
        os.close(read_end)
    if status == UNWRITABLE:
        leave_unwritable(stage, reason)
    return Outcome(status, reason and impersonal(reason), stage, attempt)


def _run_child(work: Callable[[], None], write_end: int) -> None:
    die_with_parent()
    os.setpgid(0, 0)
    exit_code = FAILED_EXIT
    try:
        work()
        exit_code = 0
    except Unsupported as reason:
        os.write(write_end, f"unsupported\n{reason}".encode())
    except BaseException as error:  # the boundary of the process: whatever it was becomes the reason
        status = UNWRITABLE if is_unwritable(error) else "failed"
        if isinstance(error, Failed):
            reason = str(error)
        else:
            traceback.print_exc()
            reason = describe(error)
        os.write(write_end, f"{status}\n{reason}".encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def is_unwritable(error: BaseException) -> bool:
    """Is it the disk, full or read-only? That says nothing about a variant, so it must not become its outcome."""
    # safetensors and others, written in other languages, have the system's words only.
    numbered = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return numbered or os.strerror(errno.ENOSPC) in str(error)


def leave_unwritable(program: str, reason: str) -> None:
    """End in one line, on stdout: the log may lie on the disk that is full."""
    print(f"{program}: {impersonal(reason)}; mend that, and give the same command again", flush=True)
    sys.exit(1)


def run_program(main: Callable[[], None]) -> None:
    """Call a program's `main`; a disk that is full or read-only ends it in one line."""
    try:
        main()
    except OSError as error:
        if not is_unwritable(error):
            raise
        leave_unwritable(Path(sys.argv[0]).stem, describe(error))


def describe(error: BaseException) -> str:
    """One line about an exception."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _wait(child: int, read_end: int, timeout_s: float) -> tuple[str, str | None]:
    try:
        message = _read_until_closed(read_end, time.monotonic() + timeout_s)
    except SystemExit:
        _kill_group(child)
        os.waitpid(child, 0)
        raise
    if message is None:
        _kill_group(child)
        os.waitpid(child, 0)
        return "failed", f"did not end within its time limit of {timeout_s:g} s"
    _, wait_status = os.waitpid(child, 0)
    _kill_group(child)  # whatever the child left behind
    if message:
        status, reason = message.decode(errors="replace").split("\n", 1)
        return status, reason
    exit_code = os.waitstatus_to_exitcode(wait_status)
    if exit_code == 0:
        return "ok", None
    return "failed", describe_exit(exit_code)


def describe_exit(exit_code: int) -> str:
    """Words for how a process ended: a negative code is a signal (subprocess's convention)."""
    if exit_code == -signal.SIGKILL:
        return "was killed (signal 9); usually the machine ran out of memory"
    if exit_code < 0:
        return f"crashed with signal {-exit_code} ({signal.Signals(-exit_code).name})"
    return f"exited with code {exit_code}"


def _read_until_closed(read_end: int, deadline: float) -> bytes | None:
    """What came through the pipe until the child ended and so closed it; None when the deadline came first.

    Raises SystemExit when the workflow ended first.
    """
    ending = workflow.descriptor()
    message = b""
    while True:
        left_s = deadline - time.monotonic()
        readable, _, _ = select.select([read_end] if ending is None else [read_end, ending], [], [], max(left_s, 0))
        if not readable:
            return None
        if ending in readable:
            sys.exit(workflow.GONE)
        data = os.read(read_end, 65536)
        if not data:
            return message
        message += data


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody left in it
        os.killpg(leader, signal.SIGKILL)
