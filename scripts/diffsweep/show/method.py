"""The report's facts in words: how this sweep was measured, on what, with which versions, and how to do it again."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from diffsweep.analysis.columns import FID_MARGIN
from diffsweep.analysis.stats import FASTEST_SHARE, REQUEST_ERRORS, minimum_sample
from diffsweep.analysis.verdicts import LEAST_THRESHOLD
from diffsweep.measure.pairing import SHARERS
from diffsweep.show import words
from diffsweep.show.cells import Cell
from diffsweep.show.costs import price_words

Facts = list[tuple[str, str]]

# The packages whose versions decide a measurement or a score; others stand in the receipts.
PACKAGES = (
    "python",
    "torch",
    "diffusers",
    "transformers",
    "torchao",
    "onnxruntime",
    "openvino",
    "nncf",
    "tensorrt",
    "optimum-onnx",
    "torchmetrics",
    "numpy",
)


def method(cells: Sequence[Cell]) -> Facts:
    """How it was measured, with this run's numbers."""
    plan = cells[0].plan
    facts = [("Latency", _latency(plan)), ("Intervals", _intervals()), ("Verdicts", _verdicts())]
    facts += [(_about("Noise floor", cell, cells), _noise(cell)) for cell in cells]
    facts += [
        ("Load", _load(plan)),
        *_arrivals(cells),
        *_costs(cells),
        ("Images", _images(plan, cells)),
        ("Quality verdict", _quality(plan)),
    ]
    return facts


def _about(term: str, cell: Cell, cells: Sequence[Cell]) -> str:
    return term if len(cells) == 1 else f"{term}, {cell.name}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _latency(plan: Mapping) -> str:
    p = plan["protocol"]
    replicates, total = words.count(p["replicates"], "replicate"), p["replicates"] * p["requests"]
    aa = p.get("aa_replicates", p["replicates"])
    return _one_line(f"""
        Every variant was asked in turns with the baseline {plan["baseline"]}, in blocks A B B A of
        {words.count(p["block"], "request")}, with the same prompts and seeds on both sides: {replicates} ×
        {p["requests"]} = {total} measured requests a variant, {p["distinct_prompts"]} prompts; the baseline against
        itself in {words.count(aa, "replicate")}. A replicate is a fresh start of the servers; on one machine (not on a
        cluster), variants take turns beside one start of the baseline's, each on its own server (on a GPU each beside a
        start of its own). Those that differ only in what a request carries (steps, scheduler, guidance) take turns on
        one server, A B C D, D C B A: up to {SHARERS} share the requests to the baseline. The first {p["warmup"]}
        requests to a server are warm-up and are not counted; on a warm one it is one for each variant and side.
        Jobs had the machine to themselves. End to end is the client's time from sending to the last byte.
    """)


def _intervals() -> str:
    return _one_line(f"""
        95 % throughout. A speed-up compares undisturbed requests: of each part of a request, each step by its place,
        the mean of the fastest {FASTEST_SHARE:.0%}, added up; where typical requests tell another, a warning says so.
        Speed-ups, means and throughputs: from the variation between replicates (Student's t; speed-ups of ten or more
        replicates: 20 % trimmed, Yuen); of throughputs and energy, never less than {REQUEST_ERRORS:g} standard errors
        of the requests' own noise.
        Percentiles: from order statistics, wider by what replicates differ; P95 takes {minimum_sample(0.95)} requests,
        P99 {minimum_sample(0.99)}, else it is n/a. CLIP score: bootstrap over prompts; FID: jackknife over prompts;
        shares of attributes: Clopper and Pearson's, of as many answers as the spread between prompts is worth.
        Percentiles and means leave no request out.
    """)


def _verdicts() -> str:
    return _one_line(f"""
        improved: the whole interval of the speed-up lies above the threshold; regressed: below; within noise:
        inside; cannot tell: anything else. The threshold is twice the noise floor, at least
        {words.percent(LEAST_THRESHOLD)}.
    """)


def _noise(cell: Cell) -> str:
    aa, floor = cell.host.get("aa"), cell.host.get("noise_floor")
    baseline = cell.plan["baseline"]
    if not aa:
        return f"n/a: {baseline} was not measured against itself, so nothing can be claimed."
    ratio = words.with_interval(aa["value"], aa["low"], aa["high"], words.fixed(3))
    if words.missing(floor):
        return f"n/a: {baseline} against itself gave a ratio of {ratio}, and one replicate gives no interval."
    return _one_line(f"""
        {baseline} against itself (A/A test) gave a ratio of {ratio}: a noise floor of {words.percent(floor)},
        so nothing below {words.percent(cell.host["threshold"])} is claimed.
    """)


def _load(plan: Mapping) -> str:
    p = plan["protocol"]
    listed = words.listing([f"{level:g}" for level in p.get("levels", [])], 9)
    climbed = f"""
        1, 2, 4, ... clients (at most {p.get("max_clients", "?")}), in each replicate under load (the first
        {p.get("load_replicates", p["replicates"])}) until two levels in turn raised the throughput by less than 3 %
        (where one gained after one that had not, the best before was run again, since the machine may have changed its
        pace); a level that most replicates did not reach is not used
    """
    return _one_line(f"""
        Closed loop with {f"{listed} clients" if listed else climbed}; {p.get("requests_per_level", "?")} requests a
        level after the ramp-up, at least one a client. A level is valid when errors stay under 1 %, Little's law holds
        within 3 %, and none of its thirds is more than 10 % off their mean, its own standard error allowed for (of
        3 × 8 requests that differ by 5 % this finds a last third that is 25 % slower in 9 of 10 cases, and hardly ever
        one that is 15 % slower). At capacity are the valid levels whose interval reaches 97 % of the highest
        throughput: the first is the knee, the last is the sustained throughput (not the highest, which of equal levels
        is the luckiest).
    """)


def _arrivals(cells: Sequence[Cell]) -> Facts:
    """How the highest rates were searched, where any was."""
    settings = cells[0].plan.get("arrivals") or {}
    objectives = [
        row["objective_s"] for cell in cells for row in cell.rows if not words.missing(row.get("objective_s"))
    ]
    if not objectives:
        return []
    multiple = f"{settings.get('objective_multiple', 0):g} times the baseline's unloaded latency"
    origin = "given in the config" if cells[0].plan["protocol"].get("objective_s") else multiple
    text = f"""
        Open loop: Poisson arrivals on a fixed schedule, latency from the scheduled time, whatever the server does. The
        objective, {words.seconds(objectives[0])} ({origin}), is the same for all variants of a target. The highest rate
        is bracketed and bisected to {words.percent(settings.get("tolerance"))}; two runs agree that it is within and
        two that the next is over. Within: P95 within the objective and errors under 1 %. The figure is the rate at
        which 5 % of the requests are late, by a logistic fit to all runs of a search. A run is not valid when the
        client sent 1 % of its requests late by over {words.percent(settings.get("lateness"))} of the service time.
        {settings.get("searches", 1)} searches a variant, each by a fresh server.
    """
    return [("Arrivals", _one_line(text))]


def _costs(cells: Sequence[Cell]) -> Facts:
    """One fact per target: its price, with date and source."""
    facts = []
    for name in dict.fromkeys(cell.target for cell in cells):
        price = cells[0].plan["targets"][name].get("price")
        term = "Cost" if len(cells[0].plan["targets"]) == 1 else f"Cost, {name}"
        facts.append((term, _price(price) if price else "n/a: the target has no price."))
    return facts


def _price(price: Mapping) -> str:
    return f"{price_words(price)} Over the sustained throughput at 100 % utilisation; never from 1 / latency."


def _images(plan: Mapping, cells: Sequence[Cell]) -> str:
    q = plan["quality"]
    floor = next(
        (row["fid_floor"] for cell in cells for row in cell.rows if not words.missing(row.get("fid_floor"))), None
    )
    real = "" if floor is None else f"(as many real images have {words.number(floor)})"
    return _one_line(f"""
        {q["images"]} images a variant, prompts of {q.get("prompts")}, seeds from {q.get("seed", 0)}, the same
        initial noise for every variant. FID with the features of {q.get("fid")} against reference images {real}; CLIP
        score with {q.get("clip")}; SSIM and PSNR image by image against the baseline. FID depends on the number
        of images: compare it within this report only.
    """)


def _quality(plan: Mapping) -> str:
    quality = plan["quality"]
    margin, share = f"±{quality.get('clip_margin', 0):g}", words.percent(quality.get("fid_margin", FID_MARGIN))
    return _one_line(f"""
        CLIP score and FID are compared with the baseline's in pairs, each against a margin: {margin} for the CLIP
        score, ±{share} of the baseline's FID. equivalent: the whole interval lies within the margin; worse, better:
        wholly beyond it; not worse: it may reach beyond it, but only on the better side; cannot tell: anything else.
        Images are worse if either says so, and lose nothing only if both say so. “No significant difference” is not
        equality.
    """)


# --- the machine ----------------------------------------------------------------------------------------------------


def machine(cells: Sequence[Cell], hosts: Mapping[tuple[str, str], Mapping[str, Any]]) -> Facts:
    """What was measured on, per target. hosts: model and target -> a replicate's note of its host."""
    facts: Facts = []
    for target in dict.fromkeys(cell.target for cell in cells):
        host = next((hosts[key] for key in hosts if key[1] == target and hosts[key]), {})
        prefix = "" if len(cells[0].plan["targets"]) == 1 else f"{target}: "
        settings = cells[0].plan["targets"][target]
        threads = settings.get("threads")
        threads = host.get("cores_usable", threads) if threads == "all" else threads
        about = f"{settings['name']}: device {settings.get('device')}, {threads} threads a server"
        facts += [(prefix + term, text) for term, text in [("Target", about), *host_facts(host)]]
    return facts


def host_facts(host: Mapping) -> Facts:
    """A replicate's note of its host, in words."""
    cores = host.get("cores", host.get("cpus"))
    known = [
        ("Processor", host.get("cpu") or host.get("cpu_model")),
        ("Cores", f"{cores}, of which {host['cores_usable']} usable" if host.get("cores_usable") else cores),
        ("Features", ", ".join(host.get("cpu_features") or [])),
        ("Memory", words.size(host["memory_bytes"]) if host.get("memory_bytes") else None),
        ("GPU", ", ".join(_gpu(gpu) for gpu in host.get("gpus") or []) or "none"),
        ("System", f"{host.get('architecture', '')} {host.get('kernel', '')}".strip()),
        ("Virtual machine", {True: "yes", False: "no"}.get(host.get("virtual_machine"))),
    ]
    return [(term, str(text)) for term, text in known if text not in (None, "")]


def _gpu(gpu: Any) -> str:
    if not isinstance(gpu, Mapping):
        return str(gpu)
    return f"{gpu.get('name')} (driver {gpu.get('driver', words.NOT_MEASURED)})"


def versions(found: Mapping[str, Mapping[str, str]]) -> dict:
    """Environment -> package -> version, as a table: a line per environment, a column per package that occurs."""
    present = [p for p in PACKAGES if any(p in packages for packages in found.values())]
    rows = [[name, *(packages.get(p, "–") for p in present)] for name, packages in found.items()]
    return {"heads": ["environment", *present], "rows": rows}


# --- the run --------------------------------------------------------------------------------------------------------


def useful_time(cells: Sequence[Cell], run: Mapping | None, runs: set[str], now_unix_s: float) -> str:
    """Wall time over the time spent in measured requests, load levels and making images."""
    noted = [cell.host.get("useful_s") or {} for cell in cells]
    requests_s, levels_s, images_s = (sum(n.get(key) or 0 for n in noted) for key in ("requests", "levels", "images"))
    useful_s = requests_s + levels_s + images_s
    if not useful_s:
        return "n/a: nothing was measured."
    said = _one_line(f"""
        {words.seconds(useful_s)} of useful time (measured requests {words.seconds(requests_s)}, load levels
        {words.seconds(levels_s)}, making images {words.seconds(images_s)})
    """)
    if run is None or runs != {run["run"]}:
        return (
            f"{said}. The ratio of wall time to it is n/a: the results come from several runs, or none noted its start."
        )
    wall_s = run.get("ended_unix_s", now_unix_s) - run["started_unix_s"]
    return f"{words.seconds(wall_s)} of wall time for {said}: a ratio of {wall_s / useful_s:.2f}."


def day(unix_s: float | None) -> str:
    return words.NOT_MEASURED if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
