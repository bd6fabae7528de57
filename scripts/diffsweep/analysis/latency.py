"""Latency records -> figures: quantiles, ratios to the baseline, the clocks' break-down, warnings. Pure; in seconds."""

import math
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean

import numpy as np

from diffsweep.analysis import stats
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.records import LatencyRecord

QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
PARTS = (
    "queue_s",
    "prompt_encode_s",
    "setup_s",
    "steps_s",
    "decode_s",
    "image_encode_s",
    "transfer_s",
    "residual_s",
)
RESIDUAL_WARNING = 0.02  # METHOD.md, "Clocks": a median residual above 2 % of end to end

Records = Sequence[LatencyRecord]


def measured(records: Records, role: str) -> list[LatencyRecord]:
    """The successful requests of one side, warm-up left out."""
    return [r for r in records if r.role == role and not r.warmup and r.status == "ok"]


def sampling_s(record: LatencyRecord) -> float | None:
    """All denoising steps of a request together; None for a request whose steps were not timed."""
    return math.fsum(record.step_s) if record.step_s else None


def step_s(record: LatencyRecord) -> float | None:
    """A request's mean time per step. (Steps of one request go together, so the request is the unit, not the step.)"""
    return math.fsum(record.step_s) / len(record.step_s) if record.step_s else None


def end_to_end_s(record: LatencyRecord) -> float | None:
    return record.e2e_s


KINDS = {"e2e": end_to_end_s, "sampling": sampling_s, "step": step_s}


def part_s(record: LatencyRecord, part: str) -> float | None:
    """One part of the end-to-end time (PARTS)."""
    return sampling_s(record) if part == "steps_s" else getattr(record, part)


def figures(replicates: Sequence[Records], kind: str) -> dict[str, Estimate | float | None]:
    """mean (interval between replicates), sd, max, and the quantiles that the number of requests allows.

    `replicates`: the measured requests of each replicate. A quantile below its minimum sample is None.
    """
    clock = KINDS[kind]
    groups = [[t for r in records if (t := clock(r)) is not None] for records in replicates]
    groups = [group for group in groups if group]
    everything = [t for group in groups for t in group]
    if not everything:
        return dict.fromkeys(("mean", "sd", "max", *QUANTILES))
    return {
        "mean": stats.replicate_interval([float(np.mean(group)) for group in groups]),
        "sd": stats.mean_and_deviation(everything)[1],
        "max": max(everything),
        **dict(zip(QUANTILES, stats.quantiles_over_replicates(groups, list(QUANTILES.values())), strict=True)),
    }


def median_s(replicates: Sequence[Records], role: str) -> float | None:
    """The median end-to-end time of one side's requests, all replicates together; None without any."""
    times = [r.e2e_s for records in replicates for r in measured(records, role)]
    return float(np.median(times)) if times else None


def withheld_quantiles(requests: int) -> str:
    """Which quantiles are not told for want of requests: "P95: n < 72; P99: n < 368"; empty when all are."""
    least = {name.upper(): stats.minimum_sample(q) for name, q in QUANTILES.items()}
    return "; ".join(f"{name}: n < {n}" for name, n in least.items() if requests < n)


def undisturbed_s(records: Records) -> float | None:
    """How long a request takes while nothing disturbs it: `stats.undisturbed` of each of its parts, added up.

    Part by part, each step by its place, since hardly a request is undisturbed from end to end. None without records.
    """
    return float(stats.undisturbed([parts_of(r) for r in records]).sum()) if records else None


def parts_of(record: LatencyRecord) -> list[float]:
    """Prompt encoding, every step, decoding, image encoding, and the rest; the whole where these were not timed."""
    known = [record.prompt_encode_s, *(record.step_s or [None]), record.decode_s, record.image_encode_s]
    return [record.e2e_s] if None in known else [*known, record.e2e_s - math.fsum(known)]


def log_ratio(records: Records) -> float | None:
    """What one replicate says of the speed-up: log(baseline / variant) of undisturbed times; None without both."""
    baseline_s, variant_s = (undisturbed_s(measured(records, role)) for role in ("baseline", "variant"))
    return None if baseline_s is None or variant_s is None else math.log(baseline_s / variant_s)


def typical_log_ratio(records: Records) -> float | None:
    """The same of what requests typically took, disturbances included: the median of the pairs' ratios."""
    ratios = block_log_ratios(records)
    return float(np.median(ratios)) if ratios else None


def block_log_ratios(records: Records) -> list[float]:
    """log(baseline / variant) of each pair of neighbouring blocks of one replicate, in order.

    Blocks 1 and 2 are a pair, 3 and 4, and so on: A B, B A. A block counts with the mean of its successful requests; a
    pair that lacks a side is left out.
    """
    ratios = []
    usable = sorted((r for r in records if not r.warmup and r.status == "ok"), key=lambda r: r.block)
    for _, pair in groupby(usable, key=lambda r: (r.block - 1) // 2):
        sides: dict[str, list[float]] = {"variant": [], "baseline": []}
        for record in pair:
            sides[record.role].append(record.e2e_s)
        if sides["variant"] and sides["baseline"]:
            ratios.append(math.log(fmean(sides["baseline"]) / fmean(sides["variant"])))
    return ratios


def breakdown(records: Records) -> dict[str, tuple[float, float]]:
    """Each part's mean (the means add up to the mean end-to-end time) and median; parts nobody timed are left out."""
    parts = {}
    for part in PARTS:
        times = [t for r in records if (t := part_s(r, part)) is not None]
        if times:
            parts[part] = (float(np.mean(times)), float(np.median(times)))
    return parts


def residual_share(records: Records) -> float | None:
    """The median share of the end-to-end time that no clock accounts for."""
    shares = [r.residual_s / r.e2e_s for r in records if r.residual_s is not None and r.e2e_s]
    return float(np.median(shares)) if shares else None


def warnings(replicates: Sequence[Records]) -> list[str]:
    """What a reader should know before believing the figures of one side; thresholds in METHOD.md."""
    told = []
    slow_starts = [r[0].replicate for r in replicates if stats.first_is_outlier([x.e2e_s for x in _in_order(r)])]
    if slow_starts:
        which = ", ".join(str(n) for n in slow_starts)
        told.append(f"the first measured request is an outlier (replicate {which}): the warm-up may be too short")
    everything = [r for records in replicates for r in records]
    if not everything:
        return told
    shared = stats.drift_share([np.log([r.e2e_s for r in _in_order(records)]) for records in replicates])
    if shared > stats.DRIFT_LIMIT:
        told.append("latency drifts while a replicate runs: P90, P95 and P99 have no interval")
    elif shared > stats.DRIFT_LIMIT_P99 and len(everything) >= stats.minimum_sample(QUANTILES["p99"]):
        told.append("latency drifts while a replicate runs: P99 has no interval")
    spread = stats.relative_spread([r.e2e_s for r in everything])
    if spread > stats.SPREAD_LOUD_WARNING:
        told.append(
            f"VERY noisy: the interquartile range is {spread:.0%} of the median; do not trust small differences"
        )
    elif spread > stats.SPREAD_WARNING:
        told.append(f"noisy: the interquartile range is {spread:.0%} of the median")
    residual = residual_share(everything)
    if residual is not None and abs(residual) > RESIDUAL_WARNING:
        told.append(f"the clocks do not add up: {residual:.1%} of the end-to-end time is unaccounted for")
    return told


def _in_order(records: Records) -> list[LatencyRecord]:
    return sorted(records, key=lambda r: r.order)
