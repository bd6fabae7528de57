"""The calibration as a page: one self-contained HTML file with its pictures and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from diffsweep.analysis import calibration, stats
from diffsweep.analysis.calibration import RIGHT_SHARE, Comparison, Preset, Scenario
from diffsweep.show import aa_plot, method, power_plot, style, words
from diffsweep.show.embed import inline_svgs

HERE = Path(__file__).parent
TEMPLATE, CSS = HERE / "calibration.html.j2", HERE / "report.css"


@dataclass(frozen=True)
class Calibration:
    """What was recorded, and what it says.

    presets: by name; judged: scenario name -> its independent comparisons of the default preset;
    powers: preset name -> {planted slow-down: share found, None where too few replicates were recorded}.
    failures: replicates that ended without a result, in words. sampling_share: of one core, what the sampler used.
    """

    what: str
    aa: Scenario
    scenarios: Sequence[Scenario]
    presets: Mapping[str, Preset]
    judged: Mapping[str, Sequence[Comparison]]
    powers: Mapping[str, Mapping[float, float | None]]
    host: Mapping
    request_s: float
    failures: Sequence[str]
    sampling_share: float | None

    @property
    def wrong_aa(self) -> int:
        return sum(calibration.is_wrong(c.verdict, 0.0) for c in self.judged["aa"])


def planted(found: Calibration) -> list[Scenario]:
    return [s for s in found.scenarios if s.slowdown and not s.disturbed]


# --- words ----------------------------------------------------------------------------------------------------------


def title(found: Calibration) -> str:
    if not calibration.is_fit(found.judged["aa"]):
        return "This machine must not be trusted: it sees differences between two things that are the same"
    parts = []
    for preset, powers in found.powers.items():
        smallest = calibration.smallest_found(powers)
        if smallest is not None:
            parts.append(f"{words.percent(smallest)} with the preset {preset}")
    if not parts:
        largest = max((s.slowdown for s in planted(found)), default=0.0)
        return f"This machine does not reliably tell even {words.percent(largest)}"
    return f"This machine tells differences of {' and of '.join(parts)}"


def sentences(found: Calibration) -> list[str]:
    aa = found.judged["aa"]
    said = [
        f"Two servers of the same artifact were compared {len(aa)} times: {found.wrong_aa} "
        f"({words.percent(found.wrong_aa / len(aa))}) got a verdict that claims a difference; 5 % are allowed."
        if aa
        else "Too few A/A replicates were recorded for a comparison."
    ]
    spread = stats.mean_and_deviation(found.aa.log_ratios)[1]
    if spread is not None:
        said.append(
            f"From start to start of the servers, the ratio varies by {words.percent(spread)} (standard deviation of "
            f"{len(found.aa.log_ratios)} replicates)."
        )
    if found.sampling_share is not None:
        said.append(
            f"Sampling memory and devices beside the requests used {100 * found.sampling_share:.2f} % of one core, "
            "which is the most that it can cost a request that needs all cores."
        )
    return said


def alarms(found: Calibration) -> list[str]:
    told = [] if calibration.is_fit(found.judged["aa"]) else ["A/A comparisons claim differences too often."]
    if found.failures:
        told.append(f"{words.count(len(found.failures), 'replicate')} failed and is left out: {found.failures[0]}")
    return told


def facts(found: Calibration) -> method.Facts:
    presets = "; ".join(
        f"{name}: {words.count(p.replicates, 'replicate')}, and {p.aa_replicates} of the baseline against itself"
        for name, p in found.presets.items()
    )
    return [
        (
            "Recording",
            "Replicates as a sweep makes them (scripts/benchmark.py: fresh servers, blocks A B B A), of the baseline "
            "against itself; in a planted scenario the variant's server keeps a core busy for the stated share of the "
            f"time after each network's call. A request takes {words.seconds(found.request_s)} at the median.",
        ),
        (
            "Judging",
            "Consecutive replicates make one independent comparison, as many as the preset default has; the noise "
            "floor comes from other A/A replicates. The power is estimated from all recorded replicates: "
            f"{calibration.DRAWS} draws of as many as the preset has, without replacement.",
        ),
        ("Presets", presets),
        *((term, text) for term, text in method.host_facts(found.host)),
    ]


# --- tables ---------------------------------------------------------------------------------------------------------


def tables(found: Calibration) -> list[dict]:
    return [verdict_table(found), power_table(found)]


def verdict_table(found: Calibration) -> dict:
    heads = ["scenario", "true slow-down", "found, mean", "comparisons", *words.VERDICTS, "blocks flagged"]
    rows = []
    for scenario in found.scenarios:
        judged = found.judged[scenario.name]
        counts = calibration.count_verdicts(judged)
        estimate = stats.speedup(scenario.log_ratios) if scenario.log_ratios else None
        flagged = f"{scenario.flagged_blocks} of {scenario.blocks}"
        slower = calibration.slowdown_of(estimate) if estimate else None
        rows.append(
            [
                scenario.name,
                words.percent(scenario.slowdown) if scenario.slowdown else "none",
                words.with_interval(slower.value, slower.low, slower.high, words.percent) if slower else "n/a",
                str(len(judged)),
                *(str(counts.get(verdict, 0)) for verdict in words.VERDICTS),
                flagged,
            ]
        )
    size = words.count(found.presets["default"].replicates, "replicate")
    note = f"Independent comparisons of {size} each, as the default has."
    return {"label": "What the verdicts say where the truth is known", "note": note, "heads": heads, "rows": rows}


def power_table(found: Calibration) -> dict:
    heads = ["planted slow-down", *(f"found with {name}" for name in found.powers)]
    rows = [
        [words.percent(s.slowdown), *(words.percent(powers.get(s.slowdown)) for powers in found.powers.values())]
        for s in planted(found)
    ]
    note = f"The share of comparisons that say regressed; {words.percent(RIGHT_SHARE)} is what a preset should reach."
    return {"label": "How small a slow-down is found", "note": note, "heads": heads, "rows": rows}


# --- pictures -------------------------------------------------------------------------------------------------------


def pictures(found: Calibration) -> dict[str, tuple[Figure, str]]:
    """Figures by file name, each with what it shows for those who do not see it."""
    curves = []
    for preset, powers in found.powers.items():
        known = {0.0: found.wrong_aa / max(len(found.judged["aa"]), 1), **powers}
        sizes = [s for s in sorted(known) if known[s] is not None]
        if len(sizes) > 1:
            curves.append(power_plot.Curve(preset, sizes, [known[s] for s in sizes]))
    power_frame = style.Frame(title(found), f"{found.what}: how often a planted slow-down is called regressed", "")
    aa = found.judged["aa"]
    held = sum(c.speedup.low <= 1 <= c.speedup.high for c in aa)
    wrong = words.count(found.wrong_aa, "verdict") + (" claims" if found.wrong_aa == 1 else " claim")
    aa_frame = style.Frame(
        f"{held} of {len(aa)} intervals hold the truth; {wrong} a difference" if aa else "No A/A comparison",
        f"{found.what}: the baseline against itself, ratio with its 95 % interval",
        "rings: intervals that miss 1",
    )
    return {
        "power": (power_plot.draw(curves, RIGHT_SHARE, power_frame), "Line plot: share found by planted slow-down."),
        "aa": (aa_plot.draw(aa, aa_frame), "Every A/A comparison's ratio with its interval."),
    }


# --- the page -------------------------------------------------------------------------------------------------------


def render(found: Calibration, svgs: Mapping[str, tuple[str, str]]) -> str:
    """The page as HTML. svgs: name -> (the picture's SVG text, its alternative text)."""
    letters, inline = inline_svgs([svg for svg, _ in svgs.values()])
    drawn = [
        {"id": name, "svg": Markup(svg), "alt": alt, "caption": f"{name}.svg · {name}.png"}
        for (name, (_, alt)), svg in zip(svgs.items(), inline, strict=True)
    ]
    page = {
        "title": title(found),
        "what": found.what,
        "letters": Markup(letters),
        "alarms": alarms(found),
        "sentences": sentences(found),
        "pictures": drawn,
        "tables": tables(found),
        "facts": facts(found),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(page=page, css=Markup(CSS.read_text(encoding="utf-8")))
