"""What a call of Snakemake would do, and why, in words: the jobs that would run against what they recorded last.

`collect` runs inside Snakemake and only takes notes; everything else is pure and works on those notes.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffsweep.sweep import sharing
from diffsweep.sweep.files import read_json

NOTES_FILE = "DIFFSWEEP_EXPLAIN"  # the environment variable that tells the Snakefile where to leave its notes
STAGES = {"export_onnx": "export", "convert": "convert", "benchmark": "measure", "images": "images", "score": "score"}
AFTERWARDS = "tables, plots, report"
RECEIPT = re.compile(r"results/envs/(?P<name>[^/-]+)-(?P<digest>[0-9a-f]+)\.txt")
DIGEST = re.compile(r"[0-9a-f]{16}")
AGAIN = "asked for again"
PROMPTS = ("suite", "prompts", "calibration")


@dataclass(frozen=True)
class Line:
    """One line of the table. took_s: what its jobs took the last time, None for those that never ran."""

    stage: str
    cell: str
    jobs: int
    causes: Sequence[str]
    took_s: float | None


# --- notes, inside Snakemake ----------------------------------------------------------------------------------------


def collect(workflow: Any) -> list[dict]:
    """Notes about every job that would run. `workflow` is Snakemake's own, its DAG built (version 9.27)."""
    jobs = workflow.dag.needrun_jobs(exclude_finished=False)  # to a dry run all of them are finished by now
    return [_job_notes(workflow, job) for job in jobs if job.output]


def _job_notes(workflow: Any, job: Any) -> dict:
    last, reason = workflow.persistence.metadata(job.output[0]), workflow.dag.reason(job)
    return {
        "rule": job.rule.name,
        "wildcards": dict(job.wildcards_dict),
        "reasons": list(reason.get_names()),
        "missing": bool(reason.missing_output),
        "updated": sorted(map(str, reason.updated_input)),
        "after": sorted(map(str, reason.updated_input_run)),
        "params": [str(value) for value in job.non_derived_params],
        "inputs": sorted(set(map(str, job.input))),
        "last": None
        if last is None or last.params is None
        else {
            "params": [_literal(value) for value in last.params],
            "inputs": sorted(set(last.input or ())),
            "took_s": (job.rule.name in sharing.STAGES and took_s(job.output[0])) or _duration_s(last),
            "outcome": _document(job.output[0]).get("outcome"),
        },
    }


def _duration_s(last: Any) -> float | None:
    return last.endtime - last.starttime if last.endtime and last.starttime else None


def took_s(path: str) -> float | None:
    """How long the replicate or the images at `path` took, by their own document; None where that does not say.

    Of jobs that share servers or a pipeline (sweep/sharing.py), Snakemake has all of the time in the first. A replicate
    tells it phase by phase; its servers, which others may have had started, it would start itself.
    """
    document = _document(path)
    told = document.get("seconds")
    if not isinstance(told, dict):
        return told
    starts_s = [server.get("start_s", 0.0) for server in document.get("servers", {}).values()]
    return sum(told.values()) - told.get("start", 0.0) + max(starts_s, default=told.get("start", 0.0))


def _document(path: str) -> dict:
    """What a stage left at `path`; empty where that is nothing, or no document."""
    try:
        document = read_json(path)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _literal(text: str) -> str:
    """A parameter as Snakemake stored it, which is its repr."""
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


# --- causes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lookup:
    """What the words need beyond the notes. sources: digest of code -> file -> its digest; locks, receipts: digest ->
    package -> version; same_as: variant -> one that is gone from the config and had the same settings."""

    sources: Mapping[str, Mapping[str, str]]
    receipts: Mapping[str, Mapping[str, str]]
    locks: Mapping[str, Mapping[str, str]]
    same_as: Mapping[str, str]


def causes(job: Mapping, lookup: Lookup) -> list[str]:
    """Why a job would run, the first cause first."""
    last = job["last"]
    if last is None or job["missing"]:
        twin = lookup.same_as.get(job["wildcards"].get("variant"))
        return [f"new (the settings of {twin!r}, whose results stay under that name)" if twin else "new"]
    told = [
        *(_asked(cause, last) for cause in spec_changes(_spec(last["params"]), _spec(job["params"]))),
        *_code_changes(last["params"], job["params"], lookup),
        *_environment_changes(last["inputs"], job["inputs"], lookup),
        *(f"{path} changed" for path in job["updated"]),
        *(_again(path) for path in job["after"]),
    ]
    if "incomplete output files" in job["reasons"]:
        told.append("it was interrupted")
    return list(dict.fromkeys(told)) or job["reasons"]


def _asked(cause: str, last: Mapping) -> str:
    """A request names what it is about: how the job ended, which is well only where it was on another machine."""
    outcome = last.get("outcome")
    if cause != AGAIN or not outcome:
        return cause
    return f"{AGAIN}: {outcome['reason'] or 'it was measured on another machine'}"


def _spec(params: Iterable[str]) -> dict:
    found = next((value for value in params if value.startswith("{")), "{}")
    return json.loads(found)


def spec_changes(old: Mapping, new: Mapping) -> Iterator[str]:
    """What differs between two specs of a stage, key by key with both values."""
    before, after = dict(_flat(old)), dict(_flat(new))
    changed = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    of_variant = any(key.startswith("variant.") for key in changed)
    told_baseline = False
    for key in changed:
        top, _, rest = key.partition(".")
        if top in ("baseline", "baseline_artifact"):
            if not told_baseline:
                yield f"baseline: {_axes(old.get('baseline'))} -> {_axes(new.get('baseline'))}"
            told_baseline = True
        elif top == "attempt":
            yield AGAIN
        elif top in PROMPTS and rest == "digest":
            yield f"the prompts that are used of {after.get(f'{top}.path')} changed"
        elif top == "source":
            yield "the model's files changed"
        elif top == "scorers":
            yield f"{rest} changed"
        elif not (of_variant and top in ("variant_artifact", "artifact", "environments")):
            name = rest if top in ("variant", "protocol", "artifact", "variant_artifact") else key
            yield f"{name}: {_say(before.get(key))} -> {_say(after.get(key))}"


def _flat(value: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, part in value.items():
        if isinstance(part, Mapping):
            yield from _flat(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", part


def _axes(variant: Mapping | None) -> str:
    return str((variant or {}).get("name", "none"))


def _say(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def _code_changes(old: Iterable[str], new: Iterable[str], lookup: Lookup) -> Iterator[str]:
    gone = [value for value in old if DIGEST.fullmatch(value) and value not in new]
    come = [value for value in new if DIGEST.fullmatch(value) and value not in old]
    for before, after in zip(gone, come, strict=False):
        files, others = lookup.sources.get(before), lookup.sources.get(after)
        if files is None or others is None:
            yield "its code changed"
            continue
        changed = sorted(name for name in {*files, *others} if files.get(name) != others.get(name))
        yield f"code: {', '.join(changed[:3])}" + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _environment_changes(old: Iterable[str], new: Iterable[str], lookup: Lookup) -> Iterator[str]:
    before, after = _receipts(old), _receipts(new)
    for name, digest in after.items():
        if name not in before or before[name] == digest:
            continue
        was, now = lookup.receipts.get(before[name], {}), lookup.locks.get(digest, {})
        moved = [f"{p} {was.get(p, 'none')} -> {v}" for p, v in now.items() if was and was.get(p) != v]
        more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
        yield f"envs/{name}.lock" + (f": {', '.join(moved[:3])}{more}" if moved else " changed")


def _receipts(inputs: Iterable[str]) -> dict[str, str]:
    found = (RECEIPT.fullmatch(path) for path in inputs)
    return {match["name"]: match["digest"] for match in found if match}


def _again(path: str) -> str:
    """An input that another job of this call makes anew, in words."""
    *_, folder, name = path.split("/")
    if RECEIPT.fullmatch(path):
        return f"the environment {RECEIPT.fullmatch(path)['name']} is noted anew"
    words = {"manifest.json": "is converted again", "images.json": "gets new images", "quality.json": "is scored again"}
    return f"{folder} {words.get(name, f'has a new {name}')}"


# --- the table ------------------------------------------------------------------------------------------------------


def lines(jobs: Sequence[Mapping], lookup: Lookup) -> list[Line]:
    """The table's lines: a line per stage and cell, the replicates of one cell together, what only draws at the end."""
    groups: dict[tuple, list[Mapping]] = {}
    for job in jobs:
        stage = STAGES.get(job["rule"])
        if stage:
            groups.setdefault((stage, _cell(job), tuple(causes(job, lookup))), []).append(job)
        elif job["rule"] != "all":
            groups.setdefault((AFTERWARDS, "", ()), []).append(job)
    order = [*STAGES.values(), AFTERWARDS]
    found = [
        Line(stage, cell, len(found), why or _why_afterwards(found, lookup), _took_s(found))
        for (stage, cell, why), found in groups.items()
    ]
    return sorted(found, key=lambda line: (order.index(line.stage), line.cell))


def _why_afterwards(jobs: Iterable[Mapping], lookup: Lookup) -> Sequence[str]:
    moved = [
        c for job in jobs if job["last"] for c in _environment_changes(job["last"]["inputs"], job["inputs"], lookup)
    ]
    return tuple(dict.fromkeys(moved)) or ("what stands above, or what it is made from",)


def _cell(job: Mapping) -> str:
    names = job["wildcards"]
    if "variant" in names:
        return f"{names['model']}/{names['target']}/{names['variant']}"
    return f"{names['model']}/{names.get('artifact', 'onnx')}"


def _took_s(jobs: Iterable[Mapping]) -> float | None:
    known = [job["last"]["took_s"] for job in jobs if job["last"] and job["last"]["took_s"] is not None]
    return sum(known) if known else None
