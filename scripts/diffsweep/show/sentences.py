"""What each picture says: its title, by rule from the data, and its footnote."""

from collections.abc import Sequence
from datetime import UTC, datetime

from diffsweep.show import words
from diffsweep.show.cells import Cell, requests_of
from diffsweep.show.findings import COST, KEPT, Row, is_baseline, is_ok
from diffsweep.show.pairs import Change, change

P50 = "latency_e2e_p50_s"
NO_FINDING = "No finding: on this host even the baseline differs from itself"


def measured(rows: Sequence[Row], *columns: str) -> list[Row]:
    """The variants that ended well and have all these figures."""
    return [row for row in rows if is_ok(row) and not any(words.missing(row.get(c)) for c in columns)]


def surely_below(row: Row, other: Row, column: str) -> bool:
    """Is the whole interval of `row` below the one of `other`? Where an interval is missing: no."""
    high, low = row.get(f"{column}_high"), other.get(f"{column}_low")
    return not words.missing(high) and not words.missing(low) and high < low


# --- fronts ---------------------------------------------------------------------------------------------------------


def front_with_fid(rows: Sequence[Row], column: str, name: str, show) -> str:
    """What the front of latency or cost against FID says: the best variant whose images are not shown to be worse."""
    known = measured(rows, column, "fid")
    baseline = next((row for row in known if is_baseline(row)), None)
    if baseline is None:
        return "No finding: the baseline lacks one of the two quantities"
    others = [row for row in known if not is_baseline(row)]
    better = [r for r in others if surely_below(r, baseline, column) and r.get("quality_verdict") != "worse"]
    if not others:
        return "No finding: only the baseline has both quantities"
    if not better:
        return f"No variant is shown to lower the {name} without worse images"
    best = min(better, key=lambda r: r[column])
    saved = words.percent(1 - best[column] / baseline[column])
    span = f"from {show(baseline[column])} to {show(best[column])}"
    return f"{best['variant']} lowers the {name} by {saved}, {span}; {fid_words(best, baseline)}"


def fid_words(row: Row, baseline: Row) -> str:
    """ "FID 25.1 against 24.5, images equivalent" """
    said = f"FID {words.number(row['fid'])} against {words.number(baseline['fid'])}"
    verdict = row.get("quality_verdict")
    if words.missing(verdict):
        return said
    return f"{said}, " + (
        "whether images are worse cannot be told" if verdict == "cannot tell" else f"images {verdict}"
    )


def front_with_cost(rows: Sequence[Row]) -> str:
    """What latency against cost says: which is the fastest, which the cheapest; quality is left aside."""
    known = measured(rows, P50, COST)
    if not [row for row in known if not is_baseline(row)]:
        return "No finding: no variant but the baseline has both quantities"
    fastest, cheapest = (min(known, key=lambda r, c=c: r[c]) for c in (P50, COST))

    def figures(row: Row) -> str:
        return f"{words.seconds(row[P50])}, {words.money(row[COST])} per 1,000 images"

    if fastest is cheapest:
        return f"{fastest['variant']} is both the fastest and the cheapest: {figures(fastest)}"
    return f"Fastest is {fastest['variant']} ({figures(fastest)}), cheapest {cheapest['variant']} ({figures(cheapest)})"


# --- latency and load -----------------------------------------------------------------------------------------------


def latency(rows: Sequence[Row]) -> str:
    known = sorted(measured(rows, P50), key=lambda r: r[P50])
    if not known:
        return "No latency was measured"
    first, last = known[0], known[-1]
    if first is last:
        return f"{first['variant']} answers in {words.seconds(first[P50])} at the median"
    low, high = (f"{words.seconds(row[P50])} ({row['variant']})" for row in (first, last))
    said = f"The median goes from {low} to {high}"
    baseline = next((row for row in known if is_baseline(row)), None)
    if baseline is None or baseline in (first, last):
        return said
    return f"{said}; {baseline['variant']} takes {words.seconds(baseline[P50])}"


def speedups(rows: Sequence[Row]) -> str:
    compared = [row for row in measured(rows, "speedup", "verdict") if not is_baseline(row)]
    if not compared:
        return "No variant was compared with the baseline"
    of = {verdict: [r for r in compared if r["verdict"] == verdict] for verdict in words.VERDICTS}
    said = []
    if of["improved"]:
        best = max(of["improved"], key=lambda r: r["speedup"])
        said.append(f"{len(of['improved'])} surely faster, up to {words.factor(best['speedup'])} ({best['variant']})")
    if of["regressed"]:
        said.append(f"{len(of['regressed'])} surely slower")
    unclear = len(of["within noise"]) + len(of["cannot tell"])
    if unclear:
        said.append(f"{unclear} with no difference shown")
    return f"Of {words.count(len(compared), 'variant')}: {'; '.join(said)}"


def clocks(shares: Sequence[tuple[str, float, float]]) -> str:
    """shares: per variant its name, the share of the denoising steps and the residual's, as fractions."""
    if not shares:
        return "No request was timed in parts"
    steps = [s for _, s, _ in shares]
    said = f"Denoising takes {words.percent(min(steps))} to {words.percent(max(steps))} of a request"
    if len(steps) == 1 or words.percent(min(steps)) == words.percent(max(steps)):
        said = f"Denoising takes {words.percent(steps[0])} of a request"
    off = [name for name, _, residual in shares if abs(residual) > 0.02]
    if off:
        return f"{said}; more than 2 % is unaccounted for in {words.listing(off)}"
    return f"{said}; the clocks add up, at most {words.percent(max(abs(r) for _, _, r in shares))} is unaccounted for"


def throughput(rows: Sequence[Row]) -> str:
    known = measured(rows, "images_per_s")
    if not known:
        return "No throughput was measured"
    best = max(known, key=lambda r: r["images_per_s"])
    said = f"One server sustains up to {words.number(best['images_per_s'])} images/s ({best['variant']})"
    baseline = next((row for row in known if is_baseline(row)), None)
    if baseline is None or baseline is best:
        return said
    return f"{said}, where {baseline['variant']} makes {words.number(baseline['images_per_s'])}"


def curves(rows: Sequence[Row]) -> str:
    """The highest rates within the objective where they were searched; otherwise where the knees lie."""
    rate = "rate_within_objective_images_per_s"
    known = measured(rows, rate, "objective_s")
    if known:
        best = max(known, key=lambda r: r[rate])
        said = f"Of requests that come by chance, {best['variant']} takes up to {words.number(best[rate])} images/s"
        return f"{said} with P95 within {words.seconds(best['objective_s'])}{_where_baseline(known, best, rate)}"
    knees = [row["knee_clients"] for row in measured(rows, "knee_clients")]
    if not knees:
        return "No knee was reached: more clients still meant more images per second"
    at = f"{min(knees):g}" if min(knees) == max(knees) else f"{min(knees):g} to {max(knees):g}"
    clients = "client" if at == "1" else "clients"
    return f"One server is full with {at} {clients} at once; more only wait longer"


def _where_baseline(known: Sequence[Row], best: Row, column: str) -> str:
    baseline = next((row for row in known if is_baseline(row)), None)
    if baseline is None or baseline is best:
        return ""
    return f", {baseline['variant']} {words.number(baseline[column])}"


def images(rows: Sequence[Row]) -> str:
    judged = [row for row in measured(rows, "quality_verdict") if not is_baseline(row)]
    if not judged:
        return "The same prompts and seeds through every variant"
    kept = [r for r in judged if r["quality_verdict"] in KEPT]
    worse = [r["variant"] for r in judged if r["quality_verdict"] == "worse"]
    unclear = len(judged) - len(kept) - len(worse)
    said = f"Images of {len(kept)} of {words.count(len(judged), 'variant')} are not worse than the baseline's"
    said += f"; worse: {words.listing(worse)}" if worse else ""
    return said + (f"; for {unclear} it cannot be told" if unclear else "")


def gallery_lines(row: Row) -> list[str]:
    """What stands beside a variant's images: what it changes, and how far its images are from the baseline's."""
    if is_baseline(row):
        return ["the baseline"] if is_ok(row) else []
    lines = [words.change(row.get("change"))]
    known = [("FID", row.get("fid"), words.number), ("SSIM", row.get("ssim_median"), words.fixed(3))]
    figures = ", ".join(f"{name} {show(value)}" for name, value, show in known if not words.missing(value))
    return [line for line in (*lines, figures) if line]


# --- two variants ---------------------------------------------------------------------------------------------------


def changes(cell: Cell, variant: Row) -> list[Change]:
    """The change from the baseline to a variant in mean, P50, P95 and P99, from the variant's own job."""
    ours, theirs = requests_of(cell, variant["variant"]), requests_of(cell, variant["variant"], "baseline")
    return [change(ours, theirs, s, cell.host.get("threshold")) for s in ("mean", "p50", "p95", "p99")]


def comparison(cell: Cell, variant: Row) -> str:
    """The sentence that the classic comparison proves, about P95 (or the mean, where n is too small for P95)."""
    if not is_ok(variant):
        return f"Nothing is shown: {variant['variant']} {variant['status']}"
    found = {c.statistic: c for c in changes(cell, variant)}
    shown = found["p95"] if found["p95"].ratio else found["mean"]
    return change_words(variant["variant"], shown)


def change_words(variant: str, shown: Change) -> str:
    """ "fp16 lowers P95 by 12.3 %, interval 9.1 to 15.2 %", or that it does not."""
    name = "the mean latency" if shown.statistic == "mean" else shown.statistic.upper()
    if shown.ratio is None:
        return f"Cannot tell whether {variant} changes {name}: too few requests (n = {shown.n})"
    value, low, high = shown.reduction
    if low is None or high is None:
        return f"Cannot tell whether {variant} changes {name}: one replicate gives no interval"
    verb = {"improved": "lowers", "regressed": "raises"}.get(shown.verdict)
    if verb == "raises":
        value, low, high = -value, -high, -low
    between = f"interval {_signed_percent(low)} to {_signed_percent(high)} %"
    if verb:
        return f"{variant} {verb} {name} by {_signed_percent(value)} %, {between}"
    lead = {"within noise": "makes no difference to", "cannot tell": "is not shown to change"}[shown.verdict]
    return f"{variant} {lead} {name}: lower by {_signed_percent(value)} %, {between} ({shown.verdict})"


def _signed_percent(share: float) -> str:
    return f"{share * 100:.1f}".replace("-", "−")


# --- footnotes ------------------------------------------------------------------------------------------------------


def footnote(cell: Cell) -> str:
    """Model, target, how much was measured, when, against what: below every picture."""
    model, protocol = cell.plan["models"][cell.model], cell.plan["protocol"]
    baseline = cell.baseline or {}
    requests = protocol["requests"] * protocol["replicates"]
    parts = [
        f"Model {cell.model} ({model.get('width', '?')}×{model.get('height', '?')}), target {cell.target}"
        + (f" (priced as {instance(cell)})" if instance(cell) else ""),
        f"per variant {requests} requests in {words.count(protocol['replicates'], 'replicate')}, "
        f"{protocol['distinct_prompts']} prompts, {cell.plan['quality']['images']} images scored",
        f"baseline {baseline.get('variant', '?')}: {axes_words(baseline)}" if baseline else "no baseline",
        "95 % intervals",
        f"measured {measured_on(cell)}",
    ]
    return "; ".join(parts) + "."


def axes_words(row: Row) -> str:
    """ "torch fp32, ddim 25 steps, guidance 3" """
    compiled = " compiled" if row.get("compile") else ""
    batching = f", batching {row['batching']}" if row.get("batching") not in (None, "off") else ""
    return (
        f"{row.get('engine')} {row.get('precision')}{compiled}, {row.get('scheduler')} {row.get('steps')} steps, "
        f"guidance\u00a0{row.get('guidance'):g}{batching}"
    )


def instance(cell: Cell) -> str:
    """What the target is priced as."""
    return (cell.plan["targets"][cell.target].get("price") or {}).get("instance", "")


def measured_on(cell: Cell) -> str:
    """The day, or the days, of the measured requests (UTC)."""
    if not len(cell.requests):
        return words.NOT_MEASURED
    first, last = (
        datetime.fromtimestamp(float(t), UTC).strftime("%Y-%m-%d")
        for t in (cell.requests["sent_unix_s"].min(), cell.requests["sent_unix_s"].max())
    )
    return first if first == last else f"{first} to {last}"
