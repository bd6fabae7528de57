"""Resources and energy: samples, counters, disturbed pairs of blocks that are repeated; with fakes for the hardware."""

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

import synthetic
from conftest import wait_for
from diffsweep.analysis import resources, summary
from diffsweep.analysis.cells import read_cells
from diffsweep.measure import blocks, capacity, counters, gpu, load, monitor, open_loop, pairing, records
from diffsweep.measure.arrivals import Arrival, Limits
from diffsweep.measure.journal import Files, Replicate, identity
from diffsweep.measure.sampler import Sampler
from diffsweep.show import cells as show_cells
from diffsweep.show import resources as show_resources
from diffsweep.sweep.outcomes import Failed
from fakes.nvml import FakeNvml
from signed import sign_records
from test_benchmark import Job, spec_of
from test_measure import LATENCY
from test_show import run

# --- records ---


def test_records_of_a_block_that_was_repeated_are_not_valid():
    found = [replace(LATENCY, block=b, order=o, attempt=a) for o, (b, a) in enumerate([(0, 1), (1, 1), (2, 1)])]
    again = [replace(LATENCY, block=b, order=9, attempt=2) for b in (1, 1)]
    assert records.valid(found) == found
    assert records.valid([*found, *again]) == [found[0], found[2], *again]


def test_records_of_an_earlier_version_are_first_attempts(tmp_path):
    path = tmp_path / "latency.jsonl"
    path.write_text(json.dumps({k: v for k, v in asdict(LATENCY).items() if k != "attempt"}) + "\n")
    assert records.read_latency(path) == [LATENCY] and LATENCY.attempt == 1


def test_a_sample_that_cannot_be_is_named_with_its_line(tmp_path):
    path = tmp_path / "resources.jsonl"
    sample = {"schema": 1, "unix_s": 1.0, "memory_bytes": {"variant": 5}, "gpus": [{"power_w": 1.5, "energy_j": None}]}
    sample |= {"cpu_mhz": None, "cpu_temperature_c": 50, "package_energy_j": 0.5}
    broken = {**sample, "gpus": [{"power_w": "much"}]}
    path.write_text(f"{json.dumps(sample)}\n{json.dumps(broken)}\n")
    with pytest.raises(records.CorruptRecords, match="resources.jsonl:2: gpus is"):
        records.read_resources(path)


# --- counters ---


def fake_rapl(folder, name="intel-rapl:0", energy_uj=900, range_uj=1000):
    package = folder / name
    package.mkdir(parents=True)
    (package / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (package / "energy_uj").write_text(f"{energy_uj}\n")
    return package / "energy_uj"


def test_package_energy_is_the_sum_of_the_packages_and_survives_a_wrap(tmp_path):
    first, second = fake_rapl(tmp_path), fake_rapl(tmp_path, "intel-rapl:1", 0, 10**9)
    fake_rapl(tmp_path, "intel-rapl:0:0")  # the cores of package 0, counted in it
    fake_rapl(tmp_path, "intel-rapl-mmio:0")  # package 0 once more
    energy = counters.PackageEnergy(tmp_path)
    assert energy.missing is None and energy.read_j() == 0
    first.write_text("950")
    second.write_text("2000000")
    assert energy.read_j() == pytest.approx(2.00005)
    first.write_text("30")  # 80 beyond its range
    assert energy.read_j() == pytest.approx(2.00013)


def test_energy_that_is_not_counted_is_none_with_its_reason(tmp_path):
    nowhere = counters.PackageEnergy(tmp_path / "powercap")
    assert nowhere.read_j() is None and "no RAPL counter" in nowhere.missing
    path = fake_rapl(tmp_path)
    path.unlink()
    path.mkdir()  # not readable, whoever runs this
    closed = counters.PackageEnergy(tmp_path)
    assert closed.read_j() is None and "intel-rapl:0/energy_uj" in closed.missing


def test_processor_sensors(tmp_path):
    (tmp_path / "hwmon0").mkdir()
    (tmp_path / "hwmon0/name").write_text("k10temp\n")
    (tmp_path / "hwmon0/temp1_input").write_text("64500\n")
    for policy, khz in enumerate((2_000_000, 3_000_000)):
        (tmp_path / f"cpufreq/policy{policy}").mkdir(parents=True)
        (tmp_path / f"cpufreq/policy{policy}/scaling_cur_freq").write_text(f"{khz}\n")
    sensors = counters.CpuSensors(tmp_path, tmp_path)
    assert (sensors.temperature_c(), sensors.clock_mhz(), sensors.missing) == (64.5, 2500, {})
    none = counters.CpuSensors(tmp_path / "a", tmp_path / "b")
    assert none.temperature_c() is none.clock_mhz() is None
    assert set(none.missing) == {"cpu_temperature_c", "cpu_mhz"}


def test_a_processor_that_is_slowed_down_by_heat_disturbs(tmp_path):
    assert counters.heat_events(tmp_path) is None
    for core in (0, 1):
        (tmp_path / f"cpu{core}/thermal_throttle").mkdir(parents=True)
        (tmp_path / f"cpu{core}/thermal_throttle/core_throttle_count").write_text("3\n")
    assert counters.heat_events(tmp_path) == 6
    quiet = {"elapsed_s": 1.0, "foreign_cpu_s": 0.0, "steal_s": 0.0, "throttled_s": None, "heat_events": 0}
    assert monitor.disturbances(quiet) == []
    assert "by heat" in monitor.disturbances({**quiet, "heat_events": 2})[0]


# --- the sampler ---


def sample(tmp_path, device=gpu.NONE, hz=100.0, enough=3, **options):
    """A sampler that has looked at this process `enough` times, and its file."""
    path, watched = tmp_path / "resources.jsonl", {"server": [os.getpid()]}
    with records.RecordWriter(path) as writer, Sampler(watched, device, writer, hz, **options) as found:
        wait_for(lambda: hz == 0 or len(found.samples) >= enough or not found._thread.is_alive())
    return found, path


def test_samples_are_what_the_devices_say(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake_rapl(tmp_path)
    silent = FakeNvml(silent=("nvmlDeviceGetPowerUsage",), uuids=("GPU-1", "GPU-2"))
    found, path = sample(tmp_path, gpu.find_device(silent), energy=counters.PackageEnergy(tmp_path))
    read = records.read_resources(path)
    assert read == found.samples and len(read) >= 3
    assert all(s.memory_bytes["server"] > 1e6 and s.package_energy_j == 0 for s in read)
    assert [s.unix_s for s in read] == sorted(s.unix_s for s in read)
    (device,) = read[-1].gpus
    expected = {"utilisation": 0.97, "memory_used_bytes": 3e9, "clock_mhz": 1980, "memory_clock_mhz": 2619}
    expected |= {"temperature_c": 61, "clock_event_reasons": 0x4, "power_w": None}
    assert device == {**expected, "energy_j": device["energy_j"]}
    assert device["energy_j"] > read[0].gpus[0]["energy_j"] >= 0
    note = found.note()
    assert note["missing"]["power_w"] == "not offered by this GPU or driver" and "energy_j" not in note["missing"]
    assert note["samples"] == len(read) and 0 < note["cost_cpu_s"] < 1 and note["problem"] is None


def test_a_machine_without_a_gpu_says_so(tmp_path, monkeypatch):
    found, _ = sample(tmp_path)
    assert found.samples[0].gpus == [] and found.note()["missing"]["gpus"] == "no NVIDIA GPU"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES" in sample(tmp_path, gpu.find_device(FakeNvml()))[0].note()["missing"]["gpus"]


def test_sampling_can_be_switched_off(tmp_path):
    before = threading.active_count()
    found, path = sample(tmp_path, hz=0)
    assert found.samples == [] and path.read_bytes() == b"" and threading.active_count() == before


def test_a_counter_that_goes_away_ends_the_sampling_and_nothing_else(tmp_path):
    counter = fake_rapl(tmp_path)
    energy = counters.PackageEnergy(tmp_path)
    counter.unlink()
    found, _ = sample(tmp_path, energy=energy)
    assert "sampling ended after 0 samples: FileNotFoundError" in found.note()["problem"]


def test_throttling_between_two_looks_at_the_gpu_is_seen(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml(reasons=0x40)
    device = gpu.find_device(nvml)
    found, _ = sample(tmp_path, device)
    nvml.reasons = 0x1
    assert gpu.disturbances(gpu.state(device), set()) == []
    assert "0x40" in gpu.disturbances(gpu.state(device), set(), found.samples)[0]


# --- pairs that are repeated ---


class Stub:
    """A replicate whose blocks take no time, and are disturbed as `when(block, attempt)` says."""

    def __init__(self, monkeypatch, pairs, when, **spec):
        self.ran, self.notes = [], {}
        self.requests = [
            pairing.Planned(role, number, "p000", "x", 0)
            for number, role in enumerate(pairing.block_roles(pairs, "baseline"), start=1)
        ]

        def run_block(_replicate, block, attempt, *_arguments):
            self.ran.append((block[0], attempt))
            disturbed = ["other processes used 0.99 cores"] if when(block[0], attempt) else []
            return [0.1], {
                "block": block[0],
                "role": block[1],
                "attempt": attempt,
                "valid": True,
                "disturbed": disturbed,
            }

        monkeypatch.setattr(blocks, "_run_block", run_block)
        replicate = SimpleNamespace(
            spec=spec, note=self.notes.update, enter=lambda _: None, say=lambda _: None, note_usage=lambda _: None
        )
        blocks.run_blocks(replicate, self.requests, None, None, {})


def test_a_disturbed_pair_is_measured_again_after_the_others(monkeypatch):
    found = Stub(monkeypatch, 8, lambda block, attempt: (block, attempt) in {(3, 1), (3, 2), (8, 1)})
    first = [(number, 1) for number in range(1, 17)]
    assert found.ran == [*first, (3, 2), (4, 2), (7, 2), (8, 2)]  # a quarter of 8 pairs
    assert found.notes["repeats"] == {"pairs": 8, "repeated": 2, "limit": 2, "still_disturbed": 1}
    assert [(n["block"], n["attempt"]) for n in found.notes["disturbed_blocks"]] == [(3, 2)]
    invalid = {(n["block"], n["attempt"]) for n in found.notes["blocks"] if not n["valid"]}
    assert invalid == {(3, 1), (4, 1), (7, 1), (8, 1)}


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
        self.job.clients["variant"] = SimpleNamespace(close=lambda: None)
        with records.RecordWriter(self.job.files.capacity) as writer:
            load.run_load(self.job, [], writer, Sampler({}, self.job.device, writer, hz=0))
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


def test_a_level_that_broke_the_server_is_not_repeated(tmp_path, monkeypatch):
    found = Loaded(tmp_path, monkeypatch, lambda _attempt: THROTTLED)
    found.error = "connection"
    with pytest.raises(Failed, match="failed under load of 2 clients"):
        found.load()
    (note,) = found.job.notes["levels"]
    assert found.attempts == 1 and note["errors"] == {"connection": 4}


# --- in the summary ---

GPU_W, PACKAGE_W = 250.0, 40.0
FEW = {name: synthetic.DEFAULT_VARIANTS[name] for name in ("fp32", "openvino")}


def sampled_results(folder, requests_per_level=60, gpus=True, package=True, missing=None):
    """Synthetic results with samples at constant power, four a second while the load lasts; variant -> row."""
    plan = synthetic.make_plan(synthetic.make_variants(FEW), images=20)
    plan["protocol"]["requests_per_level"] = requests_per_level
    sweep = synthetic.make_results(folder, plan, pictures=False)
    for path in sweep.glob("reference/local/*/replicate-*/replicate.json"):
        notes = json.loads(path.read_text())
        notes["sampling"] = {"hz": 4, "samples": 1, "cost_cpu_s": 0.01, "problem": None, "missing": missing or {}}
        path.write_text(json.dumps(notes))
        with records.RecordWriter(path.with_name("resources.jsonl")) as writer:
            for level in notes["levels"]:
                end_s = level["window_start_s"] + level["window_s"]
                for number in range(int(end_s * 4) + 2):
                    writer.append(sample_at(level["started_unix_s"] + number / 4, gpus, package))
    cells = list(read_cells(plan, sweep, sweep.parent / "artifacts"))
    return {row["variant"]: row for row in summary.summarise(plan, cells)}, sweep


def sample_at(unix_s, gpus, package):
    device = {"utilisation": 0.9, "memory_used_bytes": 4e9, "clock_mhz": 1500, "memory_clock_mhz": 2600}
    device |= {"power_w": GPU_W, "temperature_c": 60, "clock_event_reasons": 0x4 | 0x20}
    device["energy_j"] = 1e6 + GPU_W * (unix_s - synthetic.STARTED_UNIX_S)
    energy_j = PACKAGE_W * (unix_s - synthetic.STARTED_UNIX_S) if package else None
    known = {"schema": 1, "unix_s": unix_s, "memory_bytes": {"variant": 7 * 10**8}}
    found = {"cpu_mhz": 3000.0, "cpu_temperature_c": None, "package_energy_j": energy_j}
    idle = {**device, "utilisation": 0.0, "power_w": 70.0, "temperature_c": 90, "clock_event_reasons": 0x40}
    return records.ResourceSample(**known, **found, gpus=[device, idle] if gpus else [])


def test_energy_is_power_times_time_over_images(tmp_path):
    rows, _ = sampled_results(tmp_path)
    for row in rows.values():
        rate = row["images_per_s"]
        assert row["gpu_energy_j_per_image"] == pytest.approx(GPU_W / rate, rel=0.01)  # not the idle one's
        assert row["package_energy_j_per_image"] == pytest.approx(PACKAGE_W / rate, rel=0.01)
        assert row["package_energy_j_per_image_low"] < PACKAGE_W / rate < row["package_energy_j_per_image_high"]
        assert row["energy_reason"] is row["not_offered"] is None
        assert row["gpu_utilisation"] == pytest.approx(0.9)
        assert (row["device_memory_bytes"], row["gpu_power_w"]) == (4e9, GPU_W)
        assert (row["gpu_clock_mhz"], row["gpu_temperature_c"], row["cpu_mhz"]) == (1500, 60, 3000)
        assert row["gpu_clock_events"] == "power cap, software thermal"
        assert (row["memory_bytes"], row["server_cpu_cores"]) == (7 * 10**8, pytest.approx(1.9))


def test_too_little_of_it_is_no_energy_figure(tmp_path):
    rows, _ = sampled_results(tmp_path, requests_per_level=12)
    row = rows["openvino"]
    assert row["package_energy_j_per_image"] is None
    told = re.fullmatch(
        r"\d+ s and 36 images at the sustained load; an energy figure takes 30 s and 20 images: "
        r"set protocol.requests_per_level to (\d+)",
        row["energy_reason"],
    )
    enough, _ = sampled_results(tmp_path / "again", requests_per_level=int(told[1]))
    assert enough["openvino"]["package_energy_j_per_image"] is not None
    assert int(told[1]) < 60


def test_what_the_machine_does_not_offer_is_said(tmp_path):
    missing = {"gpus": "no NVIDIA GPU", "package_energy_j": "no RAPL counter (/sys has none)"}
    rows, _ = sampled_results(tmp_path, gpus=False, package=False, missing=missing)
    row = rows["fp32"]
    assert row["gpu_energy_j_per_image"] is row["gpu_utilisation"] is row["gpu_clock_events"] is None
    assert row["energy_reason"] == "no NVIDIA GPU; no RAPL counter (/sys has none)"
    assert row["not_offered"] == "gpus: no NVIDIA GPU; package_energy_j: no RAPL counter (/sys has none)"


def test_results_that_were_never_sampled_say_so(tmp_path):
    plan = synthetic.make_plan(synthetic.make_variants(FEW), images=20)
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    (row, _) = summary.summarise(plan, list(read_cells(plan, sweep, sweep.parent / "artifacts")))
    assert "earlier version" in row["not_offered"] and row["memory_bytes"] is None
    assert row["energy_reason"] == "the counters were not read during the sustained load"
    assert row["repeated_pairs"] == row["disturbed_blocks"] == 0


def test_a_counter_that_the_samples_do_not_enclose_gives_nothing():
    found = [sample_at(synthetic.STARTED_UNIX_S + s, True, True) for s in (10, 20, 30)]
    replicate = SimpleNamespace(resources=found)
    counter = resources.COUNTERS["package"]

    def between(begin_s, end_s):
        span = resources.Span(replicate, synthetic.STARTED_UNIX_S + begin_s, synthetic.STARTED_UNIX_S + end_s, 20)
        return resources.energy_of(span, counter)

    assert between(12.5, 27.5) == pytest.approx(15 * PACKAGE_W)
    assert between(5, 20) is between(20, 31) is None


def disturb(sweep, still_disturbed, repeated=2):
    """Note in all replicates of all variants that so many of 12 pairs stayed disturbed."""
    for path in sweep.glob("reference/local/*/replicate-*/replicate.json"):
        notes = json.loads(path.read_text())
        counts = {"pairs": 12, "repeated": repeated, "limit": 3, "still_disturbed": still_disturbed}
        block = {"block": 1, "role": "variant", "attempt": 1, "disturbed": ["other processes used 0.99 cores"]}
        notes["levels"][0]["disturbed"] = ["other processes used 0.99 cores"]
        path.write_text(json.dumps({**notes, "repeats": counts, "disturbed_blocks": [block] * still_disturbed}))


@pytest.mark.parametrize(("still_disturbed", "verdict"), [(0, "improved"), (3, "improved"), (4, "cannot tell")])
def test_many_pairs_that_stayed_disturbed_withhold_the_verdict(tmp_path, still_disturbed, verdict):
    plan = synthetic.make_plan(synthetic.make_variants(FEW), images=20, replicates=5)
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    disturb(sweep, still_disturbed)
    rows = summary.summarise(plan, list(read_cells(plan, sweep, sweep.parent / "artifacts")))
    assert rows[1]["verdict"] == verdict and rows[1]["speedup"] > 1.5
    assert rows[1]["repeated_pairs"] == 10 and rows[1]["disturbed_blocks"] == 5 * still_disturbed
    assert ("no verdict" in rows[1]["warnings"]) == (verdict == "cannot tell")
    assert "not quiet during 5 load levels" in rows[1]["warnings"]


def test_records_that_were_replaced_are_in_no_figure(tmp_path):
    plan = synthetic.make_plan(synthetic.make_variants(FEW), images=20)
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    before = summary.summarise(plan, list(read_cells(plan, sweep, sweep.parent / "artifacts")))
    for path in sweep.glob("reference/local/*/replicate-*/latency.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        slow = [{**line, "e2e_s": 9 * line["e2e_s"], "attempt": 1} for line in lines if line["block"] in (3, 4)]
        again = [{**line, "attempt": 2} if line["block"] in (3, 4) else line for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in slow + again))
        sign_records(path.parent)
    for path in sweep.glob("reference/local/*/replicate-*/capacity.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        slow = [{**line, "done_s": 9 * line["done_s"], "attempt": 1} for line in lines if line["level"] == 2]
        again = [{**line, "attempt": 2} if line["level"] == 2 else line for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in slow + again))
        sign_records(path.parent)
    after = summary.summarise(plan, list(read_cells(plan, sweep, sweep.parent / "artifacts")))
    assert after == before


# --- in the report ---


def test_the_report_shows_resources_and_why_some_are_missing(tmp_path):
    _, sweep = sampled_results(tmp_path, gpus=False, missing={"gpus": "no NVIDIA GPU"})
    run("aggregate.py", "--plan", sweep / "plan.json", *options(sweep))
    (cell,) = show_cells.read_cells(sweep)
    found = show_resources.section(cell)
    heads = [column.head for column in found["table"].columns]
    assert "CPU" in heads and "CPU energy an image" in heads and "GPU power" not in heads
    (missing,) = [note for note in found["notes"] if note.startswith("n/a: ")]
    assert "GPU utilisation" in missing and "gpus: no NVIDIA GPU" in missing
    energy = found["table"].rows[0].cells[heads.index("CPU energy an image") - 1]
    assert energy.text.endswith(" J") and " to " in energy.below


def options(sweep):
    return ("--results", sweep, "--artifacts", sweep.parent / "artifacts", "--out", sweep)
