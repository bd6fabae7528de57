"""The report's section on costs: the tables, the price behind them with its age, and what the picture says."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from diffsweep.analysis.cost import AFTER, AT_ONCE, UTILISATIONS, is_old
from diffsweep.analysis.economy import why_no_objective
from diffsweep.show import cost_plot, table, words
from diffsweep.show.cells import Cell, triple, why_missing
from diffsweep.show.findings import COST, Row, is_baseline, is_ok
from diffsweep.show.sentences import measured, surely_below
from diffsweep.show.table import Column, TableCell

SPOT = "usd_per_1000_images_spot"
OBJECTIVE = "usd_per_1000_images_objective"


def section(cell: Cell, now_unix_s: float) -> dict:
    """What the template needs: the price's alarm or "", the tables, and notes below them."""
    price = cell.plan["targets"][cell.target].get("price")
    return {
        "alarm": age_alarm(price, now_unix_s),
        "price": price_words(price) if price else "n/a: the target has no price.",
        "tables": [
            table.table(cell.rows, by_utilisation(), f"Cost per 1,000 images of {cell.name}"),
            table.table(cell.rows, ONCE, f"What is paid once, {cell.name}"),
        ],
        "notes": NOTES,
    }


NOTES = (
    "Per image: the hourly price over the images that one busy server makes in an hour, never 1 / latency; at 50 % "
    "utilisation half of the paid time is idle. Intervals are the throughput's.",
    "Within the objective: at the highest rate of arrivals whose P95 stays within the latency objective, if that was "
    "searched for.",
    "Pays back: after how many images a variant has earned back its build (calibration and compilation included), the "
    "ONNX export where it needs one, and one cold start, less what the baseline takes for the same, by what each image "
    "takes less machine time at full utilisation. The price cancels. “Cannot tell”: it is not shown that an image "
    "costs less.",
)


# --- the price ------------------------------------------------------------------------------------------------------

RATES = {"on_demand_per_hour": "on demand", "spot_per_hour": "spot"}


def price_words(price: Mapping) -> str:
    """Instance, rates, region, date and source of a price, in one sentence each."""
    gpus = price.get("gpus") or 1
    rates = [f"{words.money(price[key])} an hour {label}" for key, label in RATES.items() if price.get(key) is not None]
    missing = [label for key, label in RATES.items() if price.get(key) is None]
    parts = [f"{price.get('instance') or 'an instance'}: {', '.join(rates)}"]
    parts += [f"a server uses one of its {gpus} GPUs and is charged that share"] if gpus > 1 else []
    parts += [f"no {' and no '.join(missing)} price"] if missing else []
    return f"{'; '.join(parts)}. {price.get('region', '')}, as of {price.get('date')}. Source: {price.get('source')}."


def age_alarm(price: Mapping | None, now_unix_s: float) -> str:
    """What to say of a price that was read more than a year ago; empty for a younger one."""
    today = datetime.fromtimestamp(now_unix_s, UTC).date()
    if not price or not is_old(price["date"], today):
        return ""
    return (
        f"It is as of {price['date']}, more than a year before this report. Put in what you pay, with its date and "
        "source (config/prices.yaml or config/targets.yaml): only the tables are computed again."
    )


# --- the tables -----------------------------------------------------------------------------------------------------


def no_cost(row: Row, market: str = "on_demand", objective: bool = False) -> str:
    if words.missing(row.get(f"usd_per_hour_{market}")):
        return table.no_cost(row) if market == "on_demand" else "no spot price"
    return why_no_objective(row) if objective else table.no_cost(row)


def at_utilisation(value: float, utilisation: float) -> str:
    return words.money(value / utilisation)


def by_utilisation() -> tuple[Column, ...]:
    """A column per market and utilisation."""
    columns = [table.NAME]
    for market, key, name in (("on_demand", COST, "on demand"), ("spot", SPOT, "spot")):
        for utilisation in UTILISATIONS:
            share = f"{utilisation * 100:.0f} %"
            columns.append(
                Column(
                    f"{name} {share}",
                    f"US dollars per 1,000 images, {name}, when the server is busy {share} of the time that is paid",
                    key,
                    partial(at_utilisation, utilisation=utilisation),
                    interval=True,
                    why=partial(no_cost, market=market),
                )
            )
    return tuple(columns)


def payback_words(row: Row) -> str:
    """ "after 1,230 images", "at once", "never", "cannot tell", or "" for the baseline and where it is not known."""
    if row.get("payback") != AFTER:
        return row.get("payback") or ""
    return f"after {images(row['payback_images'])}"


def images(value: float) -> str:
    return words.count(max(1, round(value)), "image")


def payback_cell(row: Row) -> TableCell:
    said = payback_words(row)
    if not said:
        why = "the baseline" if is_baseline(row) else "not measured" if is_ok(row) else why_missing(row)
        return TableCell(words.NOT_MEASURED, why=why, short=words.shorten(why, 28))
    low, high = row.get("payback_images_low"), row.get("payback_images_high")
    between = f"{images(low).split()[0]} to {images(high)}" if row["payback"] == AFTER and low and high else ""
    known = {AFTER: row.get("payback_images"), AT_ONCE: 0.0}.get(row["payback"])
    return TableCell(said, between, sort="" if words.missing(known) else repr(float(known)))


ONCE = (
    table.NAME,
    Column(
        "objective, on demand",
        "US dollars per 1,000 images at the highest rate whose P95 stays within the objective",
        f"{OBJECTIVE}_on_demand",
        words.money,
        interval=True,
        why=partial(no_cost, objective=True),
    ),
    Column(
        "objective, spot",
        "the same at the spot price",
        f"{OBJECTIVE}_spot",
        words.money,
        interval=True,
        why=partial(no_cost, market="spot", objective=True),
    ),
    Column("build", "time to build the artifact, calibration and compilation included", "build_s", words.seconds),
    Column("export", "time of the ONNX export it starts from", "export_s", words.seconds, why=lambda row: "needs none"),
    Column("build, $", "the price of both, on demand", "usd_build_on_demand", words.money),
    Column("first image", "a cold start: from nothing to the first image", "first_image_s", words.seconds),
    Column("start, $", "the price of one cold start, on demand", "usd_cold_start_on_demand", words.money),
    Column(
        "saved an image",
        "machine time per image less than the baseline's, at the sustained throughput",
        "saved_s_per_image",
        words.seconds,
        interval=True,
        first="descending",
        why=lambda row: "the baseline" if is_baseline(row) else "not measured",
    ),
    Column("pays back", "after how many images it has earned back what it takes once", "payback", cell=payback_cell),
)


# --- the picture ----------------------------------------------------------------------------------------------------


def entries(cell: Cell) -> list[cost_plot.Cost]:
    """The variants for the picture, the cheapest first; those without a cost at the end."""

    def order(row: Row) -> tuple:
        return (not measured([row], COST) and not measured([row], SPOT), row.get(COST) or row.get(SPOT) or 0)

    nothing = (float("nan"),) * 3
    return [
        cost_plot.Cost(
            row["variant"],
            row["engine"],
            *(triple(row, key) if is_ok(row) else nothing for key in (COST, SPOT, f"{OBJECTIVE}_on_demand")),
            payback_words(row) if not is_baseline(row) else "the baseline",
            why_missing(row) if not is_ok(row) else no_cost(row),
            is_baseline(row),
        )
        for row in sorted(cell.rows, key=order)
    ]


def finding(rows: Sequence[Row]) -> str:
    """What the costs say: the cheapest variant, whether that is shown, and when it has paid for itself."""
    known = measured(rows, COST)
    if not known:
        return "No cost is known: there is no price, or no throughput"
    best = min(known, key=lambda r: r[COST])
    said = f"{best['variant']} makes 1,000 images for {words.money(best[COST])} on demand"
    baseline = next((row for row in known if is_baseline(row)), None)
    if baseline is None or best is baseline:
        return said if baseline is None else f"{said}; no variant is cheaper"
    if not surely_below(best, baseline, COST):
        return f"{said}; that it is cheaper than {baseline['variant']} ({words.money(baseline[COST])}) is not shown"
    said += f", {words.percent(1 - best[COST] / baseline[COST])} less than {baseline['variant']}"
    back = payback_words(best)
    return f"{said}, and has paid for its build {back}" if best.get("payback") in (AFTER, AT_ONCE) else said
