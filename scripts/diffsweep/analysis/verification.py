"""Is a results tree whole, and of one piece? Every problem is one line that begins with the file's path.

What is checked: documents can be read and name their run; each was made from the very files that lie beside it now
(by digest), so that nothing is mixed from two runs; records parse line by line; images, tables, pictures, traces and
model files are the ones that were made; no job's left-overs; nothing names a home folder or holds a token. Logs are no
results: they are not read, and neither published nor bundled.

Earlier versions noted no digests of tables, pictures and traces: of theirs it is checked that they are there.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffsweep.analysis.keeping import altered, kept
from diffsweep.analysis.places import CellPlace, each_cell
from diffsweep.measure.records import read_capacity, read_latency, read_resources
from diffsweep.sweep.files import digest_file, list_files, partial_paths, read_json
from diffsweep.sweep.privacy import find_private

TEXT = {".json", ".jsonl", ".csv", ".html", ".svg", ".txt", ".yaml"}
NOT_SWEEPS = ("artifacts", "envs", "published")
# Snakemake takes what is there for done, and does not miss an intermediate file while the report is there.
FORCED = "(snakemake --forcerun)"
AGAIN = f"make it anew {FORCED}"
RECEIPT = re.compile(r"(\S+==\S+\n)+")
OF_CALIBRATION = ("calibration.csv", "aa.png", "aa.svg", "power.png", "power.svg")
READERS = {"latency.jsonl": read_latency, "capacity.jsonl": read_capacity, "resources.jsonl": read_resources}


@dataclass
class Findings:
    """The problems so far. `digests` remembers each file's digest, `checked` the folders that are done."""

    problems: list[str] = field(default_factory=list)
    digests: dict[Path, str] = field(default_factory=dict)
    checked: set[Path] = field(default_factory=set)

    def add(self, path: Path, problem: str) -> None:
        self.problems.append(f"{path}: {problem}")

    def digest(self, path: Path) -> str | None:
        """None when the file is not there."""
        if path not in self.digests and path.is_file():
            self.digests[path] = digest_file(path)
        return self.digests.get(path)


def sweeps_in(results: Path) -> list[Path]:
    """The folders of sweeps below results/."""
    return sorted(path for path in results.iterdir() if path.is_dir() and path.name not in NOT_SWEEPS)


def verify(results: Path, sweeps: Iterable[Path], *, models_here: bool = True) -> list[str]:
    """The problems of `sweeps` and of what they share below `results`; an empty list when there are none.

    models_here: False where the artifacts' model files were left behind, as in a bundle.
    """
    findings = Findings()
    folders = [*sweeps, results / "artifacts", results / "envs"]
    for folder in folders:
        for path in partial_paths(folder):
            findings.add(path, "left half-written by a job that was killed; --clean removes it")
        for path in (path for path in list_files(folder) if path.suffix in TEXT):
            private = find_private(path.read_bytes())
            if private:
                findings.add(path, f"holds {private}; remove it before you pass the results on")
    for receipt in sorted((results / "envs").glob("*.txt")):
        check_receipt(receipt, findings)
    for sweep in folders[:-2]:
        check_sweep(sweep, results / "artifacts", findings, models_here)
    return findings.problems


def check_sweep(sweep: Path, artifacts: Path, findings: Findings, models_here: bool) -> None:
    plan = read_document(sweep / "plan.json", findings, with_run=False)
    if plan is None:
        return
    cells = list(each_cell(plan, sweep, artifacts))
    for cell in cells:
        check_artifact(cell.manifest.parent, findings, models_here)
        check_cell(cell, findings)
    check_tables(sweep, artifacts, findings)
    check_pictures(sweep, findings)
    check_report(sweep / "report.html", sweep / "summary.parquet", findings)
    check_states(sweep, findings)
    for calibration in sorted(sweep.glob("calibration/*/*/calibration.json")):
        check_calibration(calibration, findings)


def read_document(path: Path, findings: Findings, *, with_run: bool = True) -> Mapping[str, Any] | None:
    """A stage's JSON document, or None and a finding."""
    try:
        document = read_json(path)
    except FileNotFoundError:
        findings.add(path, f"missing; {AGAIN}")
        return None
    except (ValueError, OSError) as error:
        findings.add(path, f"cannot be read ({error}); {AGAIN}".replace(f"{path}: ", ""))
        return None
    if not isinstance(document, dict):
        findings.add(path, f"is no JSON object; {AGAIN}")
        return None
    if with_run and not (isinstance(document.get("run"), str) and isinstance(document.get("inputs"), dict)):
        findings.add(path, f"does not name its run and its inputs' digests (an earlier version made it); {AGAIN}")
        return None
    return document


def check_input(path: Path, document: Mapping, name: str, source: Path, findings: Findings) -> None:
    """Was the document at `path` made from the file `source` as it is now?"""
    if findings.digest(source) != document["inputs"].get(name):
        findings.add(path, f"mixed from two runs: it was made from another {source} than the one there; {AGAIN}")


def check_files(folder: Path, digests: Mapping[str, str], findings: Findings, document: str) -> None:
    """Are the files in `folder` the ones that were made? `document`: the one there that names them."""
    for name, digest in digests.items():
        found = findings.digest(folder / name)
        if found is None:
            findings.add(folder / name, f"missing; make {document} anew {FORCED}")
        elif found.removeprefix("sha256:") != digest.removeprefix("sha256:"):
            findings.add(
                folder / name,
                f"is not the file that was made: its digest differs; make {document} anew {FORCED}",
            )


def check_there(paths: Iterable[Path], findings: Findings, document: str) -> None:
    """Are the files that the `document` beside them names there, whatever they hold?"""
    for path in paths:
        if not path.is_file():
            findings.add(path, f"missing; make {document} anew {FORCED}")


def check_page(path: Path, findings: Findings) -> str | None:
    """An HTML page, or None and a finding."""
    if not path.is_file():
        findings.add(path, f"missing; {AGAIN}")
        return None
    page = path.read_text(encoding="utf-8", errors="replace")
    if not page.rstrip().endswith("</html>"):
        findings.add(path, f"is cut off; {AGAIN}")
        return None
    return page


def check_receipt(path: Path, findings: Findings) -> None:
    """The packages of an environment, `name==version` a line, Python first."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if not (RECEIPT.fullmatch(text) and text.startswith("python==")):
        findings.add(path, "is no whole receipt; remove it, and the next run of snakemake makes it anew")


# --- artifacts -------------------------------------------------------------------------------------------------------


def check_artifact(folder: Path, findings: Findings, models_here: bool) -> None:
    """A converted model: its manifest, the files it names and no others, the export that it came from."""
    if folder in findings.checked:
        return
    findings.checked.add(folder)
    path = folder / "manifest.json"
    manifest = read_document(path, findings)
    if manifest is None:
        return
    files = {entry["path"]: entry["sha256"] for entry in manifest.get("files", ())}
    if models_here:
        check_files(folder, files, findings, path.name)
        for extra in {p.relative_to(folder).as_posix() for p in list_files(folder)} - {*files, path.name}:
            findings.add(folder / extra, "is not in the manifest: it was not made with this artifact; remove it")
    if manifest["inputs"].get("onnx"):
        export = folder.parent / "onnx"
        check_input(path, manifest, "onnx", export / "manifest.json", findings)
        check_artifact(export, findings, models_here)


# --- cells -----------------------------------------------------------------------------------------------------------


def check_cell(cell: CellPlace, findings: Findings) -> None:
    for folder in cell.replicates:
        check_replicate(cell, folder, findings)
    images = read_document(cell.folder / "images.json", findings)
    if images is not None:
        check_input(cell.folder / "images.json", images, "artifact", cell.manifest, findings)
        check_images(cell.folder, images, findings)
    path = cell.folder / "quality.json"
    quality = read_document(path, findings)
    if quality is not None:
        check_input(path, quality, "images", cell.folder / "images.json", findings)
        check_input(path, quality, "baseline", cell.baseline_folder / "images.json", findings)
        check_files(cell.folder, quality.get("files", {}), findings, path.name)
    for path in cell.searches:
        check_search(cell, path, findings)
    if (cell.folder / "trace.json").exists():  # only made when asked for
        check_trace(cell, cell.folder / "trace.json", findings)


def check_trace(cell: CellPlace, path: Path, findings: Findings) -> None:
    trace = read_document(path, findings)
    if trace is not None:
        check_input(path, trace, "artifact", cell.manifest, findings)
        check_files(cell.folder, trace.get("files", {}), findings, path.name)
        named = {name for found in trace.get("profilers", {}).values() for name in found["files"]}
        check_there((cell.folder / name for name in named - trace.get("files", {}).keys()), findings, path.name)


def check_search(cell: CellPlace, path: Path, findings: Findings) -> None:
    notes = read_document(path, findings)
    if notes is not None:
        check_input(path, notes, "artifact", cell.manifest, findings)
        check_measured(path, notes, {"arrivals.jsonl": read_capacity}, findings)


def check_replicate(cell: CellPlace, folder: Path, findings: Findings) -> None:
    path = folder / "replicate.json"
    notes = read_document(path, findings)
    if notes is None:
        return
    check_input(path, notes, "artifact", cell.manifest, findings)
    check_input(path, notes, "baseline", cell.baseline_manifest, findings)
    check_measured(path, notes, READERS, findings)


def check_measured(path: Path, notes: Mapping, readers: Mapping[str, Callable], findings: Findings) -> None:
    """Are the records of the job with the document `path` the ones that it made, and whole? readers: by file name."""
    for name, read in readers.items():
        try:
            read(path.with_name(name), notes)
        except FileNotFoundError:
            if name in notes.get("files", {}):
                findings.add(path.with_name(name), f"missing; make {path.name} anew {FORCED}")
        except ValueError as error:
            findings.problems.append(f"{error}; make {path.name} beside it anew {FORCED}")


def check_images(folder: Path, images: Mapping, findings: Findings) -> None:
    files = {entry["file"]: entry["sha256"] for entry in images.get("images", ())}
    check_files(folder, files, findings, "images.json")
    for extra in {f"images/{path.name}" for path in list_files(folder / "images")} - files.keys():
        findings.add(folder / extra, "is not in images.json: it was not made with the others; remove it")


# --- aggregates ------------------------------------------------------------------------------------------------------


def check_tables(sweep: Path, artifacts: Path, findings: Findings) -> None:
    """The tables: the ones that were made, from the records and scores that are there now?"""
    path = sweep / "tables" / "inputs.json"
    made = read_document(path, findings)
    for name in made["inputs"] if made else ():
        source = artifacts / name if name.endswith("/manifest.json") else sweep / name
        check_input(path, made, name, source, findings)
    digests = made.get("files", {}) if made else {}
    check_files(sweep, digests, findings, "summary.csv")
    check_there((sweep / name for name in {"summary.csv"} - digests.keys()), findings, "summary.csv")


def check_pictures(sweep: Path, findings: Findings) -> None:
    path = sweep / "plots" / "index.json"
    index = read_document(path, findings)
    if index is None:
        return
    check_input(path, index, "summary.parquet", sweep / "summary.parquet", findings)
    digests, named = index.get("files", {}), {name for p in index.get("pictures", ()) for name in p["files"]}
    check_files(path.parent, digests, findings, path.name)
    check_there((path.parent / name for name in named - digests.keys()), findings, path.name)


def check_report(path: Path, summary: Path, findings: Findings) -> None:
    page = check_page(path, findings)
    told = page and re.search(r'<meta name="made-from-summary" content="([^"]*)">', page)
    if page and (not told or told.group(1) != findings.digest(summary)):
        findings.add(path, f"mixed from two runs: it was made from another {summary} than the one there; {AGAIN}")


def check_states(sweep: Path, findings: Findings) -> None:
    """What was kept for later comparisons: is it still what was kept? And what is told of it: is it whole?"""
    read_document(sweep / "state.json", findings, with_run=False)
    check_page(sweep / "update.html", findings)
    for folder in kept(sweep):
        try:
            for cell in altered(folder):
                findings.add(folder, f"the records of {cell} are not the ones that were kept; remove this state")
        except (OSError, ValueError, KeyError) as error:
            findings.add(folder, f"cannot be read ({type(error).__name__}: {error}); remove this state")


def check_calibration(path: Path, findings: Findings) -> None:
    """A calibration that has ended: its replicates with their records, and the report on them."""
    if read_document(path, findings, with_run=False) is None:
        return
    for replicate in sorted(path.parent.glob("*/replicate-*/replicate.json")):
        notes = read_document(replicate, findings)
        if notes is not None:
            check_measured(replicate, notes, {**READERS, "resources.jsonl": read_resources}, findings)
    check_page(path.with_name("report.html"), findings)
    check_there((path.with_name(name) for name in OF_CALIBRATION), findings, "report.html")
