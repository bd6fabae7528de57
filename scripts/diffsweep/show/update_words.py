"""What an update did, in words: the headline, one variant's figures, and the table that `scripts/compare` prints."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from diffsweep.analysis.comparison import NOT_PAIRED, PAIRED, Amount, Quality, Speed
from diffsweep.analysis.stats import Estimate
from diffsweep.analysis.updates import (
    BROKE,
    GONE,
    MENDED,
    NEW,
    NO_RESULT,
    REDEFINED,
    RENEWED,
    SAME,
    Change,
    Comparison,
    Difference,
)
from diffsweep.analysis.verdicts import CANNOT_TELL, IMPROVED, REGRESSED, WITHIN_NOISE
from diffsweep.quality.resampling import BETTER, EQUIVALENT, NOT_WORSE, WORSE
from diffsweep.show import words
from diffsweep.show.findings import signed

HEADS = ("variant", "speed", "now / before", "before → now", "images", "peak memory", "size on disk")

# What became of the variants that are not compared, as the heading of a list.
KINDS = {
    BROKE: "No result any more",
    MENDED: "A result again",
    NEW: "New",
    GONE: "Gone",
    REDEFINED: "Redefined, so not compared",
    NO_RESULT: "No result, before and now",
    SAME: "Not measured anew: the same results",
}


def day(notes: Mapping) -> str:
    return f"{datetime.fromtimestamp(notes['kept_unix_s'], UTC):%Y-%m-%d %H:%M} UTC"


def renewed(changes: Sequence[Change]) -> list[Change]:
    return [change for change in changes if change.kind == RENEWED]


# --- the whole ------------------------------------------------------------------------------------------------------


def headline(comparison: Comparison) -> str:
    """ "2 variants made anew: 1 slower, 1 as fast as before; images equivalent" """
    anew = renewed(comparison.changes)
    broke = [change.variant for change in comparison.changes if change.kind == BROKE]
    parts = [f"{words.listing(broke)} {'has' if len(broke) == 1 else 'have'} no result any more"] if broke else []
    if not anew:
        return "; ".join([*parts, "nothing was measured anew"])
    speeds = Counter(change.speed.verdict for change in anew if change.speed)
    order = (REGRESSED, IMPROVED, WITHIN_NOISE, CANNOT_TELL)
    told = ", ".join(f"{speeds[verdict]} {_said(verdict)}" for verdict in order if speeds[verdict])
    head = f"{words.count(len(anew), 'variant')} made anew"
    parts.append(f"{head}: {told}" if told else head)
    images = {change.quality.verdict for change in anew if change.quality}
    worst = next(
        (verdict for verdict in (WORSE, CANNOT_TELL, NOT_WORSE, BETTER, EQUIVALENT) if verdict in images), None
    )
    if worst:
        parts.append({CANNOT_TELL: "whether images changed cannot be told"}.get(worst, f"images {worst}"))
    return "; ".join(parts)


def _said(verdict: str) -> str:
    return {IMPROVED: "faster", REGRESSED: "slower", WITHIN_NOISE: "as fast as before"}.get(verdict, verdict)


def cause(comparison: Comparison) -> str:
    """ "environment onnxruntime: idna 3.19 → 3.20; machine: ..." """
    return "; ".join(difference_words(found) for found in comparison.differences) or "nothing that is recorded differs"


def difference_words(found: Difference, most: int = 5) -> str:
    return f"{found.subject}: {words.listing(list(found.changes), most)}"


def noise_words(threshold: float | None, changes: Sequence[Change]) -> str:
    """What a change of speed on one model and target must exceed."""
    if threshold is None:
        return "The noise is not known (an A/A test is missing in one of the states), so nothing is claimed of speed."
    said = f"Changes of speed under {words.percent(threshold)} are within the noise of the two states"
    unpaired = [change.speed.limit for change in changes if change.speed and change.speed.basis == NOT_PAIRED]
    return f"{said}; those that are not paired count from {words.percent(unpaired[0])}." if unpaired else f"{said}."


def speed_finding(changes: Sequence[Change]) -> str:
    """ "Slower than before: onnxruntime (0.892×). Faster: openvino (1.10×)" """
    parts = []
    for verdict, head in ((REGRESSED, "Slower"), (IMPROVED, "Faster")):
        found = [f"{c.variant} ({words.factor(c.speed.ratio.value)})" for c in changes if c.speed.verdict == verdict]
        parts += [f"{head} than before: {words.listing(found)}"] if found else []
    return ". ".join(parts) or "No variant is shown to be faster or slower than before"


# --- one variant ----------------------------------------------------------------------------------------------------


def ratio_words(speed: Speed) -> str:
    """ "0.912× (0.880 to 0.945)", how many times as fast as before"""
    return _with_interval(speed.ratio, words.factor) if speed.ratio else words.NOT_MEASURED


def sides_words(speed: Speed) -> str:
    """ "1.90× → 1.87×": speed-ups over the baseline; "84.1 ms → 90.0 ms" where they are not paired."""
    show = words.factor if speed.basis == PAIRED else words.seconds
    return " → ".join(show(side and side.value) for side in (speed.before, speed.now))


def speed_note(speed: Speed) -> str:
    """What must be known with the verdict: on what it rests, and why there is none."""
    if not speed.comparable:
        return speed.why
    return f"not paired: {speed.why}" if speed.basis == NOT_PAIRED else ""


def quality_words(quality: Quality) -> str:
    """ "64 of 64 identical"; "CLIP score −0.12 (−0.30 to 0.06), FID +0.40 (0.10 to 0.70)" """
    if quality.images and quality.identical == quality.images:
        return f"{quality.identical} of {quality.images} identical"
    parts = []
    if quality.clip:
        parts.append(f"CLIP score {_with_interval(quality.clip, signed)}")
    if quality.fid:
        parts.append(f"FID {_with_interval(quality.fid, signed)}")
    return ", ".join([*parts, *([quality.why] if quality.why else [])]) or words.NOT_MEASURED


def _with_interval(estimate: Estimate, show) -> str:
    return words.with_interval(estimate.value, estimate.low, estimate.high, show)


def amount_words(amount: Amount) -> str:
    """ "569 MB → 570 MB (+0.2 %)" """
    if amount.change is None:
        return words.NOT_MEASURED
    if amount.before == amount.now:
        return f"{words.size(amount.now)}, as before"
    sides = f"{words.size(amount.before)} → {words.size(amount.now)}"
    return f"{sides} ({'+' if amount.change > 0 else '−'}{words.percent(abs(amount.change))})"


# --- text -----------------------------------------------------------------------------------------------------------


def as_text(comparison: Comparison) -> str:
    """Everything, for the terminal."""
    sides = [f"{label} {notes['state']} ({day(notes)})" for label, notes in _labelled(comparison)]
    differing = [f"  {difference_words(found, 12)}" for found in comparison.differences]
    blocks = ["\n".join(sides), "\n".join(["what differs:", *(differing or ["  nothing that is recorded"])])]
    for place, threshold in comparison.thresholds.items():
        mine = [change for change in comparison.changes if change.key[:2] == place]
        blocks.append("\n".join(_place_lines(*place, mine, threshold)))
    return "\n\n".join([*blocks, f"{headline(comparison)}."])


def _labelled(comparison: Comparison) -> list[tuple[str, Mapping]]:
    return [("before", comparison.old), ("now   ", comparison.new)]


def _place_lines(model: str, target: str, changes: Sequence[Change], threshold: float | None) -> list[str]:
    lines = [f"{model} on {target}. {noise_words(threshold, changes)}"]
    anew = renewed(changes)
    if anew:
        lines += _aligned([HEADS, *(_line(change) for change in anew)])
    lines += [f"  {note}" for note in notes_of(anew)]
    for kind, head in KINDS.items():
        lines += [f"  {head}: {line}" for line in named([change for change in changes if change.kind == kind])]
    return lines


def named(changes: Sequence[Change]) -> list[str]:
    """The variants in one line; a line each where there is a reason to tell."""
    if not any(change.note for change in changes):
        return [words.listing([change.variant for change in changes], 40)] if changes else []
    return [f"{change.variant}: {change.note}" if change.note else change.variant for change in changes]


def notes_of(changes: Sequence[Change]) -> list[str]:
    """What must be known of some variants: the remark, and whom it is about."""
    about: dict[str, list[str]] = {}
    for change in changes:
        notes = [
            speed_note(change.speed) if change.speed else "",
            change.note,
            change.quality.why if change.quality else "",
        ]
        for note in filter(None, notes):
            about.setdefault(note, []).append(change.variant)
    return [f"{words.listing(names, 12)}: {note}" for note, names in about.items()]


def _line(change: Change) -> tuple[str, ...]:
    speed, quality = change.speed, change.quality
    verdict = "as before" if speed is None else speed.verdict + (" *" if speed.basis == NOT_PAIRED else "")
    return (
        change.variant,
        verdict,
        ratio_words(speed) if speed else "",
        sides_words(speed) if speed and speed.comparable else "",
        f"{quality.verdict}: {quality_words(quality)}" if quality else "as before",
        amount_words(change.memory) if change.memory else "as before",
        amount_words(change.size) if change.size else words.NOT_MEASURED,
    )


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


# --- the gate -------------------------------------------------------------------------------------------------------


def gate_text(comparison: Comparison, judgement) -> str:
    """A few lines for a CI log: the result, what changed, what regressed, what cannot be told."""
    result = ("passed", "REGRESSED", "cannot compare")[judgement.exit_code]
    lines = [f"gate: {result}; {headline(comparison)}", f"  {comparison.old['state']} -> {comparison.new['state']}"]
    lines += [f"  {difference_words(found)}" for found in comparison.differences]
    for found, label in ((judgement.regressed, "regressed"), (judgement.undecided, CANNOT_TELL)):
        for change, what in found:
            lines.append(f"  {label}: {'/'.join(change.key)}: {what}{_figures(change, what)}")
    return "\n".join(lines)


def _figures(change: Change, what: str) -> str:
    if what == "speed":
        speed = change.speed
        if not speed.comparable:
            return f": {speed.why}"
        limit = "the noise is not known" if speed.limit is None else f"limit {words.percent(speed.limit)}"
        said = f" {ratio_words(speed)} of before, {sides_words(speed)}, {limit}"
        return said + (f"; {speed_note(speed)}" if speed_note(speed) else "")
    if what == "images":
        return f" {quality_words(change.quality)}"
    if what in ("memory", "size"):
        part = getattr(change, what)
        return f" {amount_words(part)}, limit {words.percent(part.limit)}"
    return f" ({change.note})"
