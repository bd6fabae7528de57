"""What a call asks to be done again, and whether a measurement was made on this machine."""

import pytest

from diffsweep.measure import machines
from diffsweep.sweep.documents import ConfigError, read_yaml
from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.plan import make_plan
from diffsweep.sweep.requests import attempt_after, requests_of

SMOKE = read_yaml(PROJECT / "config" / "smoke.yaml")
CPU = {"device": "cpu", "threads": "all"}
GPU = {"device": "cuda", "threads": 4}
A100 = {"cpu": "Xeon", "cores_usable": 16, "gpus": [{"name": "A100", "driver": "550.1", "uuid": "x"}]}


def left(status: str, attempt: int = 0) -> dict:
    return {"outcome": {"status": status, "reason": None, "stage": "benchmark", "attempt": attempt}}


@pytest.mark.parametrize(
    ("config", "document", "stale", "attempt"),
    [
        ({}, None, False, 0),
        ({}, left("failed", 2), True, 2),
        ({"failed": "retry"}, left("failed", 2), False, 3),
        ({"failed": "retry"}, left("ok", 2), False, 2),
        ({"failed": "retry"}, left("unsupported"), False, 0),
        ({"failed": "retry", "only": ["b"]}, left("failed"), False, 0),
        ({"failed": "retry", "only": ["a", "b"]}, left("failed"), False, 1),
        ({"stale": "rerun"}, left("ok"), True, 1),
        ({"stale": "rerun"}, left("ok"), False, 0),
        ({"stale": "rerun", "only": ["b"]}, left("ok"), True, 0),
    ],
)
def test_an_attempt_more_where_it_is_asked_for(config, document, stale, attempt):
    assert attempt_after(document, requests_of(config), ["a"], stale) == attempt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"only": ["ddim-4"]}, "only: says which variants failed=retry or stale=rerun mean"),
        ({"only": ["ddim4"], "failed": "retry"}, "only: there is no variant 'ddim4'; did you mean 'ddim-4'?"),
    ],
)
def test_a_request_that_cannot_be_met_is_told(changes, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        make_plan({**SMOKE, **changes})


def test_another_cpu_driver_or_gpu_is_another_machine_and_the_words_say_which():
    here = machines.identity(A100, GPU)
    assert machines.difference(here, here) is None
    newer = machines.identity({**A100, "gpus": [{"name": "A100", "driver": "560.2"}]}, GPU)
    assert machines.difference(here, newer) == "GPU driver was 550.1, is 560.2"
    none = machines.identity({**A100, "cpu": "EPYC", "gpus": None}, GPU)
    assert (
        machines.difference(here, none) == "CPU was Xeon, is EPYC; GPU was A100, is none; GPU driver was 550.1, is none"
    )


def test_what_does_not_matter_on_a_target_is_not_compared():
    assert machines.difference(machines.identity(A100, CPU), machines.identity({**A100, "gpus": []}, CPU)) is None
    fewer = {**A100, "cores_usable": 8}
    assert machines.difference(machines.identity(A100, GPU), machines.identity(fewer, GPU)) is None  # 4 threads anyway
    assert machines.difference(machines.identity(A100, CPU), machines.identity(fewer, CPU)) == (
        "usable cores was 16, is 8"
    )
    assert machines.difference(machines.identity({}, CPU), machines.identity(A100, CPU)) is None  # nobody noted it


def test_this_machine_is_known_and_a_cluster_is_not():
    assert set(machines.this_machine(CPU)) == {"cpu", "cores_usable"}
    assert machines.this_machine({**CPU, "slurm": {"partition": "gpu"}}) is None


def test_a_target_elsewhere_is_the_machine_that_it_was_measured_on_last():
    def notes(day: int, **host) -> dict:
        return {"host": {**A100, **host}, "ended_unix_s": 86400.0 * day}

    replicates = [notes(1), notes(3, cpu="EPYC"), None, notes(2), {"outcome": {"status": "failed"}}]
    latest = machines.latest(replicates, GPU)
    assert machines.difference(machines.identity(A100, GPU), latest) == "CPU was Xeon, is EPYC"
    assert machines.latest([None, {"outcome": {}}], GPU) is None
