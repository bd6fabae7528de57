"""What is said: figures as words, the sentence of a comparison, the answer, the cells of the table."""

import re

import numpy as np
import pandas as pd
import pytest

from diffsweep.show import sentences, table, words
from diffsweep.show.findings import answer
from diffsweep.show.pairs import change

# --- words ----------------------------------------------------------------------------------------------------------


def test_numbers_as_words():
    assert [words.number(v) for v in (None, float("nan"), 0.01234, 1.5239, 24.06, 12340.4, 0.9996, 0)] == [
        "n/a", "n/a", "0.0123", "1.52", "24.1", "12,340", "1.00", "0",
    ]  # fmt: skip
    assert [words.seconds(v) for v in (0.0412, 0.9994, 1.2, 125.0, 3840.0, None)] == [
        "41.2 ms", "999 ms", "1.20 s", "2 min 5 s", "1 h 4 min", "n/a",
    ]  # fmt: skip
    assert words.with_interval(0.418, 0.414, 0.4222, words.seconds) == "418 ms (414 to 422)"
    assert words.with_interval(0.98, 0.9, 1.1, words.seconds) == "980 ms (900 ms to 1.10 s)"
    assert words.with_interval(1.52, 1.49, 1.55, words.factor) == "1.52× (1.49 to 1.55)"
    assert words.with_interval(0.0018, 0.0017, 0.0019, words.money) == "$0.00180 (0.00170 to 0.00190)"
    assert words.with_interval(1.5, None, None, words.factor) == "1.50×"
    assert words.listing(list("abcdef"), 4) == "a, b, c and 3 more"


def verdict_of(ratio: float, spread: float, requests: int = 40, replicates: int = 5):
    """The change in P95 between two sides of which one is `ratio` times as fast, up to `spread` per replicate."""
    rng = np.random.default_rng(3)
    number = np.repeat(np.arange(replicates), requests)
    base = 0.5 * np.exp(0.05 * rng.standard_normal(len(number)))
    own = base / ratio * np.exp(spread * rng.standard_normal(replicates))[number]
    ours, theirs = (pd.DataFrame({"replicate": number, "e2e_s": times}) for times in (own, base))
    return change(ours, theirs, "p95", 0.01)


def test_the_sentence_of_the_comparison():
    assert re.fullmatch(
        r"fp16 lowers P95 by 1\d\.\d %, interval \d+\.\d to \d+\.\d %",
        sentences.change_words("fp16", verdict_of(1.2, 0.005)),
    )
    raised = sentences.change_words("fp16", verdict_of(0.8, 0.005))
    assert re.fullmatch(r"fp16 raises P95 by 2\d\.\d %, interval 2\d\.\d to 2\d\.\d %", raised)
    unclear = sentences.change_words("fp16", verdict_of(1.0, 0.05))
    assert "is not shown to change P95" in unclear and "(cannot tell)" in unclear
    assert "makes no difference to P95" in sentences.change_words("fp16", verdict_of(1.0, 0.0005))
    few = verdict_of(1.2, 0.005, requests=10)  # 50 requests are too few for P95
    assert few.ratio is None and "too few requests (n = 50)" in sentences.change_words("fp16", few)
    alone = verdict_of(1.2, 0.005, requests=100, replicates=1)
    assert "one replicate gives no interval" in sentences.change_words("fp16", alone)


def test_a_change_is_the_ratio_of_the_quantiles():
    found = verdict_of(1.25, 0.0)
    assert found.ratio.value == pytest.approx(1.25) and found.reduction[0] == pytest.approx(0.2)


# --- the answer -----------------------------------------------------------------------------------------------------


def row(name: str, speedup: float, quality: str | None, verdict: str = "improved", cost: float = 1.0, **more) -> dict:
    baseline = name == "fp32"
    triples = {
        "speedup": speedup,
        "usd_per_1000_images_on_demand": cost,
        "latency_e2e_p50_s": 0.5 / speedup,
        "fid": 24.0,
    }
    columns = {f"{k}{end}": v * f for k, v in triples.items() for end, f in (("", 1), ("_low", 0.99), ("_high", 1.01))}
    known = {
        "variant": name,
        "engine": "torch",
        "parent": None if baseline else "fp32",
        "status": "ok",
        "ssim_median": 0.9,
    }
    return {**known, **columns, "verdict": verdict, "quality_verdict": quality, **more}


BASE = row("fp32", 1.0, None, "within noise")


def test_the_answer_is_the_fastest_of_equivalent_quality():
    found = answer([BASE, row("a", 3, "worse"), row("b", 2, "equivalent", cost=0.5), row("c", 1.99, "equivalent")])
    assert found.headline == "Deploy b: 2.00× as fast as fp32, at equivalent quality"
    slower = row("b", 2, "not worse", speedup_typical=1.5, speedup_typical_low=1.4, speedup_typical_high=1.6)
    headline = "Deploy b: 1.50× as fast as fp32 (2.00× while nothing disturbs it), at quality that is not worse"
    assert answer([BASE, slower]).headline == headline
    assert [pick.variant for pick in found.picks] == ["b", "b", "a"]
    assert "Cannot be told from it in speed: c" in found.picks[0].sentence
    assert "Worse images: a." in found.sentences


def test_no_claim_without_proof():
    unclear = answer([BASE, row("a", 3, "cannot tell"), row("b", 1.1, "equivalent", "cannot tell")])
    assert unclear.headline.startswith("Keep fp32")
    assert unclear.picks[0].variant is None and unclear.picks[1].figure == "cannot tell"
    assert "No difference in speed shown: b." in unclear.sentences
    rows = [BASE, row("a", 3, "equivalent")]
    assert answer(rows, "A/A says different").headline.startswith("Cannot tell")
    failed = {**BASE, "status": "failed", "reason": "convert: broken"}
    assert answer([failed, *rows[1:]]).headline.startswith("No answer")
    assert answer([BASE]).headline == "Nothing to compare: fp32 was measured, but it is the only variant"
    assert "Slower than fp32: a." in answer([BASE, row("a", 0.8, "equivalent", "regressed")]).sentences


# --- the table ------------------------------------------------------------------------------------------------------


def test_a_speed_up_says_what_it_compares_with():
    """On a host whose pace drifts, a P50 above the baseline's own beside "improved" looks like a mistake."""
    faster = row("bf16", 1.1, "equivalent", latency_e2e_p50_s=0.52, speedup_baseline_p50_s=0.57)
    of_variant, of_baseline = (
        table.table([each], [table.NAME, table.SPEEDUP], "").rows[0].cells[0] for each in (faster, BASE)
    )
    assert (of_variant.text, of_variant.below) == ("1.10×", "1.09 to 1.11, of 570 ms")
    assert of_baseline.below == "0.990 to 1.01"
