"""Values with intervals as columns of the summary; what quality.json says, with the verdict on the images."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffsweep.analysis import verdicts
from diffsweep.analysis.stats import Estimate
from diffsweep.quality.resampling import BETTER, EQUIVALENT, KEPT, NOT_WORSE, WORSE, Mean, equivalence

Row = dict[str, Any]

# quality.fid_margin of plans that are older than that key (METHOD.md, "Quality").
FID_MARGIN = 0.02


def put(row: Row, name: str, estimate: Estimate | None) -> None:
    """The three columns of a value with its interval."""
    value, low, high = (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)
    row[name], row[f"{name}_low"], row[f"{name}_high"] = value, low, high


def quality_fields(quality: Mapping, margin: float | None) -> Row:
    """The columns of quality.json; `margin`: the largest rise of FID that counts as none, see fid_margin."""
    row: Row = {"images": quality.get("images")}
    for name in ("fid", "fid_corrected", "fid_difference", "fid_to_baseline", "clip_score", "clip_difference"):
        put(row, name, estimate_in(quality.get(name)))
    row["fid_floor"] = (quality.get("fid_floor") or {}).get("value")
    row["clip_verdict"] = (quality.get("clip_difference") or {}).get("verdict")
    row["fid_margin"] = margin
    row["fid_verdict"] = fid_verdict(estimate_in(quality.get("fid_difference")), margin)
    row["quality_verdict"] = quality_verdict([row["clip_verdict"], row["fid_verdict"]])
    for score in ("ssim", "psnr_db"):
        figures = quality.get(score) or {}
        row[f"{score}_median"], row[f"{score}_p95_worst"] = figures.get("median"), figures.get("p95_worst")
    row["identical_images"] = quality.get("identical")
    attributes = quality.get("attributes") or {}
    put(row, "attributes_right", estimate_in(attributes.get("share")))
    put(row, "images_all_right", estimate_in(attributes.get("all_right")))
    row["defects"] = (quality.get("defects") or {}).get("count")
    return row


def estimate_in(document: Mapping | None) -> Estimate | None:
    """{"value" or "mean", "low", "high"} as an estimate; None when the score was not computed."""
    value = None if document is None else document.get("value", document.get("mean"))
    return None if value is None else Estimate(value, document.get("low"), document.get("high"))


def fid_margin(baseline: Estimate | None, share: float = FID_MARGIN) -> float | None:
    """The largest change of FID that counts as none: `share` of the baseline's (quality.fid_margin in the config).

    Declared, not measured: a margin that grew with the interval would call any change equivalent, given few images.
    """
    return None if baseline is None else share * abs(baseline.value)


def fid_verdict(difference: Estimate | None, margin: float | None) -> str | None:
    """See resampling.equivalence, of the paired difference; None where there is none."""
    if difference is None or not margin:
        return None
    if difference.low is None:
        return verdicts.CANNOT_TELL
    return equivalence(Mean(-difference.value, -difference.high, -difference.low), margin)  # a lower FID is better


def quality_verdict(scores: Sequence[str | None]) -> str | None:
    """One verdict from those of the scores, CLIP score and FID: worse if any is; else what is least certain of them."""
    known = [verdict for verdict in scores if verdict is not None]
    if not known:
        return None
    if WORSE in known:
        return WORSE
    if any(verdict not in KEPT for verdict in known):
        return verdicts.CANNOT_TELL
    return next(verdict for verdict in (NOT_WORSE, BETTER, EQUIVALENT) if verdict in known)
