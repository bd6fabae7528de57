"""The calibration as a page: one self-contained HTML file with its pictures and tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from diffsweep.analysis import calibration, stats, verdicts
from diffsweep.analysis.calibration import RIGHT_SHARE, Comparison, Preset, Scenario
from diffsweep.analysis.stats import Estimate
from diffsweep.show import aa_plot, method, power_plot, style, words
from diffsweep.show.embed import inline_svgs

HERE = Path(__file__).parent
TEMPLATE, CSS = HERE / "calibration.html.j2", HERE / "report.css"


SAMPLING_LIMIT = 0.005  # of one core: what sampling beside the requests may cost
SCALE_POINTS = 101


@dataclass(frozen=True)
class Origin:
    """Where the replicates come from. Each with how many: revisions, of (revision, changed since); machines, by CPU.

    environments: name -> package -> version, of the servers.
    """

    started_unix_s: float | None
    ended_unix_s: float | None
    revisions: Mapping[tuple[str | None, bool | None], int]
    machines: Mapping[str | None, int]
    environments: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Calibration:
    """What was recorded, and what it says.

    presets: by name; judged: preset -> scenario name -> its independent comparisons; least: preset -> what
    calibration.least_found says, None where too few replicates were recorded.
    failures: replicates that ended without a result, in words. sampling_share: of one core, what the sampler used.
    """

    what: str
    aa: Scenario
    scenarios: Sequence[Scenario]
    presets: Mapping[str, Preset]
    judged: Mapping[str, Mapping[str, Sequence[Comparison]]]
    least: Mapping[str, np.ndarray | None]
    origin: Origin
    host: Mapping
    request_s: float
    failures: Sequence[str]
    sampling_share: float | None

    def compared(self, scenario: Scenario, preset: str = "default") -> Sequence[Comparison]:
        return self.judged[preset][scenario.name]

    def wrong(self, scenario: Scenario, preset: str = "default") -> int:
        return calibration.count_wrong(self.compared(scenario, preset), scenario.slowdown)


def planted(found: Calibration) -> list[Scenario]:
    return sorted((s for s in found.scenarios if s.slowdown and not s.disturbed), key=lambda s: s.slowdown)


def largest(found: Calibration) -> float:
    return max((s.slowdown for s in planted(found)), default=0.0)


# --- words ----------------------------------------------------------------------------------------------------------


def title(found: Calibration) -> str:
    aa = found.compared(found.aa)
    if len(aa) < calibration.LEAST_AA:
        return f"What this machine can tell is not known after {words.count(len(aa), 'A/A comparison')}"
    if not calibration.is_fit(aa):
        return "This machine must not be trusted: it sees differences between two things that are the same"
    sizes = {name: calibration.found_from(least) for name, least in found.least.items()}
    # Twice the largest that was planted is further than the recorded noise is known to reach.
    known = {name: size for name, size in sizes.items() if size and size.value <= 2 * largest(found)}
    if not known:
        return f"This machine does not reliably tell even {words.percent(largest(found))}"
    parts = [f"from {said(size, tenths)} on with {name}" for name, size in known.items()]
    return f"This machine tells differences {' and '.join(parts)}"


def said(estimate: Estimate | None, show: Callable[[float], str]) -> str:
    return "n/a" if estimate is None else words.with_interval(estimate.value, estimate.low, estimate.high, show)


def tenths(value: float) -> str:
    return f"{100 * value:.1f} %"


def said_share(power: Estimate | None) -> str:
    """A power with its interval. Never 100 %, which no sample shows."""
    if power is not None and power.low > 0.999:
        return "over 99.9 %"
    return said(power, lambda value: tenths(min(value, 0.999)))


def sentences(found: Calibration) -> list[str]:
    told = [aa_sentence(found, name) for name in found.presets]
    told += [power_sentence(found, name) for name in found.presets if found.least[name] is not None]
    told += [miss_sentence(s) for s in found.scenarios if not s.disturbed and calibration.misses(s)]
    told += disturbed_sentences(found)
    spread = stats.mean_and_deviation(found.aa.log_ratios)[1]
    if spread is not None:
        told.append(
            f"From start to start of the servers, the ratio varies by {words.percent(spread)} (standard deviation of "
            f"{len(found.aa.replicates)} replicates)."
        )
    if found.sampling_share is not None:
        told.append(
            f"Sampling memory and devices beside the requests took {100 * found.sampling_share:.2f} % of one core's "
            f"time, by the CPU clock of the thread that does it; {100 * SAMPLING_LIMIT:.1f} % are allowed. What a "
            "request loses to it, caches and waking up included, was not measured."
        )
    return told


def aa_sentence(found: Calibration, preset: str) -> str:
    aa, wrong = found.compared(found.aa, preset), found.wrong(found.aa, preset)
    if not aa:
        return f"Too few A/A replicates were recorded for a comparison by the preset {preset}."
    return (
        f"Two servers of the same artifact were compared {words.count(len(aa), 'time')} by the preset {preset}: "
        f"{wrong} got a verdict that claims a difference, {said(stats.share_interval(wrong, len(aa)), tenths)}; "
        "5 % are allowed."
    )


def power_sentence(found: Calibration, preset: str) -> str:
    """Of the smallest planted slow-down that is found often enough, or else of the largest."""
    powers = {s.slowdown: calibration.power(found.least[preset], s.slowdown) for s in planted(found)}
    enough = [s for s in planted(found) if powers[s.slowdown].value >= RIGHT_SHARE]
    scenario = min(enough or planted(found)[-1:], key=lambda s: s.slowdown)
    from_size = calibration.found_from(found.least[preset])
    return (
        f"The preset {preset} calls a slow-down of {words.percent(scenario.slowdown)} regressed in "
        f"{said_share(powers[scenario.slowdown])} of sweeps, by the noise of all replicates, and one from "
        f"{said(from_size, tenths)} on in {words.percent(RIGHT_SHARE)}. Of the independent comparisons of that size, "
        f"{counted(found, scenario, preset)} said so."
    )


def counted(found: Calibration, scenario: Scenario, preset: str) -> str:
    """How many of a scenario's own independent comparisons say regressed, with the exact interval of the share."""
    judged = found.compared(scenario, preset)
    if not judged:
        return "none"
    times = calibration.count_verdicts(judged).get(verdicts.REGRESSED, 0)
    exact = stats.share_interval(times, len(judged))
    return f"{times} of {len(judged)} ({words.interval(exact.low, exact.high, words.percent)})"


def miss_sentence(scenario: Scenario) -> str:
    slower = calibration.slowdown_of(stats.speedup(scenario.log_ratios))
    return (
        f"The {words.count(len(scenario.replicates), 'replicate')} of {scenario.name} say "
        f"{said(slower, lambda value: f'{100 * value:.2f} %')}, which misses the true {100 * scenario.slowdown:.2f} %. "
        "(One interval in 20 does by chance; the power is that of the true size, not of theirs.)"
    )


def disturbed_sentences(found: Calibration) -> list[str]:
    scenarios = [s for s in found.scenarios if s.disturbed]
    compared, wrong = sum(len(found.compared(s)) for s in scenarios), sum(found.wrong(s) for s in scenarios)
    if not compared:
        return []
    flagged, measured, still, valid = (
        sum(getattr(s.blocks, part) for s in scenarios) for part in ("flagged", "measured", "still_disturbed", "valid")
    )
    few = "" if compared >= calibration.LEAST_DISTURBED else f" (a claim takes {calibration.LEAST_DISTURBED})"
    return [
        f"With another process taking a core in bursts, {wrong} of {words.count(compared, 'verdict')} were wrong, "
        f"{said(stats.share_interval(wrong, compared), tenths)}{few}. {flagged:,} of {measured:,} blocks were "
        f"flagged as disturbed; {still:,} of the {valid:,} that count stayed so after the repeats."
    ]


def alarms(found: Calibration) -> list[str]:
    aa, told = found.compared(found.aa), []
    if len(aa) >= calibration.LEAST_AA and not calibration.is_fit(aa):
        told.append("A/A comparisons claim differences too often.")
    disturbed = sum(found.wrong(s) for s in found.scenarios if s.disturbed)
    if disturbed:
        told.append(f"On a disturbed host, {words.count(disturbed, 'verdict')} claimed what is not so.")
    if found.sampling_share is not None and found.sampling_share > SAMPLING_LIMIT:
        told.append(f"Sampling took more than {100 * SAMPLING_LIMIT:.1f} % of one core's time.")
    for counts, noun in ((found.origin.machines, "machines"), (found.origin.revisions, "revisions of the code")):
        if len(counts) > 1:
            told.append(f"The replicates come from {len(counts)} {noun}, and are no sample of any one.")
    if found.failures:
        told.append(f"{words.count(len(found.failures), 'replicate')} failed and is left out: {found.failures[0]}")
    return told


def facts(found: Calibration) -> method.Facts:
    presets = "; ".join(
        f"{name}: {words.count(p.replicates, 'replicate')}, and {p.aa_replicates} of the baseline against itself"
        for name, p in found.presets.items()
    )
    undisturbed = sum(len(s.replicates) for s in found.scenarios if not s.disturbed)
    return [
        (
            "Recording",
            "Replicates as a sweep makes them (scripts/benchmark.py: fresh servers, blocks A B B A), of the baseline "
            "against itself; in a planted scenario the variant's server keeps a core busy for the stated share of the "
            f"time after each network's call. A request takes {words.seconds(found.request_s)} at the median.",
        ),
        (
            "Judging",
            "Consecutive replicates make one independent comparison, as many as the preset has, judged by a sweep's "
            "rules; the noise floor comes from other A/A replicates. Wrong: a change claimed of nothing or in the "
            "wrong direction, or within noise said of a slow-down beyond the threshold.",
        ),
        (
            "Power",
            f"{calibration.DRAWS:,} simulated sweeps of each preset and size, from the noise of all "
            f"{undisturbed} replicates on the undisturbed host (each one's distance from its scenario's mean), drawn "
            f"with replacement. The intervals come from {calibration.RESAMPLED} resamples of those replicates: what "
            "another recording of this machine would say, not another day's.",
        ),
        ("Presets", presets),
        *origin_facts(found.origin),
        *((term, text) for term, text in method.host_facts(found.host)),
    ]


def origin_facts(origin: Origin) -> method.Facts:
    changed = {True: ", with changes that were not committed", False: "", None: ", changed or not is unknown"}
    revisions = "; ".join(
        f"{revision or 'no revision is known'}{changed[dirty]} ({words.count(n, 'replicate')})"
        for (revision, dirty), n in origin.revisions.items()
    )
    environments = "; ".join(
        f"{name}: {', '.join(f'{p} {versions[p]}' for p in method.PACKAGES if p in versions)}"
        for name, versions in origin.environments.items()
    )
    return [
        ("Recorded", f"{method.day(origin.started_unix_s)} to {method.day(origin.ended_unix_s)}"),
        ("Code", revisions),
        ("Environment", environments or words.NOT_MEASURED),
    ]


# --- tables ---------------------------------------------------------------------------------------------------------


def tables(found: Calibration) -> list[dict]:
    return [verdict_table(found), power_table(found)]


def verdict_table(found: Calibration) -> dict:
    heads = ["scenario", "preset", "true slow-down", "found, mean", "comparisons", *words.VERDICTS, "wrong"]
    rows = [
        verdict_row(found, scenario, preset)
        for preset in found.presets
        for scenario in found.scenarios
        if preset == "default" or found.compared(scenario, preset)
    ]
    sizes = words.listing([f"{p.replicates} replicates with {name}" for name, p in found.presets.items()])
    return {
        "label": "What the verdicts say where the truth is known",
        "note": f"Independent comparisons of {sizes}, of the same recording. Flagged blocks are measured again, a "
        "limited number of times; those that stayed disturbed are used.",
        "heads": [*heads, "blocks flagged", "blocks still disturbed"],
        "rows": rows,
    }


def verdict_row(found: Calibration, scenario: Scenario, preset: str) -> list[str]:
    judged, blocks = found.compared(scenario, preset), scenario.blocks
    counts = calibration.count_verdicts(judged)
    slower = calibration.slowdown_of(stats.speedup(scenario.log_ratios)) if scenario.replicates else None
    return [
        scenario.name,
        preset,
        words.percent(scenario.slowdown) if scenario.slowdown else "none",
        said(slower, words.percent),
        str(len(judged)),
        *(str(counts.get(verdict, 0)) for verdict in words.VERDICTS),
        str(found.wrong(scenario, preset)),
        f"{blocks.flagged} of {blocks.measured}",
        f"{blocks.still_disturbed} of {blocks.valid}",
    ]


def power_table(found: Calibration) -> dict:
    heads = ["planted slow-down"]
    for name in found.presets:
        heads += [f"found with {name}", f"counted with {name}"]
    rows = [[words.percent(s.slowdown), *found_with(found, s)] for s in planted(found)]
    note = (
        f"The share of comparisons that say regressed, with its 95 % interval; {words.percent(RIGHT_SHARE)} is what a "
        "preset should reach. First by simulated sweeps from all replicates' noise, at the true size; then as counted "
        "in this scenario's own few replicates, which no other comparison shares."
    )
    return {"label": "How small a slow-down is found", "note": note, "heads": heads, "rows": rows}


def found_with(found: Calibration, scenario: Scenario) -> Iterator[str]:
    for name, least in found.least.items():
        yield said_share(calibration.power(least, scenario.slowdown))
        yield counted(found, scenario, name)


# --- pictures -------------------------------------------------------------------------------------------------------


def pictures(found: Calibration) -> dict[str, tuple[Figure, str]]:
    """Figures by file name, each with what it shows for those who do not see it."""
    curves = [curve_of(name, least, found) for name, least in found.least.items() if least is not None]
    power_frame = style.Frame(
        title(found),
        f"{found.what}: how often a true slow-down is called regressed",
        "bands: 95 % intervals; dots: the sizes that were planted",
    )
    aa, wrong = found.compared(found.aa), found.wrong(found.aa)
    held = sum(c.speedup.low <= 1 <= c.speedup.high for c in aa)
    claims = words.count(wrong, "verdict") + (" claims" if wrong == 1 else " claim")
    aa_frame = style.Frame(
        f"{held} of {len(aa)} intervals hold the truth; {claims} a difference" if aa else "No A/A comparison",
        f"{found.what}: the baseline against itself, ratio with its 95 % interval",
        "rings: intervals that miss 1",
    )
    return {
        "power": (
            power_plot.draw(curves, RIGHT_SHARE, power_frame),
            "Line plot: share found by true slow-down, with bands.",
        ),
        "aa": (aa_plot.draw(aa, aa_frame), "Every A/A comparison's ratio with its interval."),
    }


def curve_of(name: str, least: np.ndarray, found: Calibration) -> power_plot.Curve:
    """From no slow-down, where each claim is false, to the largest that was planted."""
    sizes = sorted({*np.linspace(0, largest(found), SCALE_POINTS), *(s.slowdown for s in planted(found))})
    powers = [calibration.power(least, size) for size in sizes]
    return power_plot.Curve(
        name,
        sizes,
        [p.value for p in powers],
        [p.low for p in powers],
        [p.high for p in powers],
        label=said_share(powers[-1]),
        dots=[sizes.index(s.slowdown) for s in planted(found)],
    )


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
