"""What a sweep of 2,000 variants costs where no model is run: Snakemake's DAG, the tables, the pictures, the report.

    python tests/benchmarks/large_sweep.py [--keep FOLDER] [--out results/published/timings.csv]

The results are synthetic (tests/synthetic). Every figure has its limit beside it; a missed one makes it exit with 1.
With Chromium on the PATH, how long the report keeps a browser busy is told, too.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "scripts")]

from figures import Figure, conclude  # noqa: E402

import synthetic  # noqa: E402
from conftest import copy_project  # noqa: E402
from diffsweep.sweep.documents import read_yaml  # noqa: E402
from diffsweep.sweep.plan import make_plan  # noqa: E402

GB = 1e9
MATRIX = {
    "axes": {
        "engine": ["torch", "openvino"],
        "precision": ["fp32", "bf16", "int8"],
        "scheduler": ["ddim", "dpm++", "unipc", "euler"],
        "steps": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 22, 25, 30, 35, 40, 50],
        "guidance": [2.0, 3.0, 4.0, 5.0],
    }
}


# Runs in the report when it has been loaded; reading a height makes the browser lay out what is there.
PROBE = """<script>
addEventListener("load", () => {
  document.body.offsetHeight;
  const seconds = { load: performance.now() / 1000 };
  const time = (name, act) => {
    const began = performance.now();
    act();
    document.body.offsetHeight;
    seconds[name] = (performance.now() - began) / 1000;
  };
  const search = document.querySelector(".filter input[type=search]");
  time("filter", () => { search.value = "openvino int8"; search.dispatchEvent(new Event("input")); });
  time("sort", () => [...document.querySelectorAll("table.large th button")].at(-1).click());
  document.title = JSON.stringify(seconds);
});
</script>"""


@dataclass(frozen=True)
class Cost:
    """What a command cost. peak_bytes: of it and all that it started together (resident, shared pages counted once)."""

    seconds: float
    peak_bytes: float
    output: str


def cost_of(*command: str, cwd: Path) -> Cost:
    began_s = time.perf_counter()
    with subprocess.Popen(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        peak, done = [0.0], threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, peak, done))
        watcher.start()
        output = process.communicate()[0]
        done.set()
        watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{output[-3000:]}")
    return Cost(time.perf_counter() - began_s, peak[0], output)


def watch(pid: int, peak: list[float], done: threading.Event) -> None:
    while not done.wait(0.5):
        peak[0] = max(peak[0], sum(memory_bytes(each) for each in (pid, *descendants(pid))))


def descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in map(int, children) for each in (child, *descendants(child))]


def memory_bytes(pid: int) -> int:
    """Proportional set size: pages that processes share count once in the sum."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def write_configs(folder: Path) -> None:
    """One target for the DAG (2,016 variants x 3 replicates and 2 jobs of quality), three for the tables."""
    targets = read_yaml(folder / "config/targets.yaml")
    targets["targets"] |= {name: targets["targets"]["local"] for name in ("second", "third")}
    (folder / "config/three-targets.yaml").write_text(yaml.safe_dump(targets))
    config = read_yaml(folder / "config/config.yaml") | {
        "matrix": MATRIX,
        "protocol": {"replicates": 3, "levels": [1, 2, 4]},
        "quality": {},
    }
    config["variants"] = {"fp32": config["variants"]["fp32"]}
    one = config | {"sweep": "large"}
    three = config | {"sweep": "large-3", "targets": ["local", "second", "third"]}
    three["targets_file"] = str((folder / "config/three-targets.yaml").resolve())
    for name, document in (("large", one), ("large-3", three)):
        (folder / f"config/{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def tables(folder: Path, sweep: str) -> tuple[Cost, Cost, Cost]:
    """Aggregate, plot, report."""
    results, python = f"results/{sweep}", sys.executable
    where = ("--results", results, "--artifacts", "results/artifacts", "--out", results)
    return (
        cost_of(python, "scripts/aggregate.py", "--plan", f"{results}/plan.json", *where, cwd=folder),
        cost_of(python, "scripts/plot.py", "--results", results, cwd=folder),
        cost_of(python, "scripts/report.py", "--results", results, "--out", f"{results}/report.html", cwd=folder),
    )


def measure(folder: Path) -> list[Figure]:
    write_configs(folder)
    snakemake = (sys.executable, "-m", "snakemake", "--cores", "all", "--configfile", "config/large.yaml")
    dry = cost_of(*snakemake, "--dry-run", cwd=folder)
    counted = cost_of(*snakemake, "--dry-run", "--quiet", cwd=folder)
    jobs = int(next(line.split()[-1] for line in reversed(dry.output.splitlines()) if line.startswith("total")))
    print(f"{jobs} jobs", flush=True)
    for name in ("large", "large-3"):
        synthetic.make_results(folder, make_plan(read_yaml(folder / f"config/{name}.yaml")), pictures=False)
        print(f"made {name}", flush=True)
    finish(folder, snakemake)
    nothing = cost_of(*snakemake, cwd=folder)
    if "Nothing to be done" not in nothing.output:
        sys.exit(f"there was something to be done:\n{nothing.output[-2000:]}")
    aggregate, plots, report = tables(folder, "large-3")
    page = folder / "results/large-3/report.html"
    size = page.stat().st_size
    browser = browse(page)
    plan = synthetic.make_plan(synthetic.make_variants()[:2], replicates=5, requests=5000)
    synthetic.make_results(folder, plan | {"sweep": "records"}, pictures=False)
    records = tables(folder, "records")[0]
    return [
        Figure(f"dry run, {jobs} jobs counted (--quiet)", counted.seconds, "s", 15),
        Figure(f"dry run, {jobs} jobs listed", dry.seconds, "s", 15),
        Figure("nothing to do", nothing.seconds, "s", 15),
        Figure("Snakemake's memory", dry.peak_bytes / GB, "GB", 2),
        Figure("aggregate 2,016 variants x 3 targets", aggregate.seconds, "s", 60),
        Figure("aggregate: memory", aggregate.peak_bytes / GB, "GB", 2),
        Figure("plots of them", plots.seconds, "s", 120),
        Figure("report on them", report.seconds, "s", 60),
        Figure("report: memory", report.peak_bytes / GB, "GB", 2),
        Figure("report: size", size / 1e6, "MB", 25),
        *browser,
        Figure("analysis of 100,000 records", records.seconds, "s", 10),
        Figure("analysis of 100,000 records: memory", records.peak_bytes / GB, "GB", 1),
    ]


def browse(page: Path) -> list[Figure]:
    """How long Chromium takes until the report is laid out, and until its table is filtered and sorted."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no Chromium on the PATH: the report in a browser was not measured", flush=True)
        return []
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    with tempfile.TemporaryDirectory() as profile:
        options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom")
        shown = cost_of(chromium, *options, probed.as_uri(), cwd=page.parent)
    seconds = json.loads(re.search(r"<title>(\{.*?\})</title>", shown.output)[1])
    names = {"load": "laid out", "filter": "table filtered", "sort": "table sorted"}
    limits = {"load": 5, "filter": 0.5, "sort": 0.5}
    return [Figure(f"report in a browser: {names[key]}", value, "s", limits[key]) for key, value in seconds.items()]


def finish(folder: Path, snakemake: tuple[str, ...]) -> None:
    """Make Snakemake believe that the synthetic results are its own: the missing files, then its records by --touch.

    All jobs at once: after each that ends alone, it would look through the thousands that wait.
    """
    listed = cost_of(*snakemake, "--dry-run", "--summary", cwd=folder).output.splitlines()
    for line in listed:
        path = folder / line.split("\t")[0]
        if line.startswith("results/") and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    awake = "from snakemake.executors import touch; touch.Executor.SLEEPING_TIME = 0"  # it sleeps 0.1 s a job
    at_once = ["--cores", "20000", "--set-threads", *(f"{rule}=1" for rule in ("convert", "benchmark", "images"))]
    arguments = [*snakemake[5:], *at_once, "--touch", "--forceall", "--quiet", "all", "--"]
    program = f"{awake}; from snakemake.cli import main; main({arguments!r})"
    cost_of(sys.executable, "-c", program, cwd=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="make everything in this folder and leave it there")
    parser.add_argument("--out", type=Path, help="the table that keeps the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.pop("DIFFSWEEP_RUN", None)
        figures = measure(copy_project(folder))
    sys.exit(conclude(figures, Path(__file__).stem, options.out))


if __name__ == "__main__":
    main()
