"""Say what a sweep would do before it does it: which cells would run again, because of what, and how long that took.

    python scripts/explain.py                                     the default sweep
    python scripts/explain.py --configfile config/smoke.yaml      another; all options of snakemake are handed on

Nothing is run: Snakemake decides in a dry run, and this program puts its reasons into words. Each cause names what
changed with its old and its new value. "last time" is what the same jobs took when they ran last.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from diffsweep.measure import machines
from diffsweep.sweep import explain
from diffsweep.sweep.environments import LOCKS, PROJECT, lock_digest, lock_requirements
from diffsweep.sweep.files import read_json
from diffsweep.sweep.plan import replicates_of
from diffsweep.sweep.variants import AXES

HEADS = ("what", "cell", "jobs", "last time", "because")


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    notes = ask_snakemake(sys.argv[1:])
    lines = explain.lines(notes["jobs"], lookup_of(notes))
    print(table(lines) if lines else "Nothing would run: every cell is what the config asks for.")
    for line in kept(notes):
        print(line)


def ask_snakemake(arguments: Sequence[str]) -> dict:
    """The notes of a dry run; Snakemake's own message and the end when the config is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes.json"
        cores = (
            []
            if any(a.startswith(("-c", "--cores")) and a != "--configfile" for a in arguments)
            else ["--cores", "all"]
        )
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all", *cores, *arguments]
        environ = {**os.environ, explain.NOTES_FILE: str(path)}
        done = subprocess.run(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode or not path.exists():
            sys.exit(said(done.stdout) or "explain: Snakemake ended without a plan")
        return read_json(path)


def said(output: str) -> str:
    """What Snakemake said at its end; of a traceback (a --configfile that is not there, or no text) the last line."""
    lines = [line for line in output.strip().splitlines() if not line.startswith("Using workflow specific profile")]
    return f"explain: {lines[-1]}" if "Traceback (most recent call last):" in output else "\n".join(lines)


# --- what the words need ----------------------------------------------------------------------------------------------


def lookup_of(notes: Mapping) -> explain.Lookup:
    sources = {path.stem: read_json(path) for path in Path(".snakemake/diffsweep/code").glob("*.json")}
    receipts = {path.stem.split("-")[-1]: packages_of(path.read_text(encoding="utf-8")) for path in receipt_files()}
    locks = {lock_digest(path.stem): packages_of(path.read_text(encoding="utf-8")) for path in LOCKS.glob("*.lock")}
    return explain.Lookup(sources, receipts, locks, twins(notes["plan"]))


def receipt_files() -> Iterator[Path]:
    return (PROJECT / "results" / "envs").glob("*-*.txt")


def packages_of(text: str) -> dict[str, str]:
    """package -> version, from a lock or a receipt; without a local part (+cpu), the name as locks write it."""
    pinned = (line.split(";")[0].split()[0] for line in lock_requirements(text) if "==" in line)
    pairs = (requirement.split("==") for requirement in pinned if not requirement.startswith("--"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version.split("+")[0] for name, version in pairs}


def twins(plan: Mapping) -> dict[str, str]:
    """variant -> the variant of the plan as it was run last that had the same settings and is gone now: a new name."""
    path = Path("results") / plan["sweep"] / "plan.json"
    before = read_json(path)["variants"] if path.exists() else []
    names = {variant["name"] for variant in plan["variants"]}
    gone = {settings(variant): variant["name"] for variant in before if variant["name"] not in names}
    return {variant["name"]: gone[settings(variant)] for variant in plan["variants"] if settings(variant) in gone}


def settings(variant: Mapping) -> str:
    return repr([variant.get(axis) for axis in AXES])


# --- what it says -----------------------------------------------------------------------------------------------------


def table(lines: Sequence[explain.Line]) -> str:
    rows = [HEADS, *((line.stage, line.cell, str(line.jobs), seconds(line.took_s), first(line)) for line in lines)]
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    text = []
    for row, line in zip(rows, [None, *lines], strict=True):
        text.append(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        )
        indent = " " * (sum(widths) + 2 * len(widths))
        text += [f"{indent}{cause}" for cause in (line.causes[1:] if line else ())]
    return "\n".join([*text, total(lines)])


def first(line: explain.Line) -> str:
    return line.causes[0] if line.causes else ""


def total(lines: Sequence[explain.Line]) -> str:
    jobs, known = sum(line.jobs for line in lines), [line.took_s for line in lines if line.took_s is not None]
    new = sum(line.jobs for line in lines if line.took_s is None)
    told = f"{jobs} jobs" + (f", {new} of them never run before" if new else "")
    return f"{told}; the others took {seconds(sum(known))} last time." if known else f"{told}."


def seconds(value: float | None) -> str:
    if value is None:
        return "n/a"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def kept(notes: Mapping) -> Iterator[str]:
    """What would not run although it is stale or failed, and how to ask for it."""
    plan, again = notes["plan"], {output(job) for job in notes["jobs"] if job["rule"] == "benchmark"}
    stale: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    found = [(cell, number, read_json(path)) for cell, number, path in replicates(plan) if path.exists()]
    here_by_target = {name: here_of(name, notes, found) for name in plan["targets"]}
    for cell, number, document in found:
        if (cell, number) not in again:
            target = plan["targets"][cell.split("/")[1]]
            here = here_by_target[target["name"]]
            differs = here and machines.difference(machines.identity(document.get("host") or {}, target), here)
            if document["outcome"]["status"] == "failed":
                failed.setdefault(document["outcome"]["reason"], []).append(cell)
            elif differs:
                stale.setdefault(differs, []).append(cell)
    yield from told("stale", stale, "stale=rerun", "measured on another machine: ")
    yield from told("failed", failed, "failed=retry", "")


def here_of(target: str, notes: Mapping, replicates: Sequence[tuple[str, int, Mapping]]) -> Mapping | None:
    """The machine that a target is now; of one elsewhere, where it was measured last."""
    measured = (document for cell, _, document in replicates if cell.split("/")[1] == target)
    return notes["machines"].get(target) or machines.latest(measured, notes["plan"]["targets"][target])


def output(job: Mapping) -> tuple[str, int]:
    names = job["wildcards"]
    return f"{names['model']}/{names['target']}/{names['variant']}", int(names["replicate"])


def replicates(plan: Mapping) -> Iterator[tuple[str, int, Path]]:
    for model in plan["models"]:
        for target in plan["targets"]:
            for variant in plan["variants"]:
                cell = f"{model}/{target}/{variant['name']}"
                for number in replicates_of(plan, variant["name"]):
                    yield cell, number, Path(f"results/{plan['sweep']}/{cell}/replicate-{number}/replicate.json")


def told(word: str, cells: Mapping[str, Sequence[str]], request: str, because: str) -> Iterator[str]:
    for reason, found in cells.items():
        names = list(dict.fromkeys(found))
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        yield f"{word}, and kept as they are (--config {request} runs them again): {listed}: {because}{reason}"


if __name__ == "__main__":
    main()
