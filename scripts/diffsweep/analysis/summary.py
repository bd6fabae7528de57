"""Cells -> the summary: one row per model x target x variant (the contract is in DESIGN.md).

An empty field means not measured; `reason` says why. Pure but for the records that `cells` has read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from diffsweep.analysis import batching, cost, economy, latency, load, pareto, stats, verdicts
from diffsweep.analysis.arrivals import arrivals_fields
from diffsweep.analysis.cells import OK, STALE, Cell
from diffsweep.analysis.columns import FID_MARGIN, Row, estimate_in, fid_margin, put, quality_fields
from diffsweep.analysis.resources import resource_fields
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.records import LatencyRecord
from diffsweep.sweep.variants import say

PARETO = {
    "latency_fid": ("latency_e2e_p50_s", "fid"),
    "cost_fid": ("usd_per_1000_images_on_demand", "fid"),
    "latency_cost": ("latency_e2e_p50_s", "usd_per_1000_images_on_demand"),
    "latency_cost_fid": ("latency_e2e_p50_s", "usd_per_1000_images_on_demand", "fid"),
}

# Objective -> the columns of the interval that it is compared by, where these are not its own.
IN_PAIRS = {"fid": "fid_in_pairs"}


@dataclass(frozen=True)
class Reference:
    """What the cells of one model on one target are judged by: its baseline and its A/A test."""

    aa: Estimate | None
    noise_floor: float | None
    threshold: float | None
    host_unfit: str
    images_per_s: Sequence[float]
    fid_margin: float | None
    economy: economy.Baseline


def summarise(plan: Mapping, cells: Sequence[Cell]) -> list[Row]:
    """All rows, in the order of the cells."""
    rows: list[Row] = []
    for group in by_target(cells):
        reference = reference_of(plan, group)
        own = [row_of(plan, cell, levels_of(plan, cell), reference) for cell in group]
        mark_fronts(own)
        rows += own
    return rows


def by_target(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells of one model on one target, together."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.model, cell.target), []).append(cell)
    yield from groups.values()


def reference_of(plan: Mapping, group: Sequence[Cell]) -> Reference:
    """The A/A test of one model on one target, from the baseline's own job."""
    baseline = next(cell for cell in group if cell.name == plan["baseline"])
    aa = speedup_of(baseline)
    floor = verdicts.noise_floor(aa)
    levels = levels_of(plan, baseline)
    level = load.sustained(levels)
    return Reference(
        aa=aa,
        noise_floor=floor,
        threshold=verdicts.threshold(floor),
        host_unfit=verdicts.unfit_sentence(aa),
        images_per_s=level.rates if level else (),
        fid_margin=fid_margin(
            estimate_in((baseline.quality or {}).get("fid")), plan["quality"].get("fid_margin", FID_MARGIN)
        ),
        economy=economy.baseline_of(baseline, levels),
    )


def levels_of(plan: Mapping, cell: Cell) -> list[load.Level]:
    """The load levels of a cell, against the sweep's objective where it has one."""
    return load.levels_of(cell.loads, plan["protocol"].get("objective_s"))


def row_of(plan: Mapping, cell: Cell, levels: Sequence[load.Level], reference: Reference) -> Row:
    row = {
        **identity_fields(plan, cell),
        **latency_fields(cell),
        **speedup_fields(plan, cell, reference),
        **capacity_fields(plan, cell, levels, reference),
        **arrivals_fields(cell.searches),
        **artifact_fields(cell),
        **quality_fields(cell.quality or {}, reference.fid_margin),
        **useful_fields(cell),
    }
    row |= resource_fields(cell, row["sustained_clients"], row.pop("request_error"))
    price, _ = price_of(plan["targets"][cell.target])
    row |= economy.economy_fields(cell, levels, row, price, reference.economy)
    told = [row.pop(f"{part}_warnings") for part in ("latency", "speedup", "capacity", "arrivals")]
    row["warnings"] = "; ".join(sum(told, batching.warnings(cell)))
    return row


def identity_fields(plan: Mapping, cell: Cell) -> Row:
    variant = cell.variant
    return {
        "model": cell.model,
        "target": cell.target,
        "variant": cell.name,
        "parent": variant["parent"],
        "change": variant["change"],
        **{axis: variant[axis] for axis in ("engine", "precision", "compile", "scheduler", "steps", "guidance")},
        "batching": say(variant.get("batching")),
        "baseline": cell.name == plan["baseline"],
        "status": cell.status,
        "reason": cell.reason or None,
        "machine": cell.machine,
    }


# --- latency --------------------------------------------------------------------------------------------------------


def latency_fields(cell: Cell) -> Row:
    ours = [latency.measured(r.latency, "variant") for r in cell.replicates]
    everything = [r for records in ours for r in records]
    row: Row = {"replicates": len(cell.replicates), "requests": len(everything)}
    for kind in latency.KINDS:
        figures = latency.figures(ours, kind)
        for name in ("mean", "p50", "p90", "p95", "p99"):
            put(row, f"latency_{kind}_{name}_s", figures[name])
        row[f"latency_{kind}_sd_s"], row[f"latency_{kind}_max_s"] = figures["sd"], figures["max"]
    row["quantiles_withheld"] = latency.withheld_quantiles(len(everything)) or None
    parts = latency.breakdown(everything)
    for part in latency.PARTS:
        mean, median = parts.get(part, (None, None))
        row[f"clock_{part.removesuffix('_s')}_mean_s"] = mean
        row[f"clock_{part.removesuffix('_s')}_p50_s"] = median
    row["residual_share"] = latency.residual_share(everything)
    row["warmup"] = max((r.notes.get("warmup", 0) for r in cell.replicates), default=None)
    row["disturbed_blocks"] = sum(len(r.notes.get("disturbed_blocks", ())) for r in cell.replicates)
    row["repeated_pairs"] = sum(r.notes.get("repeats", {}).get("repeated", 0) for r in cell.replicates)
    row["latency_warnings"] = latency.warnings([records for records in ours if records]) + disturbances(cell)
    return row


def disturbances(cell: Cell) -> list[str]:
    """What was not quiet: blocks and load levels that stayed disturbed, after as many repeats as are allowed."""
    blocks = sum(len(r.notes.get("disturbed_blocks", ())) for r in cell.replicates)
    levels = sum(bool(level.get("disturbed")) for r in cell.replicates for level in r.notes.get("levels", ()))
    counts = ((blocks, "block of requests", "blocks of requests"), (levels, "load level", "load levels"))
    told = [f"the machine was not quiet during {n} {one if n == 1 else many}" for n, one, many in counts if n]
    return told + ([verdicts.TOO_DISTURBED] if verdicts.is_too_disturbed(repeats_of(cell)) else [])


def repeats_of(cell: Cell) -> list[Mapping]:
    """What its replicates noted of their pairs of blocks, as `verdicts` takes it."""
    return [r.notes["repeats"] for r in cell.replicates if "repeats" in r.notes]


def speedup_of(cell: Cell) -> Estimate | None:
    """The speed-up over the baseline from this cell's own pairs; for the baseline's cell this is the A/A test."""
    return _over_replicates(cell, latency.log_ratio)


def _over_replicates(cell: Cell, log_ratio_of: Callable[[Sequence[LatencyRecord]], float | None]) -> Estimate | None:
    ratios = [ratio for r in cell.replicates if (ratio := log_ratio_of(r.latency)) is not None]
    return stats.speedup(ratios) if ratios else None


def speedup_fields(plan: Mapping, cell: Cell, reference: Reference) -> Row:
    row: Row = {}
    ratio, typical = speedup_of(cell), _over_replicates(cell, latency.typical_log_ratio)
    put(row, "speedup", ratio)
    put(row, "speedup_typical", typical)
    row["speedup_baseline_p50_s"] = latency.median_s([r.latency for r in cell.replicates], role="baseline")
    row["speedup_warnings"] = speedup_warnings(ratio, typical)
    verdict = verdicts.of_speedup(ratio, reference.threshold, reference.host_unfit, repeats_of(cell))
    row["verdict"] = verdict if ratio is not None else None
    row["noise_floor"], row["threshold"] = reference.noise_floor, reference.threshold
    row["host_unfit"] = reference.host_unfit or None
    return row


def speedup_warnings(undisturbed: Estimate | None, typical: Estimate | None) -> list[str]:
    """Do the fast requests and the typical ones tell different speed-ups? Then one side's times vary more."""
    if undisturbed is None or typical is None or undisturbed.low is None or typical.low is None:
        return []
    if typical.low <= undisturbed.high and undisturbed.low <= typical.high:
        return []
    more, factor = ("more" if typical.value < undisturbed.value else "less"), f"{typical.value:.2f}"
    return [
        f"its times vary {more} than the baseline's: typical requests tell a speed-up of {factor} "
        f"({typical.low:.2f} to {typical.high:.2f}), undisturbed ones another"
    ]


# --- capacity and cost ----------------------------------------------------------------------------------------------


def capacity_fields(plan: Mapping, cell: Cell, levels: Sequence[load.Level], reference: Reference) -> Row:
    level = load.sustained(levels)
    rate = level.images_per_s if level else None
    knee = load.knee(levels)
    row: Row = {"sustained_clients": level.clients if level else None}
    row["request_error"] = level.request_error if level else None
    row["knee_clients"] = knee.clients if knee else None
    put(row, "images_per_s", rate)
    put(row, "requests_per_s", level.requests_per_s if level else None)
    # Not from pairs: the two throughputs were measured at different times, and the interval says so.
    ratio = stats.ratio_interval(level.rates, reference.images_per_s) if level else None
    put(row, "capacity_speedup", None if cell.name == plan["baseline"] else ratio)
    price, refused = price_of(plan["targets"][cell.target])
    for market in ("on_demand", "spot"):
        per_hour = getattr(price, f"{market}_per_hour") if price else None
        row[f"usd_per_hour_{market}"] = per_hour
        put(row, f"usd_per_1000_images_{market}", cost.usd_per_1000_images(per_hour, rate))
    row["capacity_warnings"] = load.warnings(levels) + refused
    return row


def price_of(target: Mapping) -> tuple[cost.Price | None, list[str]]:
    """The target's price, or why it was refused."""
    try:
        return cost.parse_price(target.get("price")), []
    except cost.PriceRefused as refusal:
        return None, [f"no cost: {refusal}"]


# --- the artifact and its processes ---------------------------------------------------------------------------------


def artifact_fields(cell: Cell) -> Row:
    manifest = cell.manifest or {}
    parity, census = manifest.get("parity") or {}, manifest.get("census") or {}
    servers = [server for r in cell.replicates if (server := r.notes.get("servers", {}).get("variant"))]

    return {
        "peak_memory_bytes": max((s["peak_memory_bytes"] for s in servers if s.get("peak_memory_bytes")), default=None),
        "artifact_bytes": manifest.get("artifact_bytes"),
        "build_s": manifest.get("build_s"),
        "build_peak_memory_bytes": manifest.get("peak_memory_bytes"),
        "start_s": economy.cold_start_s(cell.replicates, until="start_s"),
        "first_image_s": economy.cold_start_s(cell.replicates),
        "parity_denoiser_relative_error": parity.get("denoiser_relative_error"),
        "parity_image_psnr_db": parity.get("image_psnr_db"),
        "census": census.get("detail"),
    }


# --- the whole ------------------------------------------------------------------------------------------------------


def useful_fields(cell: Cell) -> Row:
    """Seconds spent in measured requests (both sides), load levels and making images: what a sweep's time is for. And
    the runs that did it. Of the baseline's requests that variants were to share, each has its part."""
    requests_s = sum(
        record.e2e_s / (replicate.notes.get("baseline_shared_by", 1) if role == "baseline" else 1)
        for replicate in cell.replicates
        for role in ("variant", "baseline")
        for record in latency.measured(replicate.latency, role)
    )
    levels_s = 0.0
    for replicate in cell.replicates:
        for clients in {r.level for r in replicate.capacity}:
            levels_s += load.elapsed_s([r for r in replicate.capacity if r.level == clients])
    images_s = (cell.images or {}).get("seconds") or 0.0
    parts = {"useful_requests_s": requests_s, "useful_levels_s": levels_s, "useful_images_s": images_s}
    documents = [*(replicate.notes for replicate in cell.replicates), cell.images or {}]
    runs = sorted({run for document in documents if (run := document.get("run"))})
    return {**parts, "useful_s": sum(parts.values()), "runs": " ".join(runs)}


def note_fid_in_pairs(rows: Sequence[Row]) -> None:
    """Add the interval by which a variant's FID is set beside others': the baseline's FID and the paired difference.

    All variants have the same prompts, seeds and reference images. What these happen to be moves every FID alike, fills
    the interval of `fid`, and says nothing about which variant has the better images.
    """
    baseline = next((row["fid"] for row in rows if row["baseline"]), None)
    for row in rows:
        ends = (0.0, 0.0) if row["baseline"] else ends_of(row, "fid_difference")
        known = None not in (baseline, row["fid"], *ends)
        row["fid_in_pairs_low"], row["fid_in_pairs_high"] = (
            (baseline + ends[0], baseline + ends[1]) if known else ends_of(row, "fid")
        )


def ends_of(row: Row, column: str) -> tuple[float | None, float | None]:
    return row[f"{column}_low"], row[f"{column}_high"]


def mark_fronts(rows: Sequence[Row]) -> None:
    """Add to each row whether it competes, whether it is on the fronts, and whether another one surely beats it."""
    note_fid_in_pairs(rows)
    compete = competing(rows)
    for row, competes in zip(rows, compete, strict=True):
        row["competes"] = competes
    for name, objectives in PARETO.items():
        points = [[row[o] if row["competes"] else None for o in objectives] for row in rows]
        intervals = [
            [ends_of(row, IN_PAIRS.get(o, o)) if row["competes"] else (None, None) for o in objectives] for row in rows
        ]
        fronts, beaten = pareto.front(points), pareto.surely_dominated(intervals)
        for row, on_front, is_beaten, point in zip(rows, fronts, beaten, points, strict=True):
            whole = pareto.whole(point)
            row[f"pareto_{name}"] = on_front if whole else None
            row[f"beaten_{name}"] = is_beaten if whole else None


def competing(rows: Sequence[Row]) -> list[bool]:
    """Which rows may stand beside each other: those that ended well.

    Where none did and all is stale, those from the baseline's machine: a sweep that was brought from another machine
    keeps its fronts.
    """
    if any(row["status"] == OK for row in rows):
        return [row["status"] == OK for row in rows]
    machine = next((row["machine"] for row in rows if row["baseline"]), None)
    return [row["status"] == STALE and machine is not None and row["machine"] == machine for row in rows]
