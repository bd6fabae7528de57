"""The open-loop client itself, against a real server whose queue has a closed form."""

import numpy as np
import pytest

import queueing
from diffsweep.measure import arrivals
from test_arrivals import fake_server, open_loop

SERVICE_S, LOAD = 0.02, 0.5
# A schedule whose own mean wait is the closed form's within 1 % (another one of 400 would be off by 15 %).
REQUESTS, SEED = 400, 32


def test_the_client_sees_the_mean_wait_of_m_d_1(tmp_path):
    """Pollaczek and Khinchine: rho s / (2 (1 - rho)), 10 ms. A server of sleeps takes a bit longer than it says, which
    the queue multiplies. Who counts from the sending by one client that waits for its replies sees no wait at all."""
    schedule = arrivals.poisson_schedule(LOAD / SERVICE_S, REQUESTS, SEED)
    closed_form_s = LOAD * SERVICE_S / (2 * (1 - LOAD))
    truth = queueing.answers(schedule, [SERVICE_S] * REQUESTS) - schedule - SERVICE_S
    assert truth[REQUESTS // 10 :].mean() == pytest.approx(closed_form_s, rel=0.01)
    with fake_server(tmp_path, service_s=[SERVICE_S]) as port:
        alone = open_loop(port, list(np.arange(20) * 3 * SERVICE_S), connections=1)
        answered = open_loop(port, schedule, connections=30)
    unloaded_s = float(np.median([a.done_s - a.sent_s for a in alone]))
    limits = arrivals.Limits(1.0, SERVICE_S, 1.0)
    found = arrivals.summarise_trial(1, LOAD / SERVICE_S, answered, limits)
    assert found.valid and not found.errors
    assert 0.8 * closed_form_s < found.latency_mean_s - unloaded_s < 1.6 * closed_form_s
