"""Costs from sustained throughput and a defensible price."""

from datetime import date

import pytest

import synthetic
from diffsweep.analysis import cost, economy, summary
from diffsweep.analysis.cells import Replicate, read_cells
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


def test_a_server_pays_for_its_share_of_the_gpus():
    price = cost.parse_price({**PRICE, "on_demand_per_hour": 8.0, "spot_per_hour": None, "gpus": 8})
    assert (price.on_demand_per_hour, price.spot_per_hour) == (1.0, None)


@pytest.mark.parametrize(("day", "old"), [("2025-11-24", False), ("2025-11-23", True), ("2026-12-01", False)])
def test_a_price_is_old_after_a_year(day, old):
    assert cost.is_old(day, date(2026, 11, 24)) is old


def test_time_has_its_price():
    assert cost.usd_of_time(3.6, 500) == pytest.approx(0.5)
    assert cost.usd_of_time(None, 500) is cost.usd_of_time(3.6, None) is None


def test_what_is_paid_once_is_earned_back_by_what_an_image_costs_less():
    # 60 s more before the first image, 0.2 s (0.1 to 0.3) less for each of them.
    word, images = cost.payback(60.0, Estimate(0.2, 0.1, 0.3))
    assert (word, images.value) == (cost.AFTER, pytest.approx(300))
    assert (images.low, images.high) == pytest.approx((200, 600))
    assert cost.payback(0.0, Estimate(0.2, 0.1, 0.3)) == (cost.AT_ONCE, Estimate(0, 0, 0))
    assert cost.payback(-5.0, Estimate(0.2, 0.1, 0.3))[0] == cost.AT_ONCE
    assert cost.payback(60.0, Estimate(-0.2, -0.3, -0.1)) == (cost.NEVER, None)


def test_no_claim_that_it_pays_back_without_proof():
    assert cost.payback(60.0, Estimate(0.1, -0.1, 0.3)) == (cost.CANNOT_TELL, Estimate(600))
    assert cost.payback(60.0, Estimate(-0.1, -0.3, 0.1)) == (cost.CANNOT_TELL, None)
    assert cost.payback(60.0, Estimate(0.1)) == (cost.CANNOT_TELL, Estimate(600))
    assert cost.payback(None, Estimate(0.1)) == cost.payback(60.0, None) == (None, None)


# --- in the tables ---

FEW = {name: synthetic.DEFAULT_VARIANTS[name] for name in ("fp32", "openvino", "int8", "bf16")}


def rows_of(folder, **changes):
    """variant -> row of the summary, and the lines of cost.csv, from synthetic results."""
    plan = synthetic.make_plan(synthetic.make_variants(FEW), images=30, replicates=5)
    plan["protocol"] |= {
        "aa_replicates": 11,
        "load_replicates": 5,
    }  # as in the sweep, most of the baseline's have no load
    for key, value in changes.items():
        plan["targets"]["local"] = {**plan["targets"]["local"], key: value}
    sweep = synthetic.make_results(folder, plan, pictures=False)
    rows = summary.summarise(plan, list(read_cells(plan, sweep, sweep.parent / "artifacts")))
    return plan, {row["variant"]: row for row in rows}


def test_payback_is_found_from_results_of_known_truth(tmp_path):
    plan, rows = rows_of(tmp_path)
    truth = {v["name"]: synthetic.truth_of(v) for v in plan["variants"]}
    seconds = {name: t.latency_s(25) / t.parallel_gain for name, t in truth.items()}
    row = rows["openvino"]
    assert row["payback"] == cost.AFTER and row["export_s"] == synthetic.EXPORT_S
    extra_s = truth["openvino"].build_s + synthetic.EXPORT_S - truth["fp32"].build_s  # both start equally fast
    assert row["one_off_s"] - rows["fp32"]["one_off_s"] == pytest.approx(extra_s)
    expected = extra_s / (seconds["fp32"] - seconds["openvino"])
    assert row["payback_images_low"] < expected < row["payback_images_high"]
    assert row["payback_images"] == pytest.approx(expected, rel=0.1)
    assert rows["int8"]["payback"] == cost.NEVER and rows["int8"]["payback_images"] is None
    assert rows["bf16"]["payback"] in (cost.CANNOT_TELL, cost.AT_ONCE)  # it is 2 % faster, and built in no more time
    assert rows["fp32"]["payback"] is None and rows["fp32"]["export_s"] is None
    usd = plan["targets"]["local"]["price"]["spot_per_hour"] / 3600
    assert row["usd_build_spot"] == pytest.approx(usd * (truth["openvino"].build_s + synthetic.EXPORT_S))
    assert row["usd_cold_start_spot"] == pytest.approx(usd * row["first_image_s"])


def test_a_cold_start_is_one_of_a_server_that_the_variant_was_first_on():
    def replicate(first: str, start_s: float, first_image_s: float) -> Replicate:
        server = {"start_s": start_s, "first_image_s": first_image_s, "first_image_of": first}
        return Replicate(1, {"variant": "a", "servers": {"variant": server}}, [], [])

    shared = replicate("b", 7.0, 8.0)
    both = [shared, replicate("a", 3.0, 4.0)]
    assert [economy.cold_start_s(both, until) for until in ("start_s", "first_image_s")] == [7.0, 4.0]
    assert [economy.cold_start_s([shared], until) for until in ("start_s", "first_image_s")] == [7.0, 8.0]


def test_the_table_of_costs_has_every_utilisation_and_market(tmp_path):
    plan, rows = rows_of(tmp_path)
    row = rows["openvino"] | {"rate_within_objective_images_per_s": 2.0}
    lines = list(economy.cost_rows(plan, [row]))
    assert len(lines) == 2 * 2 * 4
    by = {(line["operating_point"], line["market"], line["utilisation"]): line for line in lines}
    full, half = by["peak", "on_demand", 1.0], by["peak", "on_demand", 0.5]
    assert full["usd_per_1000_images"] == row["usd_per_1000_images_on_demand"]
    assert half["usd_per_1000_images_high"] == pytest.approx(2 * full["usd_per_1000_images_high"])
    assert full["usd_per_image"] == pytest.approx(full["usd_per_1000_images"] / 1000)
    spot = by["objective", "spot", 1.0]
    price = plan["targets"]["local"]["price"]
    assert spot["usd_per_1000_images"] == pytest.approx(price["spot_per_hour"] / 3600 / 2.0 * 1000)
    assert (spot["price_date"], spot["price_region"], spot["reason"]) == (price["date"], price["region"], None)


def test_a_cost_that_is_not_known_has_its_reason(tmp_path):
    plan, rows = rows_of(tmp_path, price={**synthetic.LOCAL["price"], "spot_per_hour": None})
    lines = {(x["operating_point"], x["market"]): x for x in economy.cost_rows(plan, [rows["fp32"]])}
    assert "arrivals" in lines["objective", "on_demand"]["reason"]
    assert lines["peak", "spot"]["reason"] == "the price has no such market"
    assert lines["peak", "spot"]["usd_per_image"] is None and rows["fp32"]["usd_per_1000_images_objective_spot"] is None
    failed = rows["fp32"] | {"images_per_s": None, "reason": "convert: parity"}
    assert {x["reason"] for x in economy.cost_rows(plan, [failed])} == {"convert: parity"}


def test_costs_at_the_objective_are_columns_of_the_summary(tmp_path):
    plan, rows = rows_of(tmp_path)
    cells = list(read_cells(plan, tmp_path / "results/default", tmp_path / "results/artifacts"))
    known = {"rate_within_objective_images_per_s": 2.0, "rate_within_objective_images_per_s_low": 1.6}
    known |= {"rate_within_objective_images_per_s_high": 2.5}
    price = cost.parse_price(plan["targets"]["local"]["price"])
    baseline = economy.baseline_of(cells[0], summary.levels_of(plan, cells[0]))
    levels = summary.levels_of(plan, cells[1])
    found = economy.economy_fields(cells[1], levels, rows["openvino"] | known, price, baseline)
    full = price.on_demand_per_hour / 3600 / 2.0 * 1000
    assert found["usd_per_1000_images_objective_on_demand"] == pytest.approx(full)
    assert found["usd_per_1000_images_objective_on_demand_low"] == pytest.approx(full * 2 / 2.5)
