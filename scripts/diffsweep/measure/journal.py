"""A replicate under way: its servers and clients, and notes (JSON) that are in a file at every moment.

Whatever ends a replicate, what was noted until then remains.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffsweep.measure import monitor
from diffsweep.measure.clients import Client, request_body
from diffsweep.measure.gpu import Device
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.pairing import ROLES, Planned
from diffsweep.measure.records import SCHEMA
from diffsweep.measure.servers import Server
from diffsweep.sweep.files import write_json

# The parts of a replicate as they are named in `seconds` (but for the waiting), and in words.
PHASES = {
    "start": "starting the servers",
    "warmup": "warming up",
    "latency": "measuring latency",
    "turn": "waiting for its turn",
    "capacity": "measuring capacity",
    "arrivals": "searching the highest rate",
    "stop": "stopping the servers",
    "done": "writing the last notes",
}


@dataclass(frozen=True)
class Files:
    """Where a replicate leaves what it has so far."""

    latency: Path
    capacity: Path
    resources: Path
    notes: Path


@dataclass
class Replicate:
    """A replicate under way. `sides`: the server of each role (the same one where both run one artifact), and `clients`
    the connections to them. `sharers`: how many variants share the baseline's requests with each other."""

    spec: Mapping
    identity: Mapping
    files: Files
    keeper: Keeper
    device: Device
    sides: dict[str, Server] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    sharers: int = 1
    notes: dict[str, Any] = field(default_factory=dict)
    orders: int = 0
    phase_began_s: float = field(default_factory=time.perf_counter)

    @property
    def servers(self) -> dict[str, Server]:
        """By the name that they are watched and noted under: their role; one of both is the variant's."""
        named = {self.name_of(role): server for role, server in self.sides.items()}
        return {name: named[name] for name in ROLES if name in named}

    def name_of(self, role: str) -> str:
        return "variant" if self.sides[role] is self.sides.get("variant") else role

    def watch(self) -> dict[str, list[int]]:
        """Their processes, by name."""
        return {name: server.processes for name, server in self.servers.items()}

    def note(self, **news: Any) -> None:
        self.notes.update(news)
        write_json(self.files.notes, self.notes)

    def enter(self, phase: str) -> None:
        """Begin a phase: note how long the one before took, and which it is, in case that it never ends. Of the time
        that variants measured latencies together, each has its share."""
        now_s = time.perf_counter()
        seconds, before = self.notes.get("seconds", {}), self.notes.get("phase", "turn")
        if before != "turn":
            shared_by = self.sharers if before == "latency" else 1
            seconds = {**seconds, before: round((now_s - self.phase_began_s) / shared_by, 3)}
        self.phase_began_s = now_s
        self.note(phase=phase, seconds=seconds)

    def say(self, text: str) -> None:
        print(f"{self.identity['variant']} replicate {self.identity['replicate']}: {text}", flush=True)

    def body_of(self, request: Planned) -> bytes:
        return request_body(self.spec["model"], self.spec[request.role], request.prompt, request.seed)

    def note_usage(self, watched: Mapping[str, Sequence[int]]) -> None:
        """Add each server's CPU time and memory since its start to what is known of it; `watched`: its processes."""
        known = dict(self.notes["servers"])
        for name, processes in watched.items():
            memory = monitor.memory_bytes(processes)
            if memory["peak_memory_bytes"] is not None:  # else it has ended, and what was noted before stays
                known[name] = {**known[name], "cpu_s": round(monitor.cpu_s(processes), 2), **memory}
        self.note(servers=known)


def identity(spec: Mapping, run: str) -> dict:
    """The fields that every record begins with."""
    names = {key: spec[key]["name"] for key in ("model", "target", "variant")}
    return {"schema": SCHEMA, "run": run, **names, "replicate": spec["replicate"]}
