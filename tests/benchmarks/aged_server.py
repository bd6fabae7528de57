"""Does a server that has answered others' requests take as long as one that has just been started?

    .venv/bin/python tests/benchmarks/aged_server.py --artifact results/artifacts/reference/torch-fp32 [--out FILE]

All variants of a replicate are measured beside one start of the baseline's server, so the later ones are compared with
a server that has done more than theirs. Here the baseline takes turns with fresh servers of its own artifact, one after
the other, by the default sweep's protocol without load; what is told is how much longer the aged one took, from the
second turn on, with its 95 % interval from the variation between aged servers. Let nothing else run.
"""

import argparse
import statistics
import sys
import tempfile
from contextlib import closing
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))

from figures import RATIO, Figure, conclude  # noqa: E402

from diffsweep.analysis import latency, stats  # noqa: E402
from diffsweep.measure import job  # noqa: E402
from diffsweep.measure.host import measuring_alone  # noqa: E402
from diffsweep.measure.journal import Files  # noqa: E402
from diffsweep.measure.keeper import Keeper  # noqa: E402
from diffsweep.measure.pairing import plan_requests  # noqa: E402
from diffsweep.measure.records import read_latency  # noqa: E402
from diffsweep.measure.replicate import Turn, measure  # noqa: E402
from diffsweep.measure.servers import Launch  # noqa: E402
from diffsweep.sweep.documents import read_yaml  # noqa: E402
from diffsweep.sweep.options import resolve_threads  # noqa: E402
from diffsweep.sweep.plan import make_plan  # noqa: E402
from diffsweep.sweep.specs import benchmark_spec  # noqa: E402
from diffsweep.sweep.variants import find_variant  # noqa: E402

LIMITS = {"timeout_s": 600, "request_timeout_s": 120}


def log_ratios(artifact: Path, number: int, turns: int) -> list[float]:
    """log(baseline's time / fresh server's time) of each turn beside one start of the baseline's server."""
    plan = make_plan(read_yaml(PROJECT / "config" / "config.yaml"))
    [model], baseline = plan["models"], find_variant(plan, plan["baseline"])
    spec = resolve_threads(benchmark_spec(plan, model, "local", baseline, number)) | LIMITS
    spec["protocol"] = {**spec["protocol"], "levels": []}
    counts = {key: spec["protocol"][key] for key in ("warmup", "requests", "block")}
    requests = plan_requests(job.read_prompts(spec), replicate=number, **counts)

    def launch(role: str) -> Launch:
        program = PROJECT / "scripts" / "serve.py"
        return Launch(role, spec["environments"][role], program, job.server_spec(spec, role), artifact)

    with tempfile.TemporaryDirectory() as folder, closing(Keeper()) as keeper:
        files = [
            Files(*(Path(folder, f"{kind}-{turn}") for kind in ("latency", "capacity", "resources", "notes")))
            for turn in range(turns)
        ]
        todo = [Turn(spec, requests, launch("variant"), each, lambda: None) for each in files]
        measure(todo, launch("baseline"), "aged_server", keeper)
        return [latency.log_ratio(read_latency(each.latency)) for each in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True, help="the baseline's, of a finished default sweep")
    parser.add_argument("--servers", type=int, default=6, help="how many servers are aged, 2 or more")
    parser.add_argument("--turns", type=int, default=7, help="beside each of them")
    parser.add_argument("--out", type=Path, help="the table that keeps the figures")
    options = parser.parse_args()
    if not (options.artifact / job.MANIFEST).exists():
        parser.error(f"{options.artifact} is no artifact; run `make sweep` first")
    fresh, aged = [], []
    with measuring_alone():
        for number in range(1, options.servers + 1):
            first, *later = log_ratios(options.artifact, number, options.turns)
            fresh.append(first)
            aged.append(statistics.fmean(later))
            print(f"server {number}: {first:+.2%}, then {', '.join(f'{ratio:+.2%}' for ratio in later)}", flush=True)
    figures = []
    for what, ratios in (("both fresh", fresh), ("aged / fresh", aged)):
        found = stats.speedup(ratios)
        figures += [
            Figure(f"{what}: undisturbed request", found.value, RATIO),
            Figure(f"{what}: lower end", found.low, RATIO),
            Figure(f"{what}: upper end", found.high, RATIO),
        ]
    sys.exit(conclude(figures, Path(__file__).stem, options.out))


if __name__ == "__main__":
    main()
