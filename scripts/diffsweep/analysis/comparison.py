"""What an update did to one variant: its results in an old and in a new state, with verdicts. Pure.

Speed is compared through the baseline: each state's speed-up comes from pairs against the same baseline, so that a
machine that is slower today, as a whole, does not look like an update. Where the baseline was updated too, there is no
such common measure: then the variant's own latencies are compared, which are not paired, and the report says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffsweep.analysis import columns, latency, stats, verdicts
from diffsweep.analysis.cells import Cell, Replicate
from diffsweep.analysis.stats import Estimate
from diffsweep.analysis.verdicts import CANNOT_TELL, IMPROVED, REGRESSED, WITHIN_NOISE
from diffsweep.quality import frechet
from diffsweep.quality.resampling import EQUIVALENT, bootstrap_mean, equivalence, prompt_groups

PAIRED, NOT_PAIRED = "paired", "not paired"

# The paired jackknife of FID takes 50 x 2 eigenvalue problems of this width: seconds at 256, many minutes at 2,048.
WIDEST_PAIRED = 256


@dataclass(frozen=True)
class Limits:
    """The least relative changes that get a verdict; each is raised to what the noise allows.

    speed: of the speed-up; unpaired: of a latency, measured at another time, of which the interval does not know how
    fast the machine was then (this project's own rule); fid: of the old FID; memory, size: of the old number of bytes.
    clip_score: in points of the score; None: the plan's margin.
    """

    speed: float = verdicts.LEAST_THRESHOLD
    unpaired: float = 0.10
    clip_score: float | None = None
    fid: float = columns.FID_MARGIN
    memory: float = verdicts.LEAST_THRESHOLD
    size: float = verdicts.LEAST_THRESHOLD


@dataclass(frozen=True)
class Ground:
    """What the two states of a variant can be compared on.

    other_machine, other_baseline, unfit: why speed cannot be compared (in pairs); empty where it can. threshold: the
    least change of a speed-up that the A/A tests of both states let pass; None without them.
    """

    is_baseline: bool
    other_machine: str
    other_baseline: str
    unfit: str
    threshold: float | None


@dataclass(frozen=True)
class Speed:
    """ratio: how many times as fast as before. before, now: speed-ups where paired, else seconds per request.

    limit: what the whole interval must lie beyond; why: what a reader must know, the reason where nothing is told.
    """

    verdict: str
    basis: str = PAIRED
    ratio: Estimate | None = None
    before: Estimate | None = None
    now: Estimate | None = None
    limit: float | None = None
    why: str = ""

    @property
    def comparable(self) -> bool:
        return self.ratio is not None


@dataclass(frozen=True)
class Quality:
    """The images now against those before, of the same prompts and seeds. clip, fid: differences, now - before.

    images: how many were compared; identical: how many of them are the same, bit by bit.
    """

    verdict: str
    images: int = 0
    identical: int = 0
    clip: Estimate | None = None
    clip_margin: float | None = None
    fid: Estimate | None = None
    fid_margin: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Amount:
    """Bytes before and now. change: relative; limit: what it must exceed. verdict: None where one is missing,
    or the noise is unknown."""

    before: float | None
    now: float | None
    limit: float
    verdict: str | None

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.now is None else self.now / self.before - 1


@dataclass(frozen=True)
class Images:
    """The images of one state, as far as they are kept: prompt, seed, digest, CLIP score, features (n, d) of each.

    fid: of all of them; scorers: digests of the models that scored them.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    digests: Sequence[str]
    clip_scores: Sequence[float | None]
    features: np.ndarray
    fid: Estimate | None
    scorers: Mapping

    def positions(self) -> dict[tuple[str, int], int]:
        pairs = zip(self.prompts, self.seeds, strict=True)
        return {pair: index for index, pair in enumerate(pairs)}


# --- speed ----------------------------------------------------------------------------------------------------------


def speed(old: Sequence[Replicate], new: Sequence[Replicate], ground: Ground, limits: Limits) -> Speed:
    """The change of speed, in pairs where both states were measured against the same baseline."""
    if ground.unfit or ground.other_machine:
        return Speed(CANNOT_TELL, why=ground.unfit or ground.other_machine)
    if ground.is_baseline or ground.other_baseline:
        why = ground.other_baseline or "the baseline itself: there is nothing to pair it with"
        return _unpaired(old, new, ground, limits, why)
    before, now = _speedups(old), _speedups(new)
    ratio = stats.ratio_interval(now, before)
    limit = _at_least(limits.speed, ground.threshold)
    why = "" if ratio else "a state lacks pairs of blocks"
    return Speed(verdicts.verdict(ratio, limit), PAIRED, ratio, _mean_ratio(before), _mean_ratio(now), limit, why)


def _unpaired(old: Sequence[Replicate], new: Sequence[Replicate], ground: Ground, limits: Limits, why: str) -> Speed:
    before, now = _latencies(old), _latencies(new)
    ratio = stats.ratio_interval(before, now)
    limit = _at_least(limits.unpaired, ground.threshold)
    means = [stats.replicate_interval(times) if times else None for times in (before, now)]
    return Speed(verdicts.verdict(ratio, limit), NOT_PAIRED, ratio, *means, limit, why)


def _speedups(replicates: Sequence[Replicate]) -> list[float]:
    """The speed-up that each replicate found by itself."""
    ratios = (latency.log_ratio(r.latency) for r in replicates)
    return [math.exp(ratio) for ratio in ratios if ratio is not None]


def _latencies(replicates: Sequence[Replicate]) -> list[float]:
    """Each replicate's mean end-to-end time of the variant's requests, in seconds."""
    times = ([x.e2e_s for x in latency.measured(r.latency, "variant")] for r in replicates)
    return [float(np.mean(found)) for found in times if found]


def _mean_ratio(values: Sequence[float]) -> Estimate | None:
    return stats.speedup(np.log(values).tolist()) if values else None


def _at_least(limit: float, noise: float | None) -> float | None:
    return None if noise is None else max(limit, noise)


# --- quality --------------------------------------------------------------------------------------------------------


def quality(old: Images, new: Images, settings: Mapping, reference: np.ndarray | None, limits: Limits) -> Quality:
    """The change of the images' quality, image by image: same prompt, same seed.

    settings: the plan's `quality`; reference: features (n, d) of the reference images, None where they are not at hand.
    """
    before = old.positions()
    pairs = [(before[key], index) for key, index in new.positions().items() if key in before]
    if not pairs:
        return Quality(CANNOT_TELL, why="the two states have no image of the same prompt and seed")
    theirs, ours = (np.asarray(side) for side in zip(*pairs, strict=True))
    identical = sum(old.digests[a] == new.digests[b] for a, b in pairs)
    if old.scorers != new.scorers:
        why = "scored by other models than before"
        return Quality(EQUIVALENT if identical == len(pairs) else CANNOT_TELL, len(pairs), identical, why=why)
    prompts = [new.prompts[index] for index in ours]
    clip, clip_verdict, clip_margin = _clip_change(
        [old.clip_scores[i] for i in theirs], [new.clip_scores[i] for i in ours], prompts, settings, limits
    )
    fid = _paired_fid(old.features[theirs], new.features[ours], prompts, reference) if _has_features(old, new) else None
    fid = fid or _difference(new.fid, old.fid)
    fid_margin = columns.fid_margin(old.fid, limits.fid)
    scores = [clip_verdict, columns.fid_verdict(fid, fid_margin)]
    verdict = columns.quality_verdict(scores) or CANNOT_TELL
    why = "" if any(scores) else "no score of both states is known"
    return Quality(verdict, len(pairs), identical, clip, clip_margin, fid, fid_margin, why)


def _has_features(old: Images, new: Images) -> bool:
    shapes = [(len(images.features), len(images.prompts)) for images in (old, new)]
    return all(rows == images > 0 for rows, images in shapes) and old.features.shape[1] == new.features.shape[1]


def _clip_change(old: Sequence, new: Sequence, prompts: Sequence[str], settings: Mapping, limits: Limits) -> tuple:
    """(difference, verdict, margin) of the CLIP score; None where a score is missing."""
    margin = settings["clip_margin"] if limits.clip_score is None else limits.clip_score
    if None in old or None in new:
        return None, None, margin
    differences = (np.asarray(new, float) - np.asarray(old, float)).tolist()
    found = bootstrap_mean(differences, prompts, settings["bootstrap"], settings["seed"])
    return Estimate(found.mean, found.low, found.high), equivalence(found, margin), margin


def _paired_fid(old: np.ndarray, new: np.ndarray, prompts: Sequence[str], reference) -> Estimate | None:
    """FID now - FID before, to the same reference images, paired by prompt and seed; None where there is none."""
    n, width = old.shape
    if reference is None or width != reference.shape[1] or not width < n <= len(reference) or width > WIDEST_PAIRED:
        return None
    if np.array_equal(old, new):
        return Estimate(0.0, 0.0, 0.0)
    found = frechet.difference(new, old, reference[:n], prompt_groups(prompts))
    return Estimate(found.value, found.low, found.high)


def _difference(now: Estimate | None, before: Estimate | None) -> Estimate | None:
    """The difference of two distances as if they were independent: wider than what pairs would say."""
    if now is None or before is None:
        return None
    value = now.value - before.value
    if now.half_width is None or before.half_width is None:
        return Estimate(value)
    half = math.hypot(now.half_width, before.half_width)
    return Estimate(value, value - half, value + half)


# --- memory and size ------------------------------------------------------------------------------------------------


def memory(old: Sequence[Replicate], new: Sequence[Replicate], limits: Limits) -> Amount:
    """The server's peak memory, the largest of all replicates; the noise is how far replicates of a state lie apart.

    Where no state has two replicates nobody knows the noise, and there is no verdict.
    """
    before, now = _peaks(old), _peaks(new)
    spreads = [max(peaks) / min(peaks) - 1 for peaks in (before, now) if len(peaks) > 1]
    found = amount(max(before, default=None), max(now, default=None), max([limits.memory, *spreads]))
    return found if spreads else replace(found, verdict=None)


def _peaks(replicates: Sequence[Replicate]) -> list[float]:
    servers = (r.notes.get("servers", {}).get("variant") or {} for r in replicates)
    return [peak for server in servers if (peak := server.get("peak_memory_bytes"))]


def size(old: Cell, new: Cell, limits: Limits) -> Amount:
    """The artifact's files together. Exact: no noise."""
    before, now = ((cell.manifest or {}).get("artifact_bytes") for cell in (old, new))
    return amount(before, now, limits.size)


def amount(before: float | None, now: float | None, limit: float) -> Amount:
    """A change of bytes with its verdict: less is better."""
    if not before or now is None:
        return Amount(before or None, now, limit, None)
    change = now / before - 1
    return Amount(before, now, limit, WITHIN_NOISE if abs(change) <= limit else REGRESSED if change > 0 else IMPROVED)
