"""A sweep's bundle described as an RO-Crate, by the profile Workflow Run Crate (https://w3id.org/ro/wfrun/workflow/0.6),
which extends Process Run Crate and Workflow RO-Crate.

No agent is named: who ran a sweep is nobody's business.
"""

import hashlib
import mimetypes
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.6": ("Process Run Crate", "0.6"),
    "https://w3id.org/ro/wfrun/workflow/0.6": ("Workflow Run Crate", "0.6"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.1": ("Workflow RO-Crate", "1.1"),
}
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
LICENSE = "https://spdx.org/licenses/MIT"
CONFIG, REPORT, SUMMARY = "#config", "#report", "#summary"
PARAMETERS = {
    CONFIG: ("configfile", "the sweep's merged config"),
    REPORT: ("report", "the sweep's report, one self-contained page"),
    SUMMARY: ("summary", "one row per model x target x variant"),
}
FORMATS = {".jsonl": "application/jsonl", ".parquet": "application/vnd.apache.parquet", ".lock": "text/plain"}


@dataclass(frozen=True)
class Contents:
    """What is in a bundle: every file's content by path; of those, the run's inputs, its results, Snakemake's records.

    began, ended: ISO 8601 in UTC, None when not known; snakemake: its version.
    """

    sweep: str
    files: Mapping[Path, bytes]
    inputs: Sequence[Path]
    results: Sequence[Path]
    records: Sequence[Path]
    began: str | None
    ended: str | None
    snakemake: str | None


def describe_crate(contents: Contents) -> dict:
    """The content of ro-crate-metadata.json. Images and Snakemake's records are described by their folders."""
    crate = ROCrate(version="1.3")  # which these profiles extend
    crate.metadata.extra_contexts.append(TERMS)
    crate.name = f"diffsweep: the sweep {contents.sweep}"
    crate.description = (
        "A benchmark of optimised variants of diffusion models: raw records, scores, tables, pictures and report, with "
        "the config, the locked environments, the machine and the code that made them"
    )
    crate.license = _context(crate, LICENSE, "CreativeWork", name="MIT License")
    if contents.ended:
        crate.root_dataset["datePublished"] = contents.ended
    crate.root_dataset["conformsTo"] = [
        _context(crate, url, "CreativeWork", name=name, version=version) for url, (name, version) in PROFILES.items()
    ]
    folders = {path: _folder_of(path) for path in contents.files}
    entities = {folder: _add_folder(crate, folder) for folder in sorted({f for f in folders.values() if f})}
    for path, content in contents.files.items():
        if folders[path] is None and path != Path("Snakefile"):
            entities[path] = crate.add_file(path, path.as_posix(), properties=_properties(path, content))
    workflow = _add_workflow(crate, contents)
    of = {path: entities[folders[path] or path] for path in contents.files if path != Path("Snakefile")}
    action = _add_action(crate, contents, workflow, of)
    for path in contents.records:
        of[path]["about"] = action
    return crate.metadata.generate()


def _folder_of(path: Path) -> Path | None:
    """The folder that a file is described with, one of thousands of its kind; None when it has a description."""
    if path.suffix == ".png" and path.parent.name == "images":
        return path.parent
    return Path(*path.parts[:2]) if path.parts[0] == ".snakemake" else None


def _add_folder(crate: ROCrate, folder: Path):
    name = "Snakemake's records of the jobs" if folder.parts[0] == ".snakemake" else f"images of {folder.parent.name}"
    return crate.add_dataset(folder, folder.as_posix(), properties={"name": name})


def _properties(path: Path, content: bytes) -> dict:
    kind = FORMATS.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
    digest = hashlib.sha256(content).hexdigest()
    return {"name": path.name, "contentSize": str(len(content)), "encodingFormat": kind, "sha256": digest}


def _add_workflow(crate: ROCrate, contents: Contents):
    """The Snakefile, the crate's main entity, with what goes in and comes out."""
    snakefile = Path("Snakefile")
    workflow = crate.add_workflow(snakefile, "Snakefile", main=True, lang="snakemake", lang_version=contents.snakemake)
    for key, value in (_properties(snakefile, contents.files[snakefile]) | {"name": "diffsweep"}).items():
        workflow[key] = value
    workflow["license"] = crate.get(LICENSE)
    slots = {
        key: _context(crate, key, "FormalParameter", name=name, description=text, additionalType="File")
        for key, (name, text) in PARAMETERS.items()
    }
    workflow["input"], workflow["output"] = slots[CONFIG], [slots[REPORT], slots[SUMMARY]]
    return workflow


def _add_action(crate: ROCrate, contents: Contents, workflow, of: Mapping):
    """The run itself: what it took and what came of it."""
    realised = {"report.html": REPORT, "summary.csv": SUMMARY}
    of[contents.inputs[0]]["exampleOfWork"] = crate.get(CONFIG)
    for path in contents.results:
        if path.name in realised and len(path.parts) == 3:
            of[path]["exampleOfWork"] = crate.get(realised[path.name])
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{contents.sweep} {contents.began} {contents.ended}")
    times = {key: value for key, value in (("startTime", contents.began), ("endTime", contents.ended)) if value}
    action = _context(
        crate,
        f"#run-{identity}",
        "CreateAction",
        name=f"the sweep {contents.sweep}",
        description=f"snakemake --cores all --configfile {contents.inputs[0].as_posix()}",
        **times,
    )
    action["instrument"] = workflow
    action["object"] = [of[path] for path in contents.inputs]
    action["result"] = list(dict.fromkeys(of[path] for path in contents.results))
    crate.root_dataset["mentions"] = [action]
    return action


def _context(crate: ROCrate, identifier: str, kind: str, **properties: object):
    return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **properties}))
