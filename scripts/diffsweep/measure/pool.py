"""The servers of one job, each started once, when it is needed: together with the one that is needed next.

Most of a start is one thread's imports, so on two cores two starts take hardly longer than one: 4.1 s against 3.4 s, by
the notes of a default sweep's replicates (2026-11-30, an AMD EPYC).
The one that is not needed yet waits in the kernel for its first request. Three at most are there at a time: the
baseline's, and two of variants.
"""

from collections.abc import Sequence

from diffsweep.measure import monitor, servers
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.servers import Launch, Server
from diffsweep.sweep.outcomes import Failed, Unsupported


class Pool:
    """launches: all that `server` is going to be asked for, in the order in which each is needed first; timeout_s:
    until one must be ready."""

    def __init__(self, launches: Sequence[Launch], keeper: Keeper, timeout_s: float) -> None:
        self._waiting = list({id(launch): launch for launch in launches}.values())
        self._keeper, self._timeout_s = keeper, timeout_s
        self._servers: dict[int, Server] = {}
        self._problems: dict[int, Exception] = {}

    def server(self, launch: Launch) -> Server:
        """The running server. Raises Failed, Killed or Unsupported where it did not start or has ended since."""
        if any(launch is each for each in self._waiting):
            self._start(launch)
        if id(launch) in self._problems:
            raise self._problems[id(launch)]
        server = self._servers[id(launch)]
        server.check()
        return server

    def _start(self, launch: Launch) -> None:
        later = [each for each in self._waiting if each is not launch]
        ahead = later[:1] if self._has_room() else []
        self._waiting = later[len(ahead) :]
        for each in (launch, *ahead):
            self._servers[id(each)] = servers.start(each, self._keeper)
        for each in (launch, *ahead):
            try:
                servers.wait_until_ready(self._servers[id(each)], self._timeout_s)
            except (Failed, Unsupported) as problem:  # of those alone that need it
                self._problems[id(each)] = problem
                self.stop(each)

    def _has_room(self) -> bool:
        """Whether there is memory for one server more than is needed now: twice the largest, since requests take some,
        too. A limit of a container is not looked at; there the kernel ends a server, and its variant goes alone."""
        sizes = [monitor.memory_bytes(server.processes)["memory_bytes"] or 0 for server in self._servers.values()]
        return not sizes or monitor.available_bytes() > 2 * max(sizes)

    def stop(self, launch: Launch) -> None:
        """Stop a server, if it is running; it is not started again."""
        if id(launch) in self._servers:
            servers.stop([self._servers.pop(id(launch))], self._keeper)

    def settle(self, launch: Launch, most_s: float) -> None:
        """Wait until a running server has ended what load has left under way, which would run beside what comes next:
        two servers' threads on the same cores wait for each other by spinning, and made a first request take 7 s."""
        if id(launch) in self._servers:
            monitor.wait_until_idle(self._servers[id(launch)].processes, most_s)

    def renew(self, launch: Launch) -> None:
        """Have a server that may have taken harm started anew when it is asked for; not one that did not start."""
        if id(launch) in self._servers:
            self.stop(launch)
            self._waiting = [launch, *self._waiting]

    def close(self) -> None:
        servers.stop(list(self._servers.values()), self._keeper)
        self._servers = {}
