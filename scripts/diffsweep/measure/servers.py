"""Server processes: started through scripts/in_env, ready, gone. None outlives its parent, whatever ends that.

A server leads a process group of its own, so that Ctrl-C at the terminal reaches us and not it, and so that whatever
it starts ends with it. The kernel kills it when the process that started it dies; the keeper (keeper.py) ends the rest.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffsweep.measure import monitor
from diffsweep.measure.gpu import CUDA_ORDER
from diffsweep.measure.keeper import Keeper
from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.files import read_json
from diffsweep.sweep.outcomes import KILLED, Failed, Killed, Unsupported, judge_exit, oom_kills
from diffsweep.sweep.workflow import die_with_parent

IN_ENV = PROJECT / "scripts" / "in_env"
READY_POLL_S = 0.02  # only while servers start; an `exists` takes microseconds
ENDING_S = 1.0


@dataclass(frozen=True)
class Launch:
    """How a server is started. name: in messages, the role that it is started for, "variant" or "baseline"."""

    name: str
    environment: str
    program: Path
    spec: Mapping
    artifact: Path


@dataclass
class Server:
    """A started server. `ready`: what it wrote into its ready file; `processes`: it and what it started; start_s: from
    its start until it was ready, first_image_s: that and its first request, first_image_of: the variant that made it;
    None until it has had one."""

    launch: Launch
    process: subprocess.Popen
    ready_file: Path
    spawned_s: float  # on time.monotonic's scale, which is one for all processes and never set
    oom_kills: int | None  # outcomes.oom_kills() before it was started
    start_s: float | None = None
    ready: Mapping | None = None
    first_image_s: float | None = None
    first_image_of: str | None = None

    @property
    def name(self) -> str:
        return self.launch.name

    def describe_start(self) -> dict:
        """What a document notes of the start. Times in seconds; what has not been measured is left out."""
        times = {"start_s": self.start_s, "first_image_s": self.first_image_s}
        known = {key: round(value, 3) for key, value in times.items() if value is not None}
        first = {} if self.first_image_of is None else {"first_image_of": self.first_image_of}
        return {**known, **first, **{key: value for key, value in self.ready.items() if key not in ("port", "pid")}}

    @property
    def processes(self) -> list[int]:
        return monitor.group_members(self.process.pid)

    def check(self) -> None:
        """Raise Failed or Killed when the process has ended."""
        exit_code = self.process.poll()
        if exit_code is not None:
            status, words = judge_exit(exit_code, self.oom_kills)
            raise (Killed if status == KILLED else Failed)(f"the {self.name}'s server {words}")

    def check_soon(self) -> None:
        """The same, giving a process that is just ending the time to end."""
        try:
            self.process.wait(timeout=ENDING_S)
        except subprocess.TimeoutExpired:
            return
        self.check()


def build_environments(names: Sequence[str]) -> None:
    """Have the environments built before a clock or a time limit runs. Raises CalledProcessError."""
    commands = [[sys.executable, str(IN_ENV), name, "true"] for name in sorted(set(names))]
    bound = partial(die_with_parent, os.getpid())
    building = [subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=bound) for command in commands]
    for command, process in zip(commands, building, strict=True):
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, command)


def start(launch: Launch, keeper: Keeper) -> Server:
    """Start a server. Its output goes to our stderr, the log; its ready file and whatever temporary files it makes lie
    in the keeper's folder, since a server is killed and cleans up nothing.

    Call it from a thread that lives as long as the server shall: the kernel's parent is the thread.
    """
    ready_file = keeper.folder / f"{launch.name}-{time.monotonic_ns()}.ready.json"
    command = [sys.executable, str(IN_ENV), launch.environment, "python", str(launch.program)]
    options = ["--spec", json.dumps(launch.spec), "--artifact", str(launch.artifact)]
    spawned_s, oom_kills_before = time.monotonic(), oom_kills()
    process = subprocess.Popen(
        [*command, *options, "--port", "0", "--ready", str(ready_file)],
        env={**os.environ, **CUDA_ORDER, "TMPDIR": str(keeper.folder)},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        process_group=0,
        preexec_fn=partial(_before_exec, os.getpid()),
    )
    keeper.watch(process.pid)
    return Server(launch, process, ready_file, spawned_s, oom_kills_before)


def _before_exec(parent: int) -> None:
    die_with_parent(parent)
    # When memory runs out, let the kernel take the server and not the workflow (proc(5): up to 1000).
    Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")


def wait_until_ready(server: Server, timeout_s: float) -> None:
    """Raises Failed, Killed or Unsupported when it says so, ends, or does neither in `timeout_s` from its start on."""
    descriptor, poll = os.pidfd_open(server.process.pid), select.poll()
    poll.register(descriptor, select.POLLIN)
    deadline_s = server.spawned_s + timeout_s
    try:
        while not server.ready_file.exists():
            if time.monotonic() > deadline_s:
                raise Failed(f"the {server.name}'s server did not get ready within {timeout_s:g} s")
            if poll.poll(READY_POLL_S * 1000) and not server.ready_file.exists():
                server.check()
    finally:
        os.close(descriptor)
    _note_ready(server)


def _note_ready(server: Server) -> None:
    ready = read_json(server.ready_file)
    # By the server's own reading: it may have waited while another one was looked at.
    server.start_s = ready.pop("ready_monotonic_s", time.monotonic()) - server.spawned_s
    server.ready = ready
    problem = ready.get("problem")
    if problem is not None:
        kind = Unsupported if server.ready.get("status") == "unsupported" else Failed
        raise kind(f"the {server.name}'s server could not load its artifact: {problem}")


def stop(servers: Sequence[Server], keeper: Keeper) -> None:
    """End servers at once; they hold nothing that would have to be saved."""
    for server in servers:
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(server.process.pid, signal.SIGKILL)
    for server in servers:
        server.process.wait()
        keeper.forget(server.process.pid)
