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
# How a job ends that has no outcome, since neither says anything about a variant; and what its user does about it.
UNWRITABLE, KILLED = "unwritable", "killed"
AGAIN = {UNWRITABLE: "mend that, and give the same command again", KILLED: "give the same command again"}


class Unsupported(Exception):
    """This variant cannot run on this target; the message says why."""


class Failed(Exception):
    """The stage ran and its result must not be used; the message says why."""


class Killed(Exception):
    """Somebody has killed what the stage needs, and not for want of memory; the message says what."""


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


def run_supervised(
    work: Callable[[], None],
    *,
    stage: str,
    timeout_s: float,
    attempt: int = 0,
    progress: Callable[[], object] | None = None,
) -> Outcome:
    """Run `work` in a forked child and say how it ended; the caller lives on whatever happens to the child. When the
    time limit passes, and `progress()` is no longer what it was when it began, the limit begins anew.

    Call it before anything heavy is imported: a fork copies what is loaded, and threads do not survive it. The child
    leads a process group of its own, so that a time-out also ends what it started; the parent sleeps in the kernel.

    Raises SystemExit when there is no outcome, and the job is to be done again: the workflow has ended, the disk is
    full or read-only, or somebody has killed the child or what it needs.
    """
    workflow.leave_if_gone()
    parent, oom_kills_before = os.getpid(), oom_kills()
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _run_child(work, write_end, parent)
    os.close(write_end)
    try:
        status, reason = _wait(child, read_end, timeout_s, progress or (lambda: None), oom_kills_before)
    finally:
        os.close(read_end)
    if status in AGAIN:
        leave(stage, status, reason)
    return Outcome(status, reason and impersonal(reason), stage, attempt)


def _run_child(work: Callable[[], None], write_end: int, parent: int) -> None:
    die_with_parent(parent)
    os.setpgid(0, 0)
    exit_code = FAILED_EXIT
    try:
        work()
        exit_code = 0
    except Unsupported as reason:
        os.write(write_end, f"unsupported\n{reason}".encode())
    except Killed as reason:
        os.write(write_end, f"{KILLED}\n{reason}".encode())
    except BaseException as error:  # the boundary of the process: whatever it was becomes the reason
        status = UNWRITABLE if is_unwritable(error) else "failed"
        reason = str(error) if isinstance(error, Failed) else describe(error)
        os.write(write_end, f"{status}\n{reason}".encode())
        if not isinstance(error, Failed):
            with contextlib.suppress(OSError):  # the log may lie on the disk that is full
                traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(exit_code)


def is_unwritable(error: BaseException) -> bool:
    """Is it the disk, full or read-only? That says nothing about a variant, so it must not become its outcome."""
    # safetensors and others, written in other languages, have the system's words only.
    numbered = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return numbered or os.strerror(errno.ENOSPC) in str(error)


def leave(program: str, status: str, reason: str) -> None:
    """End without an outcome, in one line, on stdout: the log may lie on the disk that is full."""
    print(f"{program}: {impersonal(reason)}; {AGAIN[status]}", flush=True)
    sys.exit(1)


def run_program(main: Callable[[], None], *, supervises: bool = False) -> None:
    """Call a program's `main`; a disk that is full or read-only ends it in one line, and it ends with its workflow.

    supervises: it calls run_supervised, which waits for the workflow's end itself, and cleans up.
    """
    try:
        if not supervises:
            workflow.end_with_workflow()
        main()
    except OSError as error:
        if not is_unwritable(error):
            raise
        leave(Path(sys.argv[0]).stem, UNWRITABLE, describe(error))


def describe(error: BaseException) -> str:
    """One line about an exception."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _wait(
    child: int, read_end: int, timeout_s: float, progress: Callable[[], object], oom_kills_before: int | None
) -> tuple[str, str | None]:
    try:
        message = _read_until_closed(read_end, timeout_s, progress)
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
    return judge_exit(exit_code, oom_kills_before)


def judge_exit(exit_code: int, oom_kills_before: int | None) -> tuple[str, str]:
    """("failed" or KILLED, words) for a process that did not end well: a negative code is a signal (subprocess's
    convention). Signal 9 comes from the kernel when memory runs out, which it counts, or else from somebody.

    oom_kills_before: oom_kills() before the process was started.
    """
    if exit_code == -signal.SIGKILL:
        if oom_kills_before is None:  # else a variant that needs too much would be tried again without end
            return "failed", "was killed (signal 9); usually the machine ran out of memory"
        if oom_kills() != oom_kills_before:
            return "failed", "was killed (signal 9): the machine ran out of memory"
        return KILLED, "was killed (signal 9), and not for want of memory"
    if exit_code < 0:
        return "failed", f"crashed with signal {-exit_code} ({signal.Signals(-exit_code).name})"
    return "failed", f"exited with code {exit_code}"


def oom_kills() -> int | None:
    """A number that grows when the kernel kills a process for want of memory, of this machine or of our control group.
    None where the kernel does not count."""
    counts = []
    for path in (Path("/proc/vmstat"), _control_group() / "memory.events"):
        with contextlib.suppress(OSError):  # another kind of control groups, or of kernel
            lines = path.read_text(encoding="ascii").splitlines()
            counts += [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]
    return sum(counts) if counts else None


def _control_group() -> Path:
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    return Path("/sys/fs/cgroup", next((line[4:] for line in lines if line.startswith("0::/")), ""))


def _read_until_closed(read_end: int, timeout_s: float, progress: Callable[[], object]) -> bytes | None:
    """What came through the pipe until the child ended and so closed it; None when the time limit passed first, and
    nothing had become of `progress()` since it began.

    Raises SystemExit when the workflow ended first.
    """
    ending = workflow.descriptor()
    message = b""
    began_s, seen = time.monotonic(), progress()
    while True:
        left_s = began_s + timeout_s - time.monotonic()
        readable, _, _ = select.select([read_end] if ending is None else [read_end, ending], [], [], max(left_s, 0))
        if not readable:
            before, began_s, seen = seen, time.monotonic(), progress()
            if seen == before:
                return None
            continue
        if ending in readable:
            sys.exit(workflow.GONE)
        data = os.read(read_end, 65536)
        if not data:
            return message
        message += data


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody left in it
        os.killpg(leader, signal.SIGKILL)
