"""What the data say, in sentences chosen by rule: the same table always gives the same answer.

A row is one line of summary (DESIGN.md) as a mapping; what was not measured is None or NaN. Nothing is claimed
that an interval does not carry: where it does not, the sentence says "cannot tell".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffsweep.show import words

Row = Mapping[str, Any]

# Verdicts on the images by which nothing that matters is lost -> how that is said (quality/resampling.py, KEPT).
KEPT = {
    "equivalent": "at equivalent quality",
    "better": "at better quality",
    "not worse": "at quality that is not worse",
}


@dataclass(frozen=True)
class Pick:
    """One part of the answer: what was asked for, which variant it is (None: none, or cannot tell), and why."""

    question: str
    variant: str | None
    figure: str
    sentence: str


@dataclass(frozen=True)
class Answer:
    """headline: the answer as a heading; sentences: what stands below it; picks: one per question."""

    headline: str
    sentences: tuple[str, ...]
    picks: tuple[Pick, ...]


def is_baseline(row: Row) -> bool:
    return words.missing(row.get("parent"))


def is_ok(row: Row) -> bool:
    """May its figures be shown beside the others'? (So may stale ones where all are from one other machine.)"""
    return row.get("status") == "ok" or row.get("competes") in (True, "true")  # "true" from a CSV file


def keeps_quality(row: Row) -> bool:
    return is_ok(row) and row.get("quality_verdict") in KEPT


def is_faster(row: Row) -> bool:
    return is_ok(row) and not is_baseline(row) and row.get("verdict") == "improved"


def speedup_words(row: Row) -> str:
    """ "1.52× (1.49 to 1.55)" """
    return words.with_interval(row["speedup"], row["speedup_low"], row["speedup_high"], words.factor)


def answer(rows: Sequence[Row], unfit: str | None = None) -> Answer:
    """The answer for one model on one target. unfit: why this host cannot be trusted, if it cannot."""
    baseline = next((row for row in rows if is_baseline(row)), None)
    compared = [row for row in rows if is_ok(row) and not is_baseline(row) and not words.missing(row.get("speedup"))]
    if baseline is None or not is_ok(baseline):
        reason = (baseline or {}).get("reason") or "it was not measured"
        return Answer("No answer: the baseline itself has no result", (f"The baseline: {reason}.",), ())
    if unfit:
        return Answer("Cannot tell: this host measures differences where there are none", (), ())
    if not compared:
        others = [row for row in rows if not is_baseline(row)]
        why = "none of the other variants has a result; see the failures" if others else "it is the only variant"
        return Answer(f"Nothing to compare: {baseline['variant']} was measured, but {why}", (), ())
    picks = (fastest(rows, baseline), cheapest(rows, baseline), most_faithful(rows, baseline))
    return Answer(_headline(picks[0], rows, baseline), _sentences(rows, baseline), picks)


def _headline(pick: Pick, rows: Sequence[Row], baseline: Row) -> str:
    if pick.variant is None:
        return f"Keep {baseline['variant']}: no variant is shown to be faster without loss of quality"
    best = next(row for row in rows if row["variant"] == pick.variant)
    faster = headline_speedup(best, baseline["variant"])
    return f"Deploy {pick.variant}: {faster}, {KEPT[best['quality_verdict']]}"


def headline_speedup(row: Row, baseline: str) -> str:
    """ "2.00× as fast as fp32". Where typical requests surely tell another speed-up than undisturbed ones do, theirs
    comes first: it is what whoever asks for images sees."""
    undisturbed = words.factor(row["speedup"])
    ends = [row.get(name) for name in ("speedup_low", "speedup_high", "speedup_typical_low", "speedup_typical_high")]
    if any(map(words.missing, ends)) or (ends[2] <= ends[1] and ends[0] <= ends[3]):
        return f"{undisturbed} as fast as {baseline}"
    return f"{words.factor(row['speedup_typical'])} as fast as {baseline} ({undisturbed} while nothing disturbs it)"


def fastest(rows: Sequence[Row], baseline: Row) -> Pick:
    """The highest speed-up among the variants that are surely faster and whose images are shown not to be worse."""
    question = "Fastest without loss of quality"
    faster = [row for row in rows if is_faster(row)]
    able = sorted((r for r in faster if keeps_quality(r)), key=lambda r: -r["speedup"])
    if able:
        best = able[0]
        rivals = [r["variant"] for r in able[1:] if _reaches(r, best)]
        beside_s = best.get("speedup_baseline_p50_s")  # in the same minutes; older summaries have none
        baseline_s = baseline["latency_e2e_p50_s"] if words.missing(beside_s) else beside_s
        sentence = (
            f"{words.seconds(best['latency_e2e_p50_s'])} at the median, where {baseline['variant']} beside it takes "
            f"{words.seconds(baseline_s)}; {quality_words(best)}"
        )
        if rivals:
            sentence += f". Cannot be told from it in speed: {words.listing(rivals)}"
        return Pick(question, best["variant"], speedup_words(best), sentence + ".")
    if not faster:
        return Pick(question, None, "none", "No variant is surely faster than the baseline.")
    best = max(faster, key=lambda r: r["speedup"])
    return Pick(
        question,
        None,
        "none",
        f"{words.count(len(faster), 'variant')} surely faster, none with images shown not to be worse; "
        f"the fastest is {best['variant']}, {speedup_words(best)}, {quality_words(best)}.",
    )


def _reaches(row: Row, best: Row) -> bool:
    """Could `row` be as fast as `best`, as far as the intervals tell?"""
    high, low = row.get("speedup_high"), best.get("speedup_low")
    return not words.missing(high) and not words.missing(low) and high >= low


COST = "usd_per_1000_images_on_demand"


def cheapest(rows: Sequence[Row], baseline: Row) -> Pick:
    """The lowest cost per image among the variants that lose no quality, if it is surely below the baseline's."""
    question = "Cheapest without loss of quality"
    able = [r for r in rows if keeps_quality(r) and not is_baseline(r) and not words.missing(r.get(COST))]
    if not able or words.missing(baseline.get(COST)):
        return Pick(
            question, None, words.NOT_MEASURED, "No variant whose images are shown not to be worse has a measured cost."
        )
    best = min(able, key=lambda r: r[COST])
    cost = words.with_interval(best[COST], best.get(f"{COST}_low"), best.get(f"{COST}_high"), words.money)
    versus = f"{words.money(baseline[COST])} for {baseline['variant']}"
    if _surely_below(best, baseline, COST):
        saving = words.percent(1 - best[COST] / baseline[COST])
        between = words.interval(
            *(_saving(best.get(f"capacity_speedup_{end}")) for end in ("low", "high")), words.percent
        )
        saving += f" ({between})" if between else ""
        return Pick(question, best["variant"], cost, f"per 1,000 images on demand, {saving} less than {versus}.")
    if _surely_below(baseline, best, COST):
        said = f"No variant without loss of quality costs less than {versus}; the least is {best['variant']}, {cost}."
        return Pick(question, None, "none", said)
    said = f"{best['variant']} takes {cost} per 1,000 images, which cannot be told from {versus}."
    return Pick(question, None, "cannot tell", said)


def _saving(capacity_speedup: float | None) -> float | None:
    """By which share an image costs less on a machine of the same price that makes so many times as many."""
    return None if words.missing(capacity_speedup) else 1 - 1 / capacity_speedup


def _surely_below(row: Row, other: Row, column: str) -> bool:
    high, low = row.get(f"{column}_high"), other.get(f"{column}_low")
    high = row[column] if words.missing(high) else high
    low = other[column] if words.missing(low) else low
    return high < low


def most_faithful(rows: Sequence[Row], baseline: Row) -> Pick:
    """Among the surely faster variants the one whose images are nearest to the baseline's (median SSIM)."""
    question = "Faster with the most faithful images"
    able = [r for r in rows if is_faster(r) and not words.missing(r.get("ssim_median"))]
    if not able:
        return Pick(question, None, words.NOT_MEASURED, "No faster variant has images compared with the baseline's.")
    # Images that agree this far are the same to any eye: then the faster one is the better choice.
    best = max(able, key=lambda r: (min(round(r["ssim_median"], 3), 0.999), r["speedup"]))
    psnr = "" if words.missing(best.get("psnr_db_median")) else f", PSNR {words.psnr(best['psnr_db_median'])} dB"
    return Pick(
        question,
        best["variant"],
        f"SSIM {best['ssim_median']:.3f}",
        f"to the images of {baseline['variant']} (median{psnr}), {speedup_words(best)} as fast.",
    )


def quality_words(row: Row) -> str:
    """ "quality equivalent (CLIP score -0.1, interval -0.3 to 0.1; FID 24.1)" """
    verdict = row.get("quality_verdict")
    lead = f"quality {verdict}" if not words.missing(verdict) else "quality not measured"
    parts = []
    if not words.missing(row.get("clip_difference")):
        between = words.interval(row.get("clip_difference_low"), row.get("clip_difference_high"), signed)
        parts.append(f"CLIP score {signed(row['clip_difference'])}" + (f", interval {between}" if between else ""))
    if not words.missing(row.get("fid")):
        parts.append(f"FID {words.number(row['fid'])}")
    return f"{lead} ({'; '.join(parts)})" if parts else lead


def signed(value: float) -> str:
    """A difference with its sign: +0.12, −0.30; 0.00 has none."""
    text = f"{value:+.2f}".replace("-", "−")
    return text if text.strip("+−0.") else "0.00"


def _sentences(rows: Sequence[Row], baseline: Row) -> tuple[str, ...]:
    """What else a reader must know: what is slower, what cannot be told, what has no result."""
    said = []
    others = [row for row in rows if not is_baseline(row)]
    slower = [r["variant"] for r in others if is_ok(r) and r.get("verdict") == "regressed"]
    if slower:
        said.append(f"Slower than {baseline['variant']}: {words.listing(slower, 6)}.")
    open_ = [r["variant"] for r in others if is_ok(r) and r.get("verdict") in ("within noise", "cannot tell")]
    if open_:
        said.append(f"No difference in speed shown: {words.listing(open_, 6)}.")
    worse = [r["variant"] for r in others if is_ok(r) and r.get("quality_verdict") == "worse"]
    if worse:
        said.append(f"Worse images: {words.listing(worse, 6)}.")
    holes = [r["variant"] for r in others if not is_ok(r)]
    if holes:
        said.append(f"No result, with the reason below: {words.listing(holes, 6)}.")
    return tuple(said)
