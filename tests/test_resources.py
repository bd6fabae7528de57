"""Resources and energy: samples, counters, what the summary and the report say of them; with fakes for the hardware."""

import json
import os
import re
import threading
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

import synthetic
from conftest import wait_for
from diffsweep.analysis import resources, summary
from diffsweep.analysis.cells import read_cells
from diffsweep.measure import counters, gpu, monitor, records
from diffsweep.measure.sampler import Sampler
from diffsweep.show import cells as show_cells
from diffsweep.show import resources as show_resources
from fakes.nvml import FakeNvml
from signed import sign_records
from test_records import LATENCY
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
    with pytest.raises(records.CorruptRecords, match=r"resources.jsonl:2: gpus.*Expected `float \| null`, got `str`"):
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


def test_a_jobs_energy_counts_on_from_one_sampler_to_the_next(tmp_path):
    counter, energy = fake_rapl(tmp_path, energy_uj=0, range_uj=10**9), counters.PackageEnergy(tmp_path)
    counter.write_text("3000000")
    sample(tmp_path, energy=energy)
    counter.write_text("5000000")
    _, path = sample(tmp_path, energy=energy)
    joules = [s.package_energy_j for s in records.read_resources(path)]
    assert set(joules) == {3, 5} and joules == sorted(joules)


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
    with records.RecordWriter(path) as writer, Sampler(watched, device, [writer], hz, **options) as found:
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
