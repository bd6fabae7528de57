"""A process that outlives a measurement by a moment, to end and remove whatever the measurement has left.

Servers ask the kernel to die with their parent, but what a server itself has started (compiler workers) does not. The
keeper is told of every server's process group; it sleeps in a read, which ends when the last process that could
measure is gone, however it went, SIGKILL included.
"""

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from diffsweep.sweep.outcomes import Killed


class Keeper:
    """Start it before anything else is started, from a process without threads.

    `folder` is for temporary files, of ours and of the servers; it goes when the keeper does.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="diffsweep-"))
        read_end, self._write_end = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            os.close(self._write_end)
            _keep(read_end, self.folder)
        os.close(read_end)

    def watch(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """The group is empty: its number may soon be another's."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        """Raises Killed when the keeper is no more: nothing ends it but a kill."""
        try:
            os.write(self._write_end, line.encode())
        except BrokenPipeError:
            raise Killed("the keeper of the servers was killed") from None

    def close(self) -> None:
        """Let go. The keeper ends with the last process that holds its pipe; nobody needs to wait for it."""
        os.close(self._write_end)
        if os.waitpid(self._process, os.WNOHANG)[0]:  # it was killed, and has removed nothing
            shutil.rmtree(self.folder, ignore_errors=True)


def _keep(read_end: int, folder: Path) -> None:
    os.setsid()  # out of the reach of Ctrl-C at the terminal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    groups: set[int] = set()
    with open(read_end, encoding="ascii") as lines:
        for line in lines:
            (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError):  # nobody left in it
            os.killpg(group, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)
