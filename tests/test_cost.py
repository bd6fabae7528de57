"""Costs from sustained throughput and a defensible price."""

import pytest

from diffsweep.analysis import cost
from diffsweep.analysis.stats import Estimate

PRICE = {
    "instance": "g5.xlarge",
    "currency": "USD",
    "on_demand_per_hour": 1.006,
    "spot_per_hour": 0.4,
    "date": "2026-11-22",
    "source": "list price",
}


def test_cost_is_the_price_of_the_time_that_the_images_take():
    # 3.6 USD per hour are 0.001 USD per second; 2 images per second; 1,000 images take 500 s.
    found = cost.usd_per_1000_images(3.6, Estimate(2.0, 1.6, 2.5))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.4, 0.625))


def test_half_the_utilisation_costs_twice_as_much():
    full, half = (cost.usd_per_1000_images(3.6, Estimate(2.0), u).value for u in (1.0, 0.5))
    assert half == pytest.approx(2 * full)
    with pytest.raises(ValueError, match="utilisation"):
        cost.usd_per_1000_images(3.6, Estimate(2.0), 0.0)


def test_what_was_not_measured_has_no_cost():
    assert cost.usd_per_1000_images(None, Estimate(2.0)) is None
    assert cost.usd_per_1000_images(3.6, None) is None
    assert cost.usd_per_1000_images(3.6, Estimate(0.0)) is None


def test_a_throughput_that_may_be_nothing_gives_no_interval():
    assert cost.usd_per_1000_images(3.6, Estimate(2.0, -0.1, 4.1)) == Estimate(0.5)
    assert cost.usd_per_1000_images(3.6, Estimate(2.0)) == Estimate(0.5)


def test_a_price_is_read():
    price = cost.parse_price(PRICE)
    assert (price.on_demand_per_hour, price.spot_per_hour, price.date) == (1.006, 0.4, "2026-11-22")
    assert cost.parse_price(None) is None
    assert cost.parse_price({**PRICE, "spot_per_hour": None}).spot_per_hour is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"date": None}, "no date"),
        ({"source": ""}, "no source"),
        ({"currency": None}, "no currency"),
        ({"currency": "EUR"}, "EUR"),
        ({"on_demand_per_hour": 0.0}, "greater than 0"),
        ({"spot_per_hour": -1.0}, "greater than 0"),
        ({"spot_per_hour": float("nan")}, "greater than 0"),
    ],
)
def test_a_price_that_cannot_be_defended_is_refused(change, complaint):
    with pytest.raises(cost.PriceRefused, match=complaint):
        cost.parse_price({**PRICE, **change})
