"""Load to saturation: the ramp, a level's validity, the knee."""

import numpy as np
import pytest

import simulation
from diffsweep.analysis import load, stats
from diffsweep.analysis.stats import Estimate
from diffsweep.measure import capacity, ramp
from diffsweep.measure.records import CapacityRecord
from test_benchmark import Job, spec_of

# --- the ramp ---


def climbed(rates, *, maximum=64, objective_s=None, noise=0.0, errors=(), p95_s=()) -> tuple[list[int], str]:
    """The levels that a ramp runs, in order, when its runs have these throughputs, and why it ends."""
    steps: dict[int, ramp.Step] = {}
    run: list[int] = []
    while True:
        clients, reason = ramp.next_clients(list(steps.values()), maximum, objective_s)
        if clients is None:
            return run, reason
        steps.pop(clients, None)
        i = len(run)
        share = 0.5 if clients in errors else 0.0
        steps[clients] = ramp.Step(clients, rates[i], noise, share, dict(enumerate(p95_s)).get(i))
        run.append(clients)


def test_a_server_that_is_full_with_one_client_is_asked_by_two_more_levels():
    assert climbed([2.0, 2.01, 2.0]) == ([1, 2, 4], "the last 2 levels raised the throughput by less than 3 %")


def test_the_ramp_goes_on_while_a_level_out_of_two_gains():
    levels, reason = climbed([1, 1.8, 3, 4, 4.05, 4.3, 4.05, 4.31])
    assert levels == [1, 2, 4, 8, 16, 32, 16, 64] and "64 clients are the most" in reason
    levels, reason = climbed([1, 1.8, 3, 4, 4.05, 4.06])
    assert levels == [1, 2, 4, 8, 16, 32] and "less than 3 %" in reason


def test_a_gain_that_noise_explains_is_none():
    assert climbed([1, 1.05, 1.05], noise=0.03)[0] == [1, 2, 4]
    assert climbed([1, 1.05, 1.05, 1.05])[0] == [1, 2, 4, 8]


def test_a_gain_after_a_flat_level_is_doubted_and_none_where_the_machine_has_changed_its_pace():
    levels, reason = climbed([1.05, 1.0, 1.3, 1.28])
    assert levels == [1, 2, 4, 1] and reason == "the last 2 levels raised the throughput by less than 3 %"
    levels, _ = climbed([1.05, 1.0, 1.3, 1.05, 1.31, 1.3])
    assert levels == [1, 2, 4, 1, 8, 16]


def test_a_ramp_ends_on_a_machine_that_becomes_faster_all_the_while():
    assert climbed([1.1**run for run in range(20)])[0] == [1, 2, 4, 8, 16, 32, 64]
    assert climbed([1, 1, 1.1, 1.2, 1.3, 1.3, 1.4, 1.5])[0] == [1, 2, 4, 1]


def test_a_fall_and_a_recovery_are_no_gain():
    assert climbed([1.0, 0.9, 1.0])[0] == [1, 2, 4]


def test_errors_end_the_ramp_at_once():
    levels, reason = climbed([1, 2, 4, 8], errors={4})
    assert levels == [1, 2, 4] and reason == "more than 1 % of the requests of 4 clients failed"


def test_p95_over_twice_the_objective_ends_it_one_level_past_the_knee():
    levels, reason = climbed([1, 2, 4, 8], objective_s=1.0, p95_s=[0.9, 2.1, 3, 4])
    assert levels == [1, 2, 4] and "P95 of 2 clients is over twice the objective of 1 s" in reason
    assert climbed([1, 1, 4, 8], objective_s=1.0, p95_s=[0.9, 2.1, 3, 4])[0] == [1, 2]


def test_clients_double_up_to_the_maximum():
    assert climbed([1, 2, 4, 8, 16], maximum=9)[0] == [1, 2, 4, 8]


# --- a level's validity ---


def batched(clients: int, batch: int, measured: int, batch_s: float = 1.0) -> list[capacity.Completion]:
    """What clients that ask again at once get from a server that answers up to `batch` requests together; its first
    batch has one request, since that came first."""
    waiting, now_s, done = [(client, 0.0) for client in range(clients)], 0.0, []
    taken = 1
    while len(done) < clients + measured:
        group, waiting = waiting[:taken], waiting[taken:]
        now_s += batch_s
        done += [(client, sent_s, now_s) for client, sent_s in group]
        waiting += [(client, now_s) for client, _, _ in done[-len(group) :]]
        taken = batch
    kept = enumerate(done[: clients + measured])
    return [capacity.Completion(c, sent, end, 1, None, None, place >= clients) for place, (c, sent, end) in kept]


@pytest.mark.parametrize(("clients", "batch"), [(1, 1), (2, 1), (4, 4), (8, 3), (8, 5), (16, 3)])
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_a_window_never_ends_in_the_middle_of_a_batch(clients, batch, rounds):
    """Counted up to the last completion, 8 clients and batches of 3 would have a third too much."""
    completions = batched(clients, batch, rounds * clients + 4)
    assert capacity.window_of(completions).images_per_s == pytest.approx(batch)
    assert capacity.summarise_level(clients, completions)["valid"]


def bursts_of(times_s) -> capacity.Window:
    return capacity.Window(0.0, tuple(capacity.Burst(t, 1, 1) for t in times_s), tuple(times_s))


def test_three_windows_that_differ_are_not_steady():
    slowing = [1.0, 1.0, 1.0, 1.0, 1.2, 1.2, 1.2, 1.2, 1.5, 1.5, 1.5, 1.5]
    differ = capacity.disagreement([bursts_of(slowing)])
    assert differ > 0.15 and "not steady" in capacity.why_invalid(12, 0, 1.0, differ)
    assert capacity.disagreement([bursts_of([1.0] * 12)]) == pytest.approx(0)


def test_what_noise_explains_is_steady():
    rng = np.random.default_rng(3)
    replicates = [bursts_of(np.exp(0.08 * rng.standard_normal(4))) for _ in range(5)]
    assert capacity.disagreement(replicates) <= capacity.WINDOWS_AGREE_WITHIN
    assert capacity.disagreement(replicates[:1]) is None  # four requests do not tell


def test_littles_law_within_3_per_cent():
    assert capacity.why_invalid(10, 0, 1.029, None) == ""
    assert "Little's law is off by +3.1%" in capacity.why_invalid(10, 0, 1.031, None)


# --- levels over replicates ---


def records_of(clients: int, service_s: float, measured: int = 6) -> list[CapacityRecord]:
    known = {"schema": 1, "run": "r", "model": "m", "target": "t", "variant": "v", "replicate": 1, "status": "ok"}
    known |= {"scenario": "steps", "level": clients, "scheduled_s": None}
    return [CapacityRecord(**known, **own(c)) for c in batched(clients, 1, measured, service_s)]


def own(completion: capacity.Completion) -> dict:
    return {k: getattr(completion, k) for k in ("client", "sent_s", "done_s", "images", "error", "steady")}


def test_a_level_that_a_minority_climbed_to_is_not_used():
    every = [records_of(1, 0.5) + records_of(2, 0.5) for _ in range(5)]
    every[3] += records_of(4, 0.4)
    every[4] += records_of(4, 0.4)
    levels = {level.clients: level for level in load.levels_of(every)}
    assert levels[2].valid and not levels[4].valid
    assert levels[4].reason == "only 2 of 5 replicates climbed so far"
    every[0] += records_of(4, 0.4)
    assert load.levels_of(every)[-1].valid


def test_a_levels_p95_has_an_interval_between_starts_of_the_server_and_none_where_clients_queue():
    rng = np.random.default_rng(3)
    machine = simulation.Machine(process=0.1, request=0.02)
    times = simulation.latencies(machine, rng, simulations=1, replicates=3, requests=40)[0]
    windows = [bursts_of(own) for own in times]
    alone = load.summarise(1, [[]] * 3, windows, None, None).latency_p95_s
    assert alone == stats.quantile_over_replicates(times, 0.95)
    assert alone.half_width > 2 * stats.quantile_estimate(times.ravel(), 0.95).half_width
    waiting = [np.convolve(own, np.ones(8), "valid") for own in times]  # each waits for the seven before it
    assert load.summarise(8, [[]] * 3, [bursts_of(own) for own in waiting], None, None).latency_p95_s.low is None


def level_of(clients: float, rate: float, half: float = 0.0, valid: bool = True) -> load.Level:
    mean = Estimate(rate, rate - half, rate + half)
    reason = "" if valid else "broken"
    return load.Level(clients, 5, 40, 0, mean, [rate] * 5, mean, 0.0, None, 1.0, None, 1.0, 1.0, 0.0, valid, reason)


def test_knee_and_saturation_are_the_first_and_last_level_at_capacity():
    levels = [level_of(1, 2.0), level_of(2, 3.6), level_of(4, 3.95), level_of(8, 4.0), level_of(16, 3.5)]
    assert load.knee(levels).clients == 4
    assert [level.clients for level in load.at_capacity(levels)] == [4, 8]
    assert load.sustained(levels).clients == 8


def test_the_sustained_level_is_the_last_at_capacity_not_the_luckiest():
    levels = [level_of(1, 4.02, 0.2), level_of(2, 4.1, 0.2), level_of(4, 3.95, 0.2), level_of(8, 3.0, 0.2)]
    assert load.sustained(levels).clients == 4
    assert load.sustained([level_of(1, 4.0, valid=False)]) is None


def test_replicates_that_agree_do_not_hide_what_the_requests_of_other_levels_show():
    """All three replicates made equal times with one client; with two, one request in each took twice as long."""
    alike, slow = [1.0] * 12, [1.0] * 6 + [2.0] + [1.0] * 5
    steady, disturbed = ([bursts_of(times) for _ in range(3)] for times in (alike, slow))
    noise = capacity.noise_of([w.bursts for w in steady + disturbed])
    assert capacity.noise_of([w.bursts for w in steady]) == 0 < noise
    between = stats.replicate_interval([w.images_per_s for w in steady])
    assert stats.with_request_noise(between, 0.0) == between == Estimate(1.0, 1.0, 1.0)
    widened = stats.with_request_noise(between, noise / 6)
    assert widened.half_width == pytest.approx(stats.REQUEST_ERRORS * noise / 6)
    assert stats.with_request_noise(Estimate(1.0), noise) == Estimate(1.0)  # one replicate has no interval


@pytest.mark.parametrize(("spread", "slower", "least"), [(0.05, 1.25, 0.85), (0.08, 1.25, 0.7), (0.08, 1.4, 0.98)])
def test_a_last_third_that_is_a_quarter_slower_is_mostly_found(spread, slower, least):
    rng = np.random.default_rng(4)
    times = np.exp(spread * rng.standard_normal((300, 3, 8)))
    found = {}
    for factor in (1.0, slower):
        sweeps = times * np.where(np.arange(8) < 5, 1.0, factor)
        differ = [capacity.disagreement([bursts_of(one) for one in sweep]) for sweep in sweeps]
        found[factor] = np.mean(np.asarray(differ) > capacity.WINDOWS_AGREE_WITHIN)
    assert found[slower] > least and found[1.0] < 0.01


def test_without_a_level_beyond_it_there_is_no_knee():
    levels = [level_of(1, 2.0), level_of(2, 3.6)]
    assert load.knee(levels) is None
    assert "throughput still rose at 2 clients: the knee was not reached" in load.warnings(levels)
    assert load.knee([*levels, level_of(4, 1.0, valid=False)]).clients == 2


def test_goodput_counts_what_was_in_time():
    replicates = [records_of(4, 0.5) for _ in range(3)]  # four clients wait 2 s each
    assert load.levels_of(replicates, objective_s=2.1)[0].goodput_images_per_s.value == pytest.approx(2.0)
    assert load.levels_of(replicates, objective_s=1.9)[0].goodput_images_per_s.value == 0
    assert load.levels_of(replicates)[0].goodput_images_per_s is None


def test_a_replicate_climbs_until_the_knee_is_passed(tmp_path):
    protocol = {k: v for k, v in spec_of()["protocol"].items() if k != "levels"}
    job = Job(tmp_path, spec_of({"service_s": [0.02]}, protocol={**protocol, "max_clients": 8}))
    stdout = job.run()
    run = [level["level"] for level in job.replicate["levels"]]
    assert job.outcome["status"] == "ok" and run in ([1, 2, 4], [1, 2, 4, 8])
    assert job.replicate["ramp_ended"] in stdout and sorted({r.level for r in job.capacity}) == run
    assert [level["steady_requests"] for level in job.replicate["levels"]] == [4, 4, 4, 8][: len(run)]


@pytest.mark.parametrize(("fault", "status"), [("429", "ok"), ("close", "failed")])
def test_a_fault_ends_the_ramp(tmp_path, fault, status):
    protocol = {k: v for k, v in spec_of()["protocol"].items() if k != "levels"}
    behaviour = {"service_s": [0.02], "fault": fault, "at": 14}  # 6 for latency, 5 at level 1, then level 2
    job = Job(tmp_path, spec_of(behaviour, protocol={**protocol, "max_clients": 64}))
    job.run()
    assert job.outcome["status"] == status
    assert [level["level"] for level in job.replicate["levels"]] == [1, 2]
    last = job.replicate["levels"][-1]
    assert not last["valid"] and last["errors"]
    if status == "failed":
        assert "failed under load of 2 clients: connection" in job.outcome["reason"]
    else:
        assert "2 clients failed" in job.replicate["ramp_ended"]
    assert {r.status for r in job.capacity} == {"ok", "error"}
