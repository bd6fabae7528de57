"""What a variant costs, as columns of the summary and as tables/cost.csv: per image, per start, once.

Two operating points: `peak`, the sustained throughput, and `objective`, the highest rate of arrivals whose P95 stays
within the objective, where that was searched for. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from diffsweep.analysis import cost, load, stats
from diffsweep.analysis.cells import Cell, Replicate
from diffsweep.analysis.columns import Row, put
from diffsweep.analysis.cost import MARKETS, UTILISATIONS, Price
from diffsweep.analysis.stats import Estimate
from diffsweep.engines import ENGINES

# Operating point -> its rate among the summary's columns, and the columns of the cost that it leads to.
RATES = {"peak": "images_per_s", "objective": "rate_within_objective_images_per_s"}
COSTS = {"peak": "usd_per_1000_images", "objective": "usd_per_1000_images_objective"}


def start_and_build_s(cell: Cell) -> tuple[float | None, float | None]:
    """(first start to first image, everything that is done once before it), in seconds; None where not measured.

    Once: the conversion, calibration and compilation included, and the ONNX export where the engine starts from one.
    """
    build_s = (cell.manifest or {}).get("build_s")
    export_s = export_seconds(cell)
    once_s = None if build_s is None or export_s is None else build_s + export_s
    return cold_start_s(cell.replicates), once_s


def cold_start_s(replicates: Sequence[Replicate], until: str = "first_image_s") -> float | None:
    """Seconds from the start of the variant's server to its first image, or `until` it was ready ("start_s"); the
    slowest replicate's.

    Where variants took turns on a server, the first of them had its first image; those replicates count. A variant that
    never went first has that of the server, whose first image another one asked for.
    """
    found = [(r.notes.get("variant"), r.notes.get("servers", {}).get("variant") or {}) for r in replicates]
    own = [server for variant, server in found if server.get("first_image_of", variant) == variant]
    servers = own if own and until == "first_image_s" else [server for _, server in found]
    return max((s for server in servers if (s := server.get(until))), default=None)


def export_seconds(cell: Cell) -> float | None:
    """The ONNX export's time: 0 for an engine that needs none, None where it was not measured."""
    if not ENGINES[cell.variant["engine"]].from_onnx:
        return 0.0
    return (cell.export or {}).get("build_s")


def one_off_s(cell: Cell) -> float | None:
    """The machine time before the first image can be sold: build and one cold start."""
    first_image_s, once_s = start_and_build_s(cell)
    return None if first_image_s is None or once_s is None else first_image_s + once_s


def seconds_per_image(levels: Sequence[load.Level]) -> list[float]:
    """Machine time per image at the sustained level, one value per replicate that was put under load."""
    level = load.sustained(levels)
    return [1 / rate for rate in level.rates] if level else []


@dataclass(frozen=True)
class Baseline:
    """What the variants of one model on one target are set against: see `one_off_s` and `seconds_per_image`."""

    name: str
    one_off_s: float | None
    seconds_per_image: Sequence[float]


def baseline_of(cell: Cell, levels: Sequence[load.Level]) -> Baseline:
    return Baseline(cell.name, one_off_s(cell), seconds_per_image(levels))


def economy_fields(
    cell: Cell, levels: Sequence[load.Level], row: Mapping, price: Price | None, baseline: Baseline
) -> Row:
    """The columns about costs beyond those of the peak; `row`: the summary's columns so far."""
    found: Row = {}
    for market in MARKETS:
        rate = estimate_of(row, RATES["objective"])
        put(found, f"{COSTS['objective']}_{market}", cost.usd_per_1000_images(rate_of(price, market), rate))
    first_image_s, once_s = start_and_build_s(cell)
    found["export_s"] = export_seconds(cell) if ENGINES[cell.variant["engine"]].from_onnx else None
    found["one_off_s"] = one_off_s(cell)
    for market in MARKETS:
        found[f"usd_build_{market}"] = cost.usd_of_time(rate_of(price, market), once_s)
        found[f"usd_cold_start_{market}"] = cost.usd_of_time(rate_of(price, market), first_image_s)
    saved_s, answer, images = None, None, None
    if cell.name != baseline.name:
        saved_s = stats.difference_interval(baseline.seconds_per_image, seconds_per_image(levels))
        answer, images = cost.payback(difference(one_off_s(cell), baseline.one_off_s), saved_s)
    put(found, "saved_s_per_image", saved_s)
    found["payback"] = answer
    put(found, "payback_images", images)
    return found


def rate_of(price: Price | None, market: str) -> float | None:
    return getattr(price, f"{market}_per_hour") if price else None


def difference(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


def estimate_of(row: Mapping, column: str) -> Estimate | None:
    """A value of the summary with its interval; None where it was not measured, or this sweep has no such column."""
    value = row.get(column)
    return None if value is None else Estimate(value, row.get(f"{column}_low"), row.get(f"{column}_high"))


def cost_rows(plan: Mapping, rows: Sequence[Mapping]) -> Iterator[Row]:
    """tables/cost.csv: a line per model x target x variant x operating point x market x utilisation."""
    for row in rows:
        price = plan["targets"][row["target"]].get("price") or {}
        for point, column in RATES.items():
            rate = estimate_of(row, column)
            for market in MARKETS:
                per_hour = row[f"usd_per_hour_{market}"]
                for utilisation in UTILISATIONS:
                    line: Row = {key: row[key] for key in ("model", "target", "variant")}
                    line |= {"operating_point": point, "market": market, "utilisation": utilisation}
                    line |= {f"price_{key}": price.get(key) for key in ("instance", "region", "date")}
                    line["usd_per_hour"] = per_hour
                    put(line, "images_per_s", rate)
                    found = cost.usd_per_1000_images(per_hour, rate, utilisation)
                    put(line, "usd_per_1000_images", found)
                    put(line, "usd_per_image", found.scaled(1 / cost.IMAGES) if found else None)
                    yield {**line, "reason": why_no_cost(row, point, per_hour, rate)}


def why_no_cost(row: Mapping, point: str, per_hour: float | None, rate: Estimate | None) -> str | None:
    if rate is None:
        return row["reason"] or ("no valid load level" if point == "peak" else why_no_objective(row))
    return "the price has no such market" if per_hour is None else None


def why_no_objective(row: Mapping) -> str:
    """Why there is no highest rate within the objective."""
    return "see `snakemake arrivals`" if row.get("arrivals_runs") is None else "no rate stayed within the objective"
