"""The measuring wing: block order, clocks, load levels, the host."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import wait_for
from diffsweep.measure import capacity, clients, gpu, host, monitor, pairing, servers
from fakes.nvml import FakeNvml

PROJECT = Path(__file__).resolve().parents[1]

# --- pairing ---

PROMPTS = [pairing.Prompt(f"p{i:03d}", f"prompt {i}") for i in range(10)]
PROTOCOLS = {"warmup": st.integers(1, 6), "requests": st.integers(1, 60), "block": st.integers(1, 7)}


def test_blocks_alternate_as_a_b_b_a():
    assert pairing.block_roles(4, "baseline") == ["baseline", "variant", "variant", "baseline"] * 2
    assert pairing.block_roles(1, "variant") == ["variant", "baseline"]


@given(**PROTOCOLS, replicate=st.integers(1, 9))
def test_both_sides_get_the_same_prompts_and_seeds_in_the_same_order(warmup, requests, block, replicate):
    planned = pairing.plan_requests(PROMPTS, replicate=replicate, warmup=warmup, requests=requests, block=block)
    asked = {
        role: [(p.warmup, p.prompt_id, p.prompt, p.seed) for p in planned if p.role == role] for role in pairing.ROLES
    }
    assert asked["variant"] == asked["baseline"]
    assert len(asked["variant"]) == warmup + requests
    assert sum(p.warmup for p in planned) == 2 * warmup
    assert [p.block for p in planned] == sorted(p.block for p in planned)


@given(**PROTOCOLS, replicate=st.integers(1, 9))
def test_blocks_come_in_pairs_and_a_linear_drift_cancels_over_two_pairs(warmup, requests, block, replicate):
    planned = pairing.plan_requests(PROMPTS, replicate=replicate, warmup=warmup, requests=requests, block=block)
    found = list(pairing.blocks(planned))
    assert [number for number, _, _ in found] == list(range(1, len(found) + 1))
    assert all(len(group) <= block for _, _, group in found)
    for (one, role, _), (two, other, _) in zip(found[::2], found[1::2], strict=True):
        assert {role, other} == set(pairing.ROLES) and two == one + 1
    for start in range(0, len(found) - 3, 4):
        place = {role: sum(number for number, r, _ in found[start : start + 4] if r == role) for role in pairing.ROLES}
        assert place["variant"] == place["baseline"]
    assert found[0][1] == pairing.first_role(replicate) != pairing.first_role(replicate + 1)


def test_replicates_go_on_through_prompts_and_seeds():
    asked = [
        (p.prompt_id, p.seed)
        for replicate in (1, 2, 3, 4, 5)
        for p in pairing.plan_requests(PROMPTS, replicate=replicate, warmup=1, requests=40, block=4)
        if p.role == "variant" and not p.warmup
    ]
    assert sorted(asked) == [(f"p{prompt:03d}", seed) for prompt in range(10) for seed in range(20)]


# --- clocks ---

seconds = st.floats(0, 100, allow_nan=False)


@given(st.lists(seconds, min_size=1, max_size=50), seconds, seconds, seconds, seconds, seconds, seconds, seconds)
def test_clocks_add_up(steps, queue, encode, setup, decode, image, other, transfer):
    total = queue + encode + setup + sum(steps) + decode + image + other
    metrics = {"queue_s": queue, "prompt_encode_s": encode, "setup_s": setup, "step_s": steps, "decode_s": decode}
    metrics |= {"image_encode_s": image, "total_s": total}
    reply = clients.Reply(1e9, 50.0, 50.0 + total + transfer, total, metrics, 1)
    parts = clients.split_clocks(reply)
    assert parts["e2e_s"] == pytest.approx(total + transfer, abs=1e-6)
    assert parts["residual_s"] == pytest.approx(other, abs=1e-5)
    assert parts["transfer_s"] == pytest.approx(transfer, abs=1e-5)
    names = ("queue_s", "prompt_encode_s", "setup_s", "decode_s", "image_encode_s", "transfer_s", "residual_s")
    assert sum(parts[name] for name in names) + sum(parts["step_s"]) == pytest.approx(parts["e2e_s"], abs=1e-6)


GOOD_METRICS = {
    "queue_s": 0,
    "prompt_encode_s": 0,
    "setup_s": 0,
    "step_s": [1],
    "decode_s": 0,
    "image_encode_s": 0,
    "total_s": 1,
}


@pytest.mark.parametrize(
    "document",
    [
        b"<html>",
        b"[]",
        b'{"data": []}',
        json.dumps({"data": [], "metrics": GOOD_METRICS}).encode(),
        json.dumps({"data": [{"b64_json": "aGVsbG8="}], "metrics": GOOD_METRICS}).encode(),
        json.dumps({"data": [{"b64_json": "!"}], "metrics": GOOD_METRICS}).encode(),
        json.dumps({"data": [{"b64_json": "iVBORw0KGgo="}], "metrics": {**GOOD_METRICS, "step_s": None}}).encode(),
        json.dumps({"data": [{"b64_json": "iVBORw0KGgo="}], "metrics": {**GOOD_METRICS, "total_s": "1"}}).encode(),
    ],
)
def test_a_reply_that_is_no_image_is_garbage(document):
    with pytest.raises(clients.Garbage):
        clients.read_reply(document)


# --- load levels ---


def completions(service_s, level, measured, error_at=()):
    """What a serial server with these service times (cycled) gives `level` clients that ask again at once."""
    sent = [0.0] * level
    now_s, found = 0.0, []
    for i in range(level + measured):
        now_s += service_s[i % len(service_s)]
        error = "http 500" if i in error_at else None
        found.append(capacity.Completion(i % level, sent[i % level], now_s, 0 if error else 1, error, None, i >= level))
        sent[i % level] = now_s
    return found


@pytest.mark.parametrize("level", [1, 2, 4, 16])
def test_a_full_server_has_the_throughput_of_its_service_time(level):
    found = capacity.summarise_level(level, completions([0.25], level, 12))
    assert found["images_per_s"] == pytest.approx(4)
    assert found["littles_law"] == pytest.approx(1)
    assert found["latency_mean_s"] == pytest.approx(0.25 * level)
    assert found["window_images_per_s"] == pytest.approx([4, 4, 4])
    assert found["valid"] and found["steady_requests"] == 12 and found["requests"] == 12 + level


def test_a_level_with_errors_is_not_valid():
    found = capacity.summarise_level(2, completions([0.25], 2, 8, error_at={5}))
    assert not found["valid"] and found["reason"] == "1 of 10 requests failed" and found["errors"] == {"http 500": 1}


def test_a_client_that_pauses_breaks_littles_law():
    slow = [capacity.Completion(0, i + 0.1, i + 1.0, 1, None, None, i > 0) for i in range(7)]  # idle 10 % of the time
    found = capacity.summarise_level(1, slow)
    assert not found["valid"] and "Little's law" in found["reason"]


def test_a_level_without_any_success_is_a_hole():
    found = capacity.summarise_level(1, [capacity.Completion(0, 0, 1, 0, "timeout", "x", False)])
    assert found["images_per_s"] is None and not found["valid"]


# --- monitor, host ---


def test_foreign_cpu_time_is_seen_and_ours_is_not():
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        as_ours, as_foreign = monitor.usage({"server": [burner.pid]}), monitor.usage({})
        burnt_s = monitor.cpu_s([burner.pid])
        wait_for(lambda: monitor.cpu_s([burner.pid]) > burnt_s + 0.5)
        ours = monitor.between(as_ours, monitor.usage({"server": [burner.pid]}))
        foreign = monitor.between(as_foreign, monitor.usage({}))
    finally:
        burner.kill()
        burner.wait()
    assert ours["servers_cpu_s"]["server"] >= 0.5
    assert foreign["foreign_cpu_s"] >= ours["foreign_cpu_s"] + 0.4
    assert any("other processes" in reason for reason in foreign["disturbed"])


def test_a_quiet_span_is_not_disturbed():
    quiet = {"elapsed_s": 1.0, "foreign_cpu_s": 0.05, "steal_s": 0.0, "throttled_s": 0.0}
    assert monitor.disturbances(quiet) == []
    assert len(monitor.disturbances({**quiet, "steal_s": 0.2, "throttled_s": 0.1})) == 2


def test_waiting_for_a_process_ends_when_it_sleeps():
    spin = (
        "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nprint(); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE)
    try:
        monitor.wait_until_idle([process.pid])
        assert process.stdout.readline() == b"\n"
        assert monitor.wait_until_idle([process.pid]) < monitor.IDLE_WAIT_S
    finally:
        process.kill()
        process.communicate()


def test_memory_of_a_process_that_is_gone_is_not_measured():
    assert monitor.memory_bytes([2**22 + 1]) == {"memory_bytes": None, "peak_memory_bytes": None}
    own = monitor.memory_bytes([os.getpid()])
    assert own["peak_memory_bytes"] >= own["memory_bytes"] > 1e6


def test_the_gpu_is_described_and_a_throttled_or_shared_one_disturbs(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    silent = ("nvmlDeviceGetTotalEnergyConsumption",)
    device = gpu.find_device(FakeNvml(reasons=0x44, processes=(8, 7), silent=silent))
    (found,) = gpu.describe(device)
    assert found["name"] == "H100" and found["power_limit_w"] == 700 and found["driver"] == "600.1"
    states = gpu.state(device)
    assert states[0]["energy_j"] is None and states[0]["processes"] == [7, 8]
    throttled, shared = gpu.disturbances(states, ours={7})
    assert "0x40" in throttled and "1 foreign" in shared  # 0x4, the power cap, is no reason
    assert gpu.disturbances(states, ours={7, 8}) == [throttled]
    assert gpu.disturbances(states, ours={1007, 1008}) == [throttled]
    assert gpu.describe(gpu.NONE) is None and gpu.state(gpu.NONE) is None and gpu.disturbances(None, set()) == []


@pytest.mark.parametrize(
    ("chosen", "used"),
    [
        (None, 0),
        ("1", 1),
        ("2,0", 2),
        (" 0, 1", 0),
        ("1,-1", 1),
        ("1,NoDevFiles", 1),
        ("GPU-8932f937-0b", 1),
        ("GPU-8932f9", 1),  # CUDA takes the beginning of a UUID,
        ("GPU-8932", None),  # of one
        ("GPU-5", None),
        ("-1", None),
        ("-1,0", None),
        ("3", None),
        ("", None),
        ("NoDevFiles", None),
        ("²", None),
        ("MIG-1", None),
    ],
)
def test_a_server_uses_the_first_gpu_that_cuda_shows_it(monkeypatch, chosen, used):
    nvml = FakeNvml(uuids=("GPU-8932aaaa-0a", "GPU-8932f937-0b", "GPU-1234f937-0c"), processes=(7,))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    device = gpu.find_device(nvml)
    if used is None:
        assert gpu.describe(device) is gpu.state(device) is None
        assert device.missing == f"no GPU is visible (CUDA_VISIBLE_DEVICES is {chosen!r})"
    else:
        assert [found["uuid"] for found in gpu.describe(device)] == [nvml.uuids[used]] and device.missing is None
        assert len(gpu.state(device)) == 1


def test_a_driver_that_does_not_work_is_no_gpu_with_its_reason(monkeypatch):
    monkeypatch.setattr(gpu, "has_gpu", lambda: True)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(broken="Driver/library version mismatch"))
    device = gpu.open_device()
    assert device.missing == "NVML failed: Driver/library version mismatch" and gpu.describe(device) is None
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(silent=("nvmlDeviceGetCount",)))
    assert gpu.open_device().missing == "NVML failed: nvmlDeviceGetCount"


def test_servers_number_gpus_as_nvml_does(monkeypatch, tmp_path):
    monkeypatch.setenv(
        "CUDA_DEVICE_ORDER", "FASTEST_FIRST"
    )  # CUDA's own order, which nvmlDeviceGetHandleByIndex has not
    program = tmp_path / "server.py"
    program.write_text(
        "import json, os, sys, time\n"
        "path = sys.argv[sys.argv.index('--ready') + 1]\n"
        "open(path + '.new', 'w').write(json.dumps({'order': os.environ['CUDA_DEVICE_ORDER']}))\n"
        "os.rename(path + '.new', path)\n"
        "time.sleep(60)\n"
    )
    keeper = SimpleNamespace(folder=tmp_path, watch=lambda _: None, forget=lambda _: None)
    server = servers.start(servers.Launch("variant", "torch", program, {}, tmp_path), keeper)
    try:
        servers.wait_until_ready(server, 60)
        assert server.ready["order"] == "PCI_BUS_ID"
    finally:
        servers.stop([server], keeper)


def test_cpu_info_of_x86_and_arm():
    x86 = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fma avx2 amx_bf16 hypervisor\n"
    assert host.cpu_info(x86) == {"model": "Xeon", "features": ["avx2", "fma", "amx_bf16"], "virtual_machine": True}
    assert host.cpu_info("processor\t: 0\nFeatures\t: fp asimd\n")["virtual_machine"] is False


def test_the_description_of_the_host_names_nobody():
    text = json.dumps([host.describe(), host.state()])
    assert str(Path.home()) not in text and socket.gethostname() not in text
