"""Open-loop arrivals: schedule and clock, the search for the highest rate, its program and its tables."""

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import queueing
import simulation
import synthetic
from conftest import PROJECT, snakemake, wait_for
from diffsweep.analysis import summary
from diffsweep.analysis.arrivals import Arrivals, arrivals_of, rate_estimate, read_arrivals, trial_rows, warnings
from diffsweep.analysis.cells import read_cells
from diffsweep.measure import arrivals
from diffsweep.measure.arrivals import Limits
from diffsweep.measure.clients import Client, request_body
from diffsweep.measure.records import read_capacity
from diffsweep.measure.search import bracket_of, next_rate, search
from diffsweep.sweep.files import digest_file
from test_benchmark import FAKE_SERVER, FAULTS_UNDER_LOAD, Job, spec_of

# --- arrivals: the schedule and the clock ---


@given(st.floats(0.1, 1000), st.integers(1, 200), st.integers(0, 10**9))
def test_a_schedule_is_seeded_and_offers_its_rate(rate, requests, seed):
    schedule = arrivals.poisson_schedule(rate, requests, seed)
    assert schedule == sorted(schedule) == arrivals.poisson_schedule(rate, requests, seed)
    assert len(schedule) == requests and schedule[0] >= 0 and schedule[-1] <= requests / rate


@pytest.mark.parametrize("load_share", [0.3, 0.6, 0.8])
def test_the_mean_wait_of_m_d_1_is_the_closed_form(load_share):
    """Pollaczek and Khinchine: rho s / (2 (1 - rho)) for a constant service time s."""
    service_s = 0.002
    run = queueing.simulated_run(load_share / service_s, 100_000, 7, queueing.constant(service_s))
    trial = arrivals.summarise_trial(1, load_share / service_s, run, Limits(1.0, service_s, 0.01))
    expected = load_share * service_s / (2 * (1 - load_share))
    assert trial.latency_mean_s - service_s == pytest.approx(expected, rel=0.05)


@contextmanager
def fake_server(folder: Path, **behaviour):
    """The port of tests/fakes/server.py."""
    ready = folder / "ready.json"
    command = [sys.executable, FAKE_SERVER, "--spec", json.dumps({"artifact": behaviour}), "--artifact", "none"]
    process = subprocess.Popen([*command, "--port", "0", "--ready", ready])
    try:
        wait_for(ready.exists)
        yield json.loads(ready.read_text())["port"]
    finally:
        process.kill()
        process.wait()


BODY = request_body(
    {"name": "m", "width": 64, "height": 64}, {"steps": 4, "guidance": 1.0, "scheduler": "ddim"}, "x", 1
)


def open_loop(port: int, schedule: list[float], connections: int = 100) -> list:
    clients = [Client(port, 30) for _ in range(connections)]
    for client in clients:
        client.connect()
    try:
        return arrivals.run_arrivals(clients, [BODY], schedule)
    finally:
        for client in clients:
            client.close()


def test_a_server_frozen_for_1_4_s_has_its_true_p99(tmp_path):
    """A client that waits for replies would send one request into the freeze, and report a P99 of 4 ms."""
    schedule = arrivals.poisson_schedule(50, 160, 1)
    service_s = [0.004] * 80 + [1.404] + [0.004] * 79
    with fake_server(tmp_path, service_s=service_s) as port:
        answered = open_loop(port, schedule)
    assert [a.scheduled_s for a in answered] == pytest.approx(schedule, abs=1e-6)
    assert all(a.sent_s >= a.scheduled_s for a in answered) and not any(a.error for a in answered)
    truth = np.quantile((queueing.answers(schedule, service_s) - schedule)[16:], 0.99)
    found = arrivals.summarise_trial(1, 50, answered, Limits(0.1, 0.004, 0.01))
    assert 0.95 * truth < found.latency_p99_s < 1.2 * truth
    assert truth > 1 and found.good_images_per_s < 40


def test_a_server_that_closes_connections_ends_the_run(tmp_path):
    schedule = arrivals.poisson_schedule(200, 100, 1)
    with fake_server(tmp_path, service_s=[0.001], fault="close", at=20) as port:
        answered = open_loop(port, schedule, connections=20)
    assert [a.error for a in answered if a.error] == ["connection"] and len(answered) < 100


def test_a_late_client_makes_a_run_invalid():
    limits = Limits(0.06, 0.02, 0.01)
    run = queueing.simulated_run(20, 100, 1, queueing.constant(0.02), late_s=0.0003)
    trial = arrivals.summarise_trial(1, 20, run, limits)
    assert not trial.valid and "the client is the bottleneck" in trial.reason and "0.30 ms late" in trial.reason
    assert arrivals.summarise_trial(1, 20, queueing.simulated_run(20, 100, 1, queueing.constant(0.02)), limits).valid


def test_errors_are_not_within_the_objective():
    run = queueing.simulated_run(10, 100, 1, queueing.constant(0.02))
    refused = [arrivals.Arrival(0, a.scheduled_s, a.sent_s, a.sent_s, 0, "http 429", "", a.steady) for a in run[50:52]]
    trial = arrivals.summarise_trial(1, 10, run[:50] + refused + run[52:], Limits(1.0, 0.02, 0.01))
    assert trial.valid and not trial.within and trial.errors == {"http 429": 2}
    assert arrivals.summarise_trial(1, 10, run[:50] + refused[:1] + run[51:], Limits(1.0, 0.02, 0.01)).within


def test_a_run_is_long_enough_to_see_a_queue_grow():
    assert arrivals.requests_for(2.0, 100, 0.5) == 100
    assert arrivals.requests_for(50.0, 100, 0.5) == 500


# --- arrivals: the search ---


def vote(rate: float, within: bool, valid: bool = True) -> SimpleNamespace:
    return SimpleNamespace(rate_per_s=rate, within=within, valid=valid)


@given(st.floats(0.05, 20), st.floats(0.02, 0.5))
def test_the_search_encloses_a_sharp_threshold(threshold, tolerance):
    runs, settled = search(lambda _n, rate: vote(rate, rate <= threshold), 1.0, tolerance, 60)
    found = bracket_of(runs)
    assert settled and found.within <= threshold < found.over <= found.within * (1 + tolerance)
    for rate, within in ((found.within, True), (found.over, False)):
        assert sum(run.rate_per_s == rate and run.within == within for run in runs) == 2


def test_an_answer_that_is_not_confirmed_is_not_taken():
    """At 1.0 two of three runs are over: the answer lies below."""
    verdicts = iter([True, False, False])
    runs, settled = search(lambda _n, rate: vote(rate, next(verdicts) if rate == 1.0 else rate < 1.0), 1.0, 0.05, 60)
    assert settled and bracket_of(runs).within < 1.0 == bracket_of(runs).over


def test_runs_that_are_not_valid_are_no_votes():
    assert next_rate([vote(1.0, True, valid=False)], 1.0, 0.05) == 1.0
    assert next_rate([vote(1.0, True), vote(1.0, False, valid=False)], 1.0, 0.05) == 1.5


def test_a_search_that_nothing_satisfies_gives_up():
    runs, settled = search(lambda _n, rate: vote(rate, False), 1.0, 0.05, 60)
    assert settled and bracket_of(runs).within is None and len(runs) < 15


def test_a_search_ends_after_the_most_runs():
    runs, settled = search(lambda _n, rate: vote(rate, True), 1.0, 0.05, 7)
    assert not settled and len(runs) == 7


@pytest.mark.parametrize("services", [queueing.constant(0.1), queueing.spread(0.1, 0.1)])
def test_the_known_rate_of_a_simulated_server_is_found(services):
    limits = Limits(0.3, 0.1, 0.01)
    searches = [queueing.simulated_search(services, limits, seed, requests=200) for seed in range(30)]
    found, truth = rate_estimate(searches), queueing.true_rate(services, limits)
    assert found.value == pytest.approx(truth, rel=0.025)
    assert 0.9 * truth < found.low < truth < found.high < 1.1 * truth


def test_servers_without_any_noise_do_not_make_the_bracket_vanish():
    """Their searches find one and the same bracket, and the truth may lie anywhere in it."""
    votes, settled = search(lambda _n, rate: sharp_trial(rate, 1.0), 0.6, 0.05, 60)
    one = Arrivals(0.3, 0.1, votes, bracket_of(votes), settled)
    found = rate_estimate([one, one, one])
    assert 0.95 < found.low < one.bracket.within < 1.0 < found.high < 1.05


def sharp_trial(rate: float, threshold: float) -> arrivals.Trial:
    within = rate <= threshold
    return arrivals.Trial(1, rate, 200, {}, 0.1, 0.1, 0.1, 0.1, 0.0, rate if within else 0.0, within, "")


def test_where_failures_decide_the_rate_is_that_of_1_per_cent_of_them():
    """A server that never is late, and answers 429 the more often the more it is asked."""

    def run(_number: int, rate: float) -> arrivals.Trial:
        failed = round(20000 * 0.01 * rate**6)
        good = rate * (1 - failed / 20000)
        return arrivals.Trial(1, rate, 20000, {"http 429": failed}, 0.1, 0.1, 0.1, 0.1, 0.0, good, failed <= 200, "")

    trials, settled = search(run, 0.6, 0.05, 60)
    found = rate_estimate([Arrivals(0.3, 0.1, trials, bracket_of(trials), settled)])
    assert found.value == pytest.approx(1.0, rel=0.03)


def test_a_server_that_drifts_in_the_course_of_a_run_has_no_interval_and_the_reader_is_told():
    limits = Limits(0.3, 0.1, 0.01)
    drifting = queueing.searches_on(simulation.MACHINES["drift"], limits, 3)
    assert rate_estimate(drifting).value > 0 and rate_estimate(drifting).low is None
    told = "runs of arrivals at equal rates contradict each other: the highest rate has no interval"
    assert told in warnings(drifting)
    assert told not in warnings(queueing.searches_on(simulation.MACHINES["quiet"], limits, 3))


def test_one_search_has_no_interval_and_none_no_rate():
    limits = Limits(0.3, 0.1, 0.01)
    assert rate_estimate([queueing.simulated_search(queueing.constant(0.1), limits, 1)]).low is None
    assert rate_estimate([]) is None


# --- arrivals: the program and the tables ---


class SearchJob(Job):
    """One call of scripts/arrivals.py."""

    def __init__(self, folder, spec, *unloaded):
        super().__init__(folder, spec)
        self.command = [sys.executable, PROJECT / "scripts" / "arrivals.py", "--spec", json.dumps(spec)]
        self.command += ["--artifact", self.artifact, "--out", self.out, "--lock", self.lock]
        self.command += ["--server", FAKE_SERVER, "--unloaded", *unloaded]

    @property
    def notes(self):
        return json.loads((self.out / "arrivals.json").read_text())

    @property
    def records(self):
        return read_capacity(self.out / "arrivals.jsonl")


def search_spec(behaviour, *, objective_s=0.05, **changes) -> dict:
    spec = spec_of({"service_s": [0.01], **behaviour})
    protocol = {"distinct_prompts": 3, "warmup": 2, "objective_s": objective_s}
    # The client of a busy test machine is late: what that makes invalid is tested above.
    settings = {"objective_multiple": 3, "requests": 40, "tolerance": 0.4, "runs": 20, "seed": 0, "lateness": 10}
    return {**spec, "environments": {"variant": "torch"}, "protocol": protocol, "arrivals": {**settings, **changes}}


def test_the_program_finds_a_rate_and_the_analysis_the_same(tmp_path):
    job = SearchJob(tmp_path, search_spec({}))
    stdout = job.run()
    notes = job.notes
    assert notes["outcome"] == {"status": "ok", "reason": None, "stage": "arrivals", "attempt": 0}, stdout
    assert notes["service_s"] >= 0.01 and notes["settled"] and notes["servers"]["variant"]["start_s"] > 0
    found = arrivals_of(notes, job.records)
    assert found.rate == notes["rate_within"] and found.bracket.over == notes["rate_over"]
    assert found.service_s == notes["service_s"]
    assert [(t.rate_per_s, t.within) for t in found.trials] == [(t["rate_per_s"], t["within"]) for t in notes["trials"]]
    assert sum(t.rate_per_s == found.rate and t.within for t in found.trials) >= 2
    own = [r for r in job.records if r.scenario == "arrivals" and r.trial == 1]
    schedule = arrivals.poisson_schedule(own[0].level, len(own), notes["replicate"] * 1_000_003 + 1)
    assert [r.scheduled_s for r in own] == pytest.approx(schedule, abs=1e-6)
    assert [r.steady for r in own] == [place >= len(own) / 10 for place in range(len(own))]


@pytest.mark.parametrize(("fault", "kind", "words"), FAULTS_UNDER_LOAD)
def test_a_server_that_fails_in_a_search_is_an_outcome_and_records_are_kept(tmp_path, fault, kind, words):
    job = SearchJob(tmp_path, {**search_spec({"fault": fault, "at": 40}), "request_timeout_s": 1})
    job.run()
    outcome = job.notes["outcome"]
    assert outcome["status"] == "failed" and words in outcome["reason"]
    assert len([r for r in job.records if r.status == "ok"]) > 30 and kind in {r.error for r in job.records}
    found = read_arrivals(job.out)
    assert found.rate is None and words in found.reason


def test_a_full_queue_makes_runs_of_a_search_fail_by_kind_and_leaves_it_without_an_answer(tmp_path):
    job = SearchJob(tmp_path, search_spec({"fault": "429", "at": 40}, runs=2))
    job.run()
    assert job.notes["outcome"]["status"] == "ok" and job.notes["ended"] == "the search did not settle within 2 runs"
    assert all(trial["errors"].keys() == {"http 429"} and not trial["within"] for trial in job.notes["trials"])
    assert read_arrivals(job.out).rate is None and {r.error for r in job.records} == {None, "http 429"}


def test_an_objective_below_the_service_time_is_told_and_nothing_is_run(tmp_path):
    job = SearchJob(tmp_path, search_spec({}, objective_s=0.002))
    job.run()
    assert job.notes["outcome"]["status"] == "ok" and "even one client waits" in job.notes["ended"]
    assert {r.scenario for r in job.records} == {"steps"}


def test_without_an_objective_it_is_a_multiple_of_the_baselines_latency(tmp_path):
    for name in ("baseline", "search"):
        (tmp_path / name).mkdir()
    measured = Job(tmp_path / "baseline", spec_of({"service_s": [0.01]}, {"service_s": [0.05]}))
    measured.run()
    own = [r.e2e_s for r in measured.latency if r.role == "variant" and not r.warmup]
    job = SearchJob(tmp_path / "search", search_spec({}, objective_s=None, runs=1), measured.out / "replicate.json")
    job.run()
    assert job.notes["objective_s"] == pytest.approx(3 * np.median(own), rel=0.01)
    assert job.notes["ended"] == "the search did not settle within 1 runs"


def test_without_any_objective_the_job_says_what_to_give(tmp_path):
    job = SearchJob(tmp_path, search_spec({}, objective_s=None))
    job.run()
    assert job.notes["outcome"]["status"] == "failed" and "protocol.objective_s" in job.notes["outcome"]["reason"]


def test_the_summary_has_the_rate_with_its_interval(tmp_path):
    plan = synthetic.make_plan(synthetic.make_variants({"fp32": (None, {}), "ddim-10": ("fp32", {"steps": 10})}))
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    limits = Limits(1.5, 0.5, 0.01)
    cell = sweep / "reference/local/fp32"
    searches = [queueing.write_search(cell / f"search-{n}", queueing.constant(0.5), limits, seed=n) for n in (1, 2, 3)]
    cells = list(read_cells(plan, sweep, sweep.parent / "artifacts"))
    row, other = summary.summarise(plan, cells)
    rates, expected = [found.rate for found in searches], rate_estimate(searches)
    rate, low, high = (row[f"rate_within_objective_images_per_s{end}"] for end in ("", "_low", "_high"))
    assert (rate, low, high) == (expected.value, expected.low, expected.high)
    assert rate == pytest.approx(np.exp(np.log(rates).mean()), rel=0.1) and low < rate < high
    assert 0.8 * rate < row["goodput_images_per_s"] <= max(rates)
    assert (row["objective_s"], row["arrivals_runs"]) == (1.5, sum(len(found.trials) for found in searches))
    assert [r["search"] for r in trial_rows(searches)] == sorted(n for n in (1, 2, 3) for _ in searches[n - 1].trials)
    assert other["rate_within_objective_images_per_s"] is None and other["goodput_images_per_s"] is None
    assert row["knee_clients"] == 2 and row["sustained_clients"] == 4


def test_a_run_that_was_made_again_replaces_the_first(tmp_path):
    before = queueing.write_search(tmp_path, queueing.constant(0.5), Limits(1.5, 0.5, 0.01))
    path = tmp_path / "arrivals.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    slow = [{**line, "done_s": 9 + line["done_s"]} for line in lines if line["trial"] == 2]
    again = [{**line, "attempt": 2} if line["trial"] == 2 else line for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in slow + again))
    assert read_arrivals(tmp_path).trials == before.trials


def test_a_search_whose_records_were_changed_has_no_answer(tmp_path):
    limits = Limits(1.5, 0.5, 0.01)
    assert queueing.write_search(tmp_path, queueing.constant(0.5), limits).rate is not None
    path = tmp_path / "arrivals.json"
    document = json.loads(path.read_text()) | {"files": {"arrivals.jsonl": digest_file(tmp_path / "arrivals.jsonl")}}
    path.write_text(json.dumps(document))
    assert read_arrivals(tmp_path).rate is not None
    lines = (tmp_path / "arrivals.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "arrivals.jsonl").write_bytes(b"".join(lines[:-50]))
    found = read_arrivals(tmp_path)
    assert found.rate is None and f"{tmp_path / 'arrivals.jsonl'}: is not the file that was made" in found.reason


def test_arrivals_are_a_target_of_their_own_and_the_report_waits_for_them(project):
    done = snakemake(project, "--configfile", "config/smoke.yaml", "--dry-run", "arrivals")
    assert done.returncode == 0, done.stdout[-3000:]
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE))
    assert (counts["arrival_rate"], counts["aggregate"], counts["arrivals"]) == ("9", "1", "1")
    aggregate = done.stdout[done.stdout.index("aggregate the sweep") :]
    assert "fp32/search-1/arrivals.json" in aggregate.split("\n\n")[0]
