"""What was disturbed is measured again: pairs of blocks, load levels, runs of arrivals."""

import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from conftest import wait_for
from diffsweep.measure import blocks, capacity, gpu, load, monitor, open_loop, pairing, records
from diffsweep.measure.arrivals import Arrival, Limits
from diffsweep.measure.journal import Files, Replicate, identity
from diffsweep.measure.sampler import Sampler
from diffsweep.sweep.outcomes import Failed
from fakes.nvml import FakeNvml
from test_benchmark import Job, spec_of

# --- pairs that are repeated ---


class Stub:
    """Replicates of `variants` that share the baseline, whose blocks take no time, and are disturbed as
    `when(block, attempt)` says, but for those of the variant `spared`. whose: of which variants each that ran was;
    notes: the first variant's."""

    def __init__(self, monkeypatch, pairs, when, variants=("v",), spared="", **spec):
        self.ran, self.whose, self.all_notes = [], [], {name: {} for name in variants}
        self.requests = [
            pairing.Planned(role, number, "p000", "x", 0)
            for number, role in enumerate(pairing.block_roles(pairs, "baseline"), start=1)
        ]

        def run_block(measured, block, attempt, *_arguments):
            self.ran.append((block[0], attempt))
            self.whose.append("".join(each.replicate.name for each in measured))
            disturbed = when(block[0], attempt) and self.whose[-1] != spared
            return [0.1], {
                "block": block[0],
                "role": block[1],
                "attempt": attempt,
                "valid": True,
                "disturbed": ["other processes used 0.99 cores"] if disturbed else [],
            }

        monkeypatch.setattr(blocks, "_run_block", run_block)
        silent = dict.fromkeys(("enter", "say", "note_usage"), lambda _: None)
        measured = [
            blocks.Paired(SimpleNamespace(name=name, spec=spec, note=notes.update, **silent), self.requests, None)
            for name, notes in self.all_notes.items()
        ]
        blocks.run_blocks(measured, None, {})
        self.notes = self.all_notes[variants[0]]


def test_a_disturbed_pair_is_measured_again_after_the_others(monkeypatch):
    found = Stub(monkeypatch, 8, lambda block, attempt: (block, attempt) in {(3, 1), (3, 2), (8, 1)})
    first = [(number, 1) for number in range(1, 17)]
    assert found.ran == [*first, (3, 2), (4, 2), (7, 2), (8, 2)]  # a quarter of 8 pairs
    assert found.notes["repeats"] == {"pairs": 8, "repeated": 2, "limit": 2, "still_disturbed": 1}
    assert [(n["block"], n["attempt"]) for n in found.notes["disturbed_blocks"]] == [(3, 2)]
    invalid = {(n["block"], n["attempt"]) for n in found.notes["blocks"] if not n["valid"]}
    assert invalid == {(3, 1), (4, 1), (7, 1), (8, 1)}


def test_variants_that_share_the_baseline_repeat_their_own_pairs(monkeypatch):
    """Block 1 is the baseline's, so that it was disturbed for both; 3 is the variants', of which b's was quiet."""

    found = Stub(monkeypatch, 8, lambda block, attempt: (block, attempt) in {(1, 1), (3, 1)}, ("a", "b"), spared="b")
    assert found.whose[:6] == ["ab", "a", "b", "b", "a", "ab"]
    assert list(zip(found.ran, found.whose, strict=True))[24:] == [
        *(((1, 2), "ab"), ((2, 2), "a"), ((2, 2), "b")),
        *(((3, 2), "a"), ((4, 2), "a")),
    ]
    assert [notes["repeats"]["repeated"] for notes in found.all_notes.values()] == [2, 1]
    assert [len(notes["disturbed_blocks"]) for notes in found.all_notes.values()] == [0, 0]


def test_a_machine_that_is_never_quiet_ends_too(monkeypatch):
    found = Stub(monkeypatch, 40, lambda _block, _attempt: True)
    assert len(found.ran) == 2 * (40 + 10)
    assert found.notes["repeats"] == {"pairs": 40, "repeated": 10, "limit": 10, "still_disturbed": 40}
    assert len({block for block, _ in found.ran}) == 80


def test_one_pair_is_not_tried_for_ever(monkeypatch):
    found = Stub(monkeypatch, 40, lambda block, _attempt: block == 1)
    assert [entry for entry in found.ran if entry[0] == 1] == [(1, 1), (1, 2), (1, 3)]


def test_repeating_can_be_switched_off(monkeypatch):
    found = Stub(monkeypatch, 3, lambda _block, _attempt: True, repeated_share=0)
    assert len(found.ran) == 6 and found.notes["repeats"]["still_disturbed"] == 3


def test_a_quiet_machine_repeats_nothing(monkeypatch):
    found = Stub(monkeypatch, 3, lambda _block, _attempt: False)
    assert found.notes["repeats"]["repeated"] == 0 and found.notes["disturbed_blocks"] == []


def test_a_busy_neighbour_invalidates_the_pairs_that_it_disturbed(tmp_path):
    """A process takes a core in the first blocks; the fake servers only sleep."""
    spec = spec_of({"service_s": [0.3]}, {"service_s": [0.3]}, repeated_share=0.25)
    spec["protocol"] |= {"warmup": 1, "requests": 4, "levels": [1], "requests_per_level": 1}
    job = Job(tmp_path, spec).start()
    partial = job.out / "latency.jsonl.partial"
    wait_for(lambda: partial.exists() and len(partial.read_bytes().splitlines()) >= 2)
    burn = "import time; end = time.process_time() + 0.6\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    job.finish()
    assert job.outcome["status"] == "ok"
    noted, repeats = job.replicate["blocks"], job.replicate["repeats"]
    invalid = {(n["block"], n["attempt"]) for n in noted if not n["valid"]}
    assert repeats["pairs"] == 4 and repeats["repeated"] == repeats["limit"] == 1 and len(invalid) == 2
    assert any("other processes" in reason for n in noted if not n["valid"] for reason in n["disturbed"])

    measured = [r for r in job.latency if not r.warmup]
    kept = records.valid(measured)
    assert len(measured) == 10 and len(kept) == 8
    assert {(r.block, r.attempt) for r in measured} - {(r.block, r.attempt) for r in kept} == invalid
    assert sorted(r.block for r in kept) == list(range(1, 9))  # both sides of every pair
    assert [r.order for r in job.latency] == list(range(1, len(job.latency) + 1))
    assert statistics.median(r.e2e_s for r in kept) >= 0.3

    samples = records.read_resources(job.out / "resources.jsonl")
    assert len(samples) >= 4 and all(s.memory_bytes["variant"] > 1e6 for s in samples)
    assert job.replicate["sampling"]["samples"] == len(samples)
    assert job.replicate["sampling"]["missing"].get("gpus") in (None, "no NVIDIA GPU")


def test_a_spec_switches_the_sampler_off(tmp_path):
    spec = {**spec_of(), "sampling_hz": 0}
    spec["protocol"] |= {"warmup": 1, "requests": 2, "levels": [1], "requests_per_level": 1}
    job = Job(tmp_path, spec)
    job.run()
    assert job.outcome["status"] == "ok" and (job.out / "resources.jsonl").read_bytes() == b""
    assert job.replicate["sampling"]["samples"] == 0 and job.replicate["sampling"]["hz"] == 0


# --- load levels and runs of arrivals that are repeated ---


class Loaded:
    """A replicate whose levels and runs take no time, on a GPU; `when(attempt)` is what NVML says of it: (clock event
    reasons, processes)."""

    def __init__(self, tmp_path, monkeypatch, when, **spec):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(monitor, "disturbances", lambda _used: [])  # whatever else runs on this machine
        for module in (load, open_loop):
            monkeypatch.setattr(module, "run_level", self._level, raising=True)
        monkeypatch.setattr(load, "connected", lambda *_: nullcontext([]))
        monkeypatch.setattr(open_loop, "_in_turn", self._run)
        monkeypatch.setattr(open_loop, "prefer_the_client", lambda: False)
        self.when, self.attempts, self.nvml = when, 0, FakeNvml()
        server = SimpleNamespace(name="variant", processes=[os.getpid()], check_soon=lambda: None)
        files = Files(*(tmp_path / name for name in ("latency", "capacity", "resources", "notes")))
        known = {**spec_of(), "arrivals": {"seed": 0, "requests": 4, "tolerance": 0.1, "runs": 1}} | spec
        known["protocol"] |= {"levels": [2]}
        if not spec:
            del known["repeated_share"]
        self.job = Replicate(known, identity(known, "r"), files, None, gpu.find_device(self.nvml), {"variant": server})
        self.job.notes = {"servers": {"variant": {}}}
        self.error = None

    def load(self):
        with records.RecordWriter(self.job.files.capacity) as writer:
            load.run_load(self.job, [], writer, Sampler({}, self.job.device, [writer], hz=0))
        return self.job.notes["levels"]

    def arrive(self):
        with records.RecordWriter(self.job.files.capacity) as writer:
            open_loop._search(self.job, [b""], Limits(1.0, 0.1, 0.5), writer)
        return self.job.notes["trials"]

    def _look(self):
        self.attempts += 1
        self.nvml.reasons, self.nvml.processes = self.when(self.attempts)
        time.sleep(0.01)

    def _level(self, _clients, _bodies, _measured):
        self._look()
        return [
            capacity.Completion(0, n, n + self.attempts, 0 if self.error else 1, self.error, None, steady=n > 0)
            for n in range(4)
        ]

    def _run(self, _clients, _bodies, schedule_s, _number):
        self._look()
        return [Arrival(0, at, at, at + self.attempts / 10, 1, None, None, steady=True) for at in schedule_s]

    @property
    def kept(self):
        """Attempts of all records, and of the valid ones."""
        found = records.read_capacity(self.job.files.capacity)
        return {r.attempt for r in found}, {r.attempt for r in records.valid(found)}


THROTTLED, SHARED, QUIET = (0x40, ()), (0, (1, 2, 3)), (0x4, ())


@pytest.mark.parametrize("scenario", ["load", "arrive"])
@pytest.mark.parametrize(("disturbed", "why"), [(THROTTLED, "was slowed down"), (SHARED, "ran 2 foreign processes")])
def test_a_disturbed_level_or_run_is_made_once_more(tmp_path, monkeypatch, scenario, disturbed, why):
    found = Loaded(tmp_path, monkeypatch, lambda attempt: disturbed if attempt == 1 else QUIET)
    (note,) = getattr(found, scenario)()
    assert found.attempts == note["attempt"] == 2 and note["disturbed"] == []
    (replaced,) = found.job.notes["replaced"]
    assert replaced["attempt"] == 1 and why in replaced["disturbed"][0]
    assert found.kept == ({1, 2}, {2})


@pytest.mark.parametrize("scenario", ["load", "arrive"])
def test_what_stays_disturbed_is_used_and_noted(tmp_path, monkeypatch, scenario):
    found = Loaded(tmp_path, monkeypatch, lambda _attempt: THROTTLED)
    (note,) = getattr(found, scenario)()
    assert found.attempts == note["attempt"] == 2 and "was slowed down" in note["disturbed"][0]
    assert found.kept == ({1, 2}, {2})


@pytest.mark.parametrize("scenario", ["load", "arrive"])
def test_a_quiet_level_or_run_is_made_once(tmp_path, monkeypatch, scenario):
    quiet = Loaded(tmp_path, monkeypatch, lambda _attempt: QUIET)
    (note,) = getattr(quiet, scenario)()
    assert quiet.attempts == note["attempt"] == 1 and "replaced" not in quiet.job.notes
    never = Loaded(tmp_path, monkeypatch, lambda _attempt: THROTTLED, repeated_share=0)
    (note,) = getattr(never, scenario)()
    assert never.attempts == 1 and note["disturbed"]


def test_a_level_that_the_ramp_doubts_is_run_again_and_replaced(tmp_path, monkeypatch):
    found = Loaded(tmp_path, monkeypatch, lambda _attempt: QUIET)
    protocol = found.job.spec["protocol"]
    del protocol["levels"]
    protocol["max_clients"] = 64
    rates = iter([1.0, 1.0, 1.3, 1.3])  # before the third, the machine became faster

    def answered(_clients, _bodies, _measured):
        rate = next(rates)
        return [capacity.Completion(0, n / rate, (n + 1) / rate, 1, None, None, steady=n > 0) for n in range(6)]

    monkeypatch.setattr(load, "run_level", answered)
    assert [(note["level"], note["attempt"]) for note in found.load()] == [(2, 1), (4, 1), (1, 2)]
    (replaced,) = found.job.notes["replaced"]
    assert (replaced["level"], replaced["attempt"]) == (1, 1) and not replaced["disturbed"]
    kept = records.valid(records.read_capacity(found.job.files.capacity))
    assert {(r.level, r.attempt) for r in kept} == {(1, 2), (2, 1), (4, 1)}
    assert found.job.notes["ramp_ended"] == "the last 2 levels raised the throughput by less than 3 %"


def test_a_level_that_broke_the_server_is_not_repeated(tmp_path, monkeypatch):
    found = Loaded(tmp_path, monkeypatch, lambda _attempt: THROTTLED)
    found.error = "connection"
    with pytest.raises(Failed, match="failed under load of 2 clients"):
        found.load()
    (note,) = found.job.notes["levels"]
    assert found.attempts == 1 and note["errors"] == {"connection": 4}
