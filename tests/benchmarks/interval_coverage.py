"""How often do our 95 % intervals hold the truth, and how wide are they? Simulated, against the alternatives.

    python tests/benchmarks/interval_coverage.py [--simulations 20000] [--only throughput shares]

Prints one table per kind of interval. A coverage below 93 % is a defect (METHOD.md); the methods that were not taken
stand beside the one that was. Needs the workflow environment; takes about a minute per 10,000 simulations.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import stats as scipy_stats
from scipy.special import digamma, polygamma

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import queueing  # noqa: E402
import simulation  # noqa: E402
from diffsweep.analysis import cost, load, stats  # noqa: E402
from diffsweep.analysis.arrivals import Arrivals, rate_estimate  # noqa: E402
from diffsweep.analysis.stats import Estimate  # noqa: E402
from diffsweep.measure import capacity  # noqa: E402
from diffsweep.measure.arrivals import Limits  # noqa: E402
from diffsweep.quality import frechet, resampling  # noqa: E402
from diffsweep.sweep.plan import PRESETS  # noqa: E402

# --- ways to an interval of the speed-up that were not taken ---


def bootstrap_of_replicates(ratios: np.ndarray) -> Estimate:
    """Percentile bootstrap of the replicates: of three, roughly their range."""
    draws = np.random.default_rng(0).integers(0, len(ratios), (500, len(ratios)))
    low, high = np.quantile(ratios[draws].mean(axis=1), [0.025, 0.975])
    return stats.exponential(Estimate(float(ratios.mean()), float(low), float(high)))


def normal_of_replicates(ratios: np.ndarray) -> Estimate:
    """1.96 standard errors, as for a large sample."""
    mean, half = float(ratios.mean()), 1.96 * float(ratios.std(ddof=1)) / math.sqrt(len(ratios))
    return stats.exponential(Estimate(mean, mean - half, mean + half))


SPEEDUP_METHODS: dict[str, Callable[[np.ndarray], Estimate]] = {
    "over replicates (ours)": stats.speedup,
    "1.96 standard errors": normal_of_replicates,
    "bootstrap of replicates": bootstrap_of_replicates,
}


def speedup_table(simulations: int, replicates: int, requests: int) -> None:
    print(f"\nspeed-up, {replicates} replicates of {requests} requests a side: coverage % (median half-width %)")
    print(f"{'':24}" + "".join(f"{name:>31}" for name in SPEEDUP_METHODS))
    for name, machine in simulation.MACHINES.items():
        rng = np.random.default_rng(1)
        ratios = simulation.log_ratios(machine, rng, simulations=simulations, replicates=replicates, requests=requests)
        cells = [simulation.coverage(ratios, method, truth=1.0) for method in SPEEDUP_METHODS.values()]
        print(f"{name:24}" + "".join(f"{100 * held:22.1f} ({100 * half:5.2f})" for held, half in cells), flush=True)


# --- a variance shared between the variants of a sweep ---


def prior_of(variances: np.ndarray, freedom: int) -> tuple[float, float]:
    """(degrees of freedom, variance) of the prior that the variants share: Smyth 2004, limma's moderated t."""
    logs = np.log(variances) - digamma(freedom / 2) + math.log(freedom / 2)
    excess = logs.var(ddof=1) - polygamma(1, freedom / 2)
    most = freedom * len(variances) / 2  # what the sample can support at most
    if excess <= 0:
        return most, float(np.exp(logs.mean()))
    prior = 2 * _inverse_trigamma(float(excess))
    return min(prior, most), float(np.exp(logs.mean() + digamma(prior / 2) - math.log(prior / 2)))


def _inverse_trigamma(value: float) -> float:
    low, high = 1e-3, 1e6
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if polygamma(1, middle) > value else (low, middle)
    return math.sqrt(low * high)


def moderated_table(simulations: int, variants: int = 17, replicates: int = 3) -> None:
    print(f"\na variance shared between {variants} variants (moderated t) against Student's own, 3 replicates")
    cases = {
        "all alike": lambda rng: np.ones(variants),
        "spreads vary by 1.8": lambda rng: np.exp(0.6 * rng.standard_normal(variants)),
        "the first is 3 times noisier": lambda rng: np.r_[3.0, np.ones(variants - 1)],
        "half are 2.5 times noisier": lambda rng: np.r_[np.full(variants // 2, 2.5), np.ones(variants - variants // 2)],
    }
    print(f"{'':32}{'coverage %, all':>18}{'the first':>12}{'width / Student':>18}")
    for name, spreads in cases.items():
        rng, held, widths = np.random.default_rng(2), [], []
        for _ in range(max(200, simulations // 10)):
            values = rng.standard_normal((variants, replicates)) * spreads(rng)[:, None]
            variances, freedom = values.var(axis=1, ddof=1), replicates - 1
            prior_freedom, prior = prior_of(variances, freedom)
            shared = (prior_freedom * prior + freedom * variances) / (prior_freedom + freedom)
            half = scipy_stats.t.ppf(0.975, prior_freedom + freedom) * np.sqrt(shared / replicates)
            held.append(np.abs(values.mean(axis=1)) <= half)
            widths.append(half.mean() / (scipy_stats.t.ppf(0.975, freedom) * np.sqrt(variances / replicates)).mean())
        held = np.asarray(held)
        print(f"{name:32}{100 * held.mean():18.1f}{100 * held[:, 0].mean():12.1f}{np.mean(widths):18.2f}", flush=True)


# --- the other intervals ---


QUANTILE_METHODS: dict[str, Callable[[np.ndarray, float], Estimate | None]] = {
    "over replicates (ours)": stats.quantile_over_replicates,
    "one sample": lambda times, q: stats.quantile_estimate(times.ravel(), q),
}


def quantile_table(simulations: int) -> None:
    replicates, requests = (PRESETS["default"][key] for key in ("replicates", "requests"))
    print(
        f"\nquantiles of {replicates} x {requests} requests: coverage % of P50, P90, P95, where there is an interval"
        " (median half-width of P95, %; share with one, %)"
    )
    print(f"{'':24}" + "".join(f"{name:>41}" for name in QUANTILE_METHODS))
    for name, machine in simulation.MACHINES.items():
        rng = np.random.default_rng(3)
        times = simulation.latencies(machine, rng, simulations=simulations, replicates=replicates, requests=requests)
        cells = []
        for method in QUANTILE_METHODS.values():
            found = {q: [method(one, q) for one in times] for q in (0.5, 0.9, 0.95)}
            truths = {q: float(np.quantile(times, q)) for q in found}
            told = {q: [e for e in found[q] if e.half_width is not None] for q in found}
            held = [100 * np.mean([simulation.covers(e, truths[q]) for e in told[q]]) for q in found if told[q]]
            width = 100 * float(np.median([e.half_width / e.value for e in told[0.95]])) if told[0.95] else math.nan
            share = 100 * len(told[0.95]) / len(found[0.95])
            cells.append("".join(f"{one:8.1f}" for one in held) + f" ({width:5.2f}; {share:3.0f})")
        print(f"{name:24}" + "".join(f"{cell:>41}" for cell in cells), flush=True)


CAPACITIES = {  # clients -> images per second; a ramp ends two levels after the last that gained
    "full with one client": {1: 1.0, 2: 1.0, 4: 1.0},
    "climbing": {1: 0.6, 2: 0.95, 4: 1.0, 8: 1.0},
    "falls with too many": {1: 0.6, 2: 1.0, 4: 1.0, 8: 0.9},
    "one level": {1: 1.0},
}


def throughput_table(simulations: int) -> None:
    """The sustained level's images per second; beside it the luckiest level's, which was not taken."""
    sizes = " x ".join(str(simulation.default_of("protocol", n)) for n in ("load_replicates", "requests_per_level"))
    print(f"\nsustained throughput, {sizes} requests a level: coverage % of that level's mean (bias %, half-width %)")
    print(f"{'':24}" + "".join(f"{name:>27}" for name in CAPACITIES) + f"{'full; the highest level':>27}")
    for name, machine in simulation.MACHINES.items():
        cells = []
        for capacities in CAPACITIES.values():
            levels = simulation.loads(
                machine, np.random.default_rng(6), simulations=max(100, simulations // 10), capacities=capacities
            )
            choices = (load.sustained, highest) if not cells else (load.sustained,)
            cells += [_of_throughput(simulation.covered(levels, choose)) for choose in choices]
        print(f"{name:24}" + "".join(f"{cell:>27}" for cell in (cells[0], *cells[2:], cells[1])), flush=True)


def highest(levels: list[load.Level]) -> load.Level | None:
    return max((level for level in levels if level.valid), key=lambda level: level.images_per_s.value, default=None)


def _of_throughput(found: tuple[float, float, list[Estimate]]) -> str:
    held, bias, estimates = found
    half = float(np.median([estimate.half_width / estimate.value for estimate in estimates]))
    return f"{100 * held:.1f} ({100 * bias:+.1f}, {100 * half:.1f})"


def steady_table(simulations: int) -> None:
    """How often a level is called not steady whose last third is so much slower."""
    slower = (0.0, 0.10, 0.15, 0.20, 0.25, 0.30, 0.40)
    print("\nlevels called not steady, %, by how much slower their last third is")
    print(f"{'':24}" + "".join(f"{share:>8.0%}" for share in slower))
    for name, machine in simulation.MACHINES.items():
        times = simulation.latencies(
            machine, np.random.default_rng(7), simulations=max(100, simulations // 20), replicates=3, requests=8
        )
        found = [np.mean([_not_steady(one * np.where(np.arange(8) < 5, 1, 1 + s)) for one in times]) for s in slower]
        print(f"{name:24}" + "".join(f"{100 * share:8.1f}" for share in found), flush=True)


def _not_steady(replicates: np.ndarray) -> bool:
    windows = [capacity.Window(0.0, tuple(capacity.Burst(t, 1, 1) for t in own), tuple(own)) for own in replicates]
    return capacity.disagreement(windows) > capacity.WINDOWS_AGREE_WITHIN


def two_throughputs_table(simulations: int, replicates: int = 3, requests: int = 8) -> None:
    print(
        f"\ntwo throughputs of {replicates} x {requests}: coverage % of their ratio, of the seconds saved, of payback"
    )
    for name, machine in simulation.MACHINES.items():
        rng, count = np.random.default_rng(8), max(100, simulations // 5)
        size = {"simulations": count, "replicates": replicates, "requests": requests}
        ours, theirs = (rate / simulation.latencies(machine, rng, **size).mean(axis=2) for rate in (2.0, 1.0))
        truth, pairs = float((1 / theirs).mean() - (1 / ours).mean()), list(zip(ours, theirs, strict=True))
        saved = [stats.difference_interval(1 / b, 1 / a) for a, b in pairs]
        paid = [e for each in saved if (e := cost.payback(60.0, each)[1]) is not None and e.low is not None]
        held = [
            [simulation.covers(stats.ratio_interval(a, b), ours.mean() / theirs.mean()) for a, b in pairs],
            [simulation.covers(each, truth) for each in saved],
            [simulation.covers(each, 60 / truth) for each in paid],
        ]
        print(f"{name:24}" + "".join(f"{100 * np.mean(each):10.1f}" for each in held), flush=True)


def searches_table(simulations: int) -> None:
    """The highest rate within the objective, of simulated searches against the true one; beside it Student's interval
    of the highest rates that held, which was not taken. Machines that drift or walk have no one rate: their long run,
    which is taken for the truth, is slower than any run of a search."""
    together, limits = simulation.default_of("arrivals", "searches"), Limits(0.3, 0.1, 0.01)
    print(
        f"\nhighest rate, {together} searches: coverage % of the true one where there is an interval (bias, half-width,"
    )
    print("share with one, %); that of the rates that held")
    for name, machine in simulation.MACHINES.items():
        found = queueing.searches_on(machine, limits, together * max(30, simulations // 100))
        truth = queueing.true_rate(queueing.served_by(machine, limits.service_s), limits)
        cells = []
        for method in (rate_estimate, of_the_rates_that_held):
            estimates = [e for each in zip(*[iter(found)] * together, strict=True) if (e := method(each)) is not None]
            told = [e for e in estimates if e.half_width is not None]
            held = 100 * np.mean([simulation.covers(e, truth) for e in told]) if told else math.nan
            bias = 100 * np.mean([math.log(e.value / truth) for e in estimates])
            half = 100 * np.median([e.half_width / e.value for e in told]) if told else math.nan
            cells.append(f"{held:.1f} ({bias:+.1f}, {half:.1f}, {100 * len(told) / len(estimates):.0f})")
        print(f"{name:24}" + "".join(f"{cell:>31}" for cell in cells), flush=True)


def of_the_rates_that_held(searches: Sequence[Arrivals]) -> Estimate | None:
    rates = [math.log(search.rate) for search in searches if search.rate is not None]
    return stats.exponential(stats.replicate_interval(rates)) if rates else None


def share_table(simulations: int) -> None:
    images = simulation.default_of("quality", "images")
    print(f"\nshares of {images} images, by the true share: coverage %; beside it that of the bootstrap")
    truths = (0.5, 0.95, 0.985, 0.995, 0.9975, 0.999)
    print(f"{'':32}" + "".join(f"{truth:>14}" for truth in truths))
    for name, per_prompt, answers in (("yes or no", 1, 1), ("5 answers", 1, 5), ("yes or no, 4 a prompt", 4, 1)):
        ids, cells = [str(i // per_prompt) for i in range(images)], []
        for truth in truths:
            rng, held = np.random.default_rng(10), []
            for seed in range(max(200, simulations // 20)):
                prompts = images // per_prompt
                chance = rng.beta(truth, 1 - truth, prompts) if per_prompt > 1 else np.full(prompts, truth)
                values = rng.binomial(answers, np.repeat(chance, per_prompt)) / answers
                both = resampling.share_mean(values, ids), resampling.bootstrap_mean(values, ids, 300, seed)
                held.append([mean.low <= truth <= mean.high for mean in both])
            ours, theirs = 100 * np.mean(held, axis=0)
            cells.append(f"{ours:.1f} ({theirs:.0f})")
        print(f"{name:32}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


def fid_difference_table(simulations: int, features: int = 24) -> None:
    n = simulation.default_of("quality", "images")
    print(
        f"\nFID(variant) - FID(baseline), {n} images of {features} features, paired: coverage % of the mean at this n"
    )
    for noise in (0.05, 0.2, 0.5):
        rng, found, shape = np.random.default_rng(11), [], (n, features)
        for _ in range(max(100, simulations // 40)):
            prompt = rng.standard_normal(shape)
            baseline, reference = (0.7 * (prompt + rng.standard_normal(shape)) for _ in range(2))
            variant = 1.05 * baseline + noise * rng.standard_normal(shape)
            found.append(frechet.difference(variant, baseline, reference, simulation.each(n)))
        mean = np.mean([d.value for d in found])
        held = np.mean([d.low <= mean <= d.high for d in found])
        print(f"{f'noise {noise:g}':24}{100 * held:10.1f}", flush=True)


def fid_table(simulations: int, n: int = 200) -> None:
    print(f"\nFID, {n} images a side, jackknife by prompt: coverage % of the mean at this n, and of the true distance")
    print(f"{'':44}{'true':>8}{'mean FID':>10}{'coverage':>10}{'corrected':>11}{'coverage':>10}")
    for features, shift, scale, common in (
        (48, 0.0, 1.0, 0.0),
        (48, 1.0, 1.1, 0.0),
        (48, 1.0, 1.1, 0.7),
        (64, 0.5, 1.1, 0.9),
        (32, 2.0, 1.0, 0.5),
    ):
        rng = np.random.default_rng(4)
        spread = np.exp(-1.5 * np.arange(features) / features)
        truth = shift**2 + float((((scale - 1) * spread) ** 2).sum())
        found = [_fid_of_gaussians(rng, n, spread, shift, scale, common) for _ in range(max(100, simulations // 40))]
        mean = float(np.mean([d.value for d in found]))
        plain = np.mean([d.low <= mean <= d.high for d in found])
        true = np.mean([d.corrected_low <= truth <= d.corrected_high for d in found])
        corrected = float(np.mean([d.corrected for d in found]))
        name = f"{features} features, prompts explain {common:.0%}"
        print(f"{name:44}{truth:8.2f}{mean:10.2f}{100 * plain:10.1f}{corrected:11.2f}{100 * true:10.1f}", flush=True)


def _fid_of_gaussians(rng, n: int, spread: np.ndarray, shift: float, scale: float, common: float) -> frechet.Distance:
    shape = (n, len(spread))
    prompt = math.sqrt(common) * rng.standard_normal(shape)
    ours, theirs = (prompt + math.sqrt(1 - common) * rng.standard_normal(shape) for _ in range(2))
    ours = ours * spread * scale
    ours[:, 0] += shift
    return frechet.distance(ours, theirs * spread, simulation.each(n))


def clip_table(simulations: int) -> None:
    print("\nCLIP score, mean over 200 images, bootstrap by prompt: coverage %")
    for name, per_prompt, heavy in (
        ("one image a prompt", 1, False),
        ("four images a prompt", 4, False),
        ("heavy tails", 1, True),
    ):
        rng, held, count = np.random.default_rng(5), 0, max(400, simulations // 4)
        ids = [str(i // per_prompt) for i in range(200)]
        for seed in range(count):
            own = rng.standard_t(3, 200) if heavy else rng.standard_normal(200)
            mean = resampling.bootstrap_mean(
                np.repeat(rng.standard_normal(200 // per_prompt), per_prompt) + own, ids, 1000, seed
            )
            held += mean.low <= 0 <= mean.high
        print(f"{name:32}{100 * held / count:10.1f}", flush=True)


TABLES: dict[str, Callable[[int], None]] = {
    "speed-up": lambda simulations: [speedup_table(simulations, *size) for size in simulation.sizes()],
    "moderated": moderated_table,
    "quantiles": quantile_table,
    "throughput": throughput_table,
    "steady": steady_table,
    "two-throughputs": two_throughputs_table,
    "searches": searches_table,
    "shares": share_table,
    "fid": fid_table,
    "fid-difference": fid_difference_table,
    "clip": clip_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=10000)
    parser.add_argument(
        "--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE", help=f"of {', '.join(TABLES)}"
    )
    options = parser.parse_args()
    for name in options.only:
        TABLES[name](options.simulations)


if __name__ == "__main__":
    main()
