"""The report: one self-contained HTML page, from the tables, the pictures' index and the plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from diffsweep.show import costs, logs, method, resources, sentences, words
from diffsweep.show.cells import Cell, notes_of, runs_of, why_missing
from diffsweep.show.embed import data_uri, inline_svgs
from diffsweep.show.findings import Answer, answer, is_baseline, is_ok
from diffsweep.show.samples import fit, sample_images
from diffsweep.show.selection import TABLE_ROWS, few
from diffsweep.show.selection import note as selection_note
from diffsweep.show.table import MAIN, MORE, Table, large_table, table
from diffsweep.show.traces import operator_tables
from diffsweep.sweep.environments import EnvironmentFailed, lock_digest
from diffsweep.sweep.files import digest_file, read_json

HERE = Path(__file__).parent
ASSETS = ("report.html.j2", "report.css", "report.js")

# The gallery: at most so many columns and images, so that the page stays small; images of this many pixels at most.
GALLERY_COLUMNS, GALLERY_IMAGES = 7, 120
NOTES, HOLES = 40, 200  # at most so many lines of either; summary.csv has all
THUMBNAIL = 128


@dataclass(frozen=True)
class Sources:
    """What the edge has read: the cells, plots/index.json and its folder, run.json, the time, how it was called, and
    what state.json says of the last update (None: there was none)."""

    cells: Sequence[Cell]
    pictures: Sequence[Mapping[str, Any]]
    plots: Path
    run: Mapping[str, Any] | None
    now_unix_s: float
    command: str
    update: Mapping[str, Any] | None = None


def render(sources: Sources) -> str:
    """The page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((HERE / "report.html.j2").read_text(encoding="utf-8"))
    assets = {name: Markup((HERE / f"report.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    return template.render(page=page(sources), assets=assets)


def page(sources: Sources) -> dict:
    """Everything the template needs, as plain data."""
    cells = sources.cells
    plan = cells[0].plan
    notes = {(cell.model, cell.target): list(notes_of(cell)) for cell in cells}
    hosts = {key: next((note["host"] for note in found if note.get("host")), {}) for key, found in notes.items()}
    runs = set().union(*map(runs_of, cells))
    letters, pictures = inline_pictures(sources.pictures, sources.plots)
    shown = [cell_context(cell, sources, pictures) for cell in cells]
    one = len(cells) == 1
    return {
        "title": f"{plan['sweep']}: {shown[0]['answer'].headline}"
        if one
        else f"{plan['sweep']}: {len(cells)} comparisons",
        "sweep": f"sweep {plan['sweep']}",
        "summary_digest": digest_file(cells[0].folder / "summary.parquet"),
        "date": f"measured {', '.join(dict.fromkeys(sentences.measured_on(cell) for cell in cells))}",
        "question": "Which variant should be deployed, on each target?",
        "last_update": sources.update,
        "letters": letters,
        "cells": shown,
        "sections": sections(shown),
        "method": [*method.method(cells), ("Time", method.useful_time(cells, sources.run, runs, sources.now_unix_s))],
        "machine": method.machine(cells, hosts),
        "versions": method.versions(found_versions(cells, notes)),
        "command": sources.command,
        "retry": f"{sources.command.splitlines()[-1]} --config failed=retry",
        "provenance": provenance(cells, notes, hosts, runs, sources.now_unix_s),
    }


def sections(shown: Sequence[Mapping]) -> list[tuple[str, str]]:
    """The links on top of the page."""
    if len(shown) > 1:
        links = [(cell["id"], cell["heading"]) for cell in shown]
    else:
        names = ("pareto", "table", "images", "latency", "load", "cost", "resources", "failures")
        links = [(f"{shown[0]['id']}-{name}", name.capitalize()) for name in names]
        links[0] = (links[0][0], "Trade-offs")
    return [*links, ("method", "Method"), ("machine", "Machine"), ("reproduce", "Reproduce")]


def cell_context(cell: Cell, sources: Sources, pictures: Mapping[str, dict]) -> dict:
    """One model on one target."""
    found: Answer = answer(cell.rows, cell.unfit)
    identity = f"{cell.model}--{cell.target}"
    mine = [p for p in sources.pictures if (p["model"], p["target"]) == (cell.model, cell.target)]
    drawn = {p["name"]: pictures[p["files"][-1]] for p in mine if p["files"][-1] in pictures}

    def of(section: str) -> list[dict]:
        return [drawn[p["name"]] for p in mine if p["section"] == section and p["name"] in drawn]

    return {
        "id": identity,
        "heading": cell.name,
        "question": f"Which variant of {cell.model} should be deployed on {cell.target}, and at what price in quality?",
        "answer": found,
        "warnings": alarms(cell),
        "comparison": drawn.get("comparison"),
        "changes": changes(cell),
        "pareto": of("pareto"),
        "latency": of("latency"),
        "load": of("load"),
        "cost": of("cost"),
        "costs": costs.section(replace(cell, rows=few(cell.rows)), sources.now_unix_s),
        "resources": resources.section(replace(cell, rows=few(cell.rows))),
        "table": main_table(cell),
        "more": table(few(cell.rows, TABLE_ROWS), MORE, f"All other figures of {cell.name}"),
        "table_note": table_note(cell),
        "notes": notes_below(cell),
        "gallery": gallery(cell, GALLERY_IMAGES // len(sources.cells)),
        "failures": failures(cell),
        "artifacts": artifacts(cell),
        "operators": operator_tables(cell),
    }


def changes(cell: Cell) -> list[str]:
    """What a comparison of two variants proves, a sentence for the mean, P50, P95 and P99 each."""
    others = [row for row in cell.rows if not is_baseline(row)]
    if len(cell.rows) != 2 or cell.unfit or not is_ok(others[0]):
        return []
    name = others[0]["variant"]
    return [f"{sentences.change_words(name, change)}." for change in sentences.changes(cell, others[0])]


def main_table(cell: Cell) -> Table:
    label = f"Variants of {cell.name}"
    if len(cell.rows) <= TABLE_ROWS:
        return table(cell.rows, MAIN, label)
    return large_table(cell.rows, few(cell.rows), MAIN, label)


def notes_below(cell: Cell) -> list[str]:
    """What a reader should know of single variants; the first ones, since a large sweep has thousands."""
    told = [f"{row['variant']}: {row['warnings']}." for row in cell.rows if row.get("warnings")]
    left = len(told) - NOTES
    return told[:NOTES] + ([f"{left} more: the column warnings of summary.csv."] if left > 0 else [])


def table_note(cell: Cell) -> str:
    least = cell.host.get("threshold")
    claim = (
        "" if words.missing(least) else f" Speed differences under {words.percent(least)} are within this host's noise."
    )
    many = len(cell.rows) > TABLE_ROWS
    pages = f" It pages through all {words.count(len(cell.rows), 'variant')}." if many else ""
    return f"In small print: 95 % intervals, and why a figure is n/a. A click on a head sorts.{claim}{pages}"


def alarms(cell: Cell) -> list[dict]:
    """What a reader must know before anything else."""
    told = []
    if cell.unfit:
        told.append({"head": "This host is unfit for comparisons.", "text": f"{cell.unfit}."})
    stale = {row["reason"] for row in cell.rows if row["status"] == "stale" and is_ok(row)}
    for reason in sorted(stale):
        told.append({"head": "These figures are stale.", "text": f"{reason.removeprefix('benchmark: ')}."})
    disturbed = [row["variant"] for row in cell.rows if row.get("disturbed_blocks")]
    if disturbed:
        text = f"Blocks of requests were disturbed: {words.listing(disturbed, 6)}. See below the table."
        told.append({"head": "The machine was not quiet.", "text": text})
    return told


def inline_pictures(index: Sequence[Mapping], folder: Path) -> tuple[str, dict[str, dict]]:
    """What all pictures share, and each picture that is an SVG by its file's name, ready for the template."""
    entries = [entry for entry in index if entry["files"][-1].endswith(".svg")]
    letters, svgs = inline_svgs([(folder / entry["files"][-1]).read_text(encoding="utf-8") for entry in entries])
    pictures = {
        entry["files"][-1]: {
            "id": f"picture-{number}",
            "svg": Markup(svg),
            "alt": f"{entry['alt']} {entry['finding']}.",
            "finding": entry["finding"],
            "caption": " · ".join(f"{folder.name}/{name}" for name in entry["files"]),
        }
        for number, (entry, svg) in enumerate(zip(entries, svgs, strict=True))
    }
    return Markup(letters), pictures


def gallery(cell: Cell, most: int) -> dict:
    """Sample images as data URIs: every image has its own alternative text."""
    wanted = few(cell.rows)
    shown = sample_images(replace(cell, rows=wanted), max(2, min(GALLERY_COLUMNS, most // max(len(wanted), 1))))
    rows = []
    for row in wanted:
        images = shown.images[row["variant"]]
        absent = not any(image is not None for image in images)
        rows.append(
            {
                "name": row["variant"],
                "lines": sentences.gallery_lines(row),
                "baseline": is_baseline(row),
                "reason": why_missing(row) if absent else "",
                "images": [
                    _image(image, f"{row['variant']}: {prompt}, seed {seed}")
                    for image, prompt, seed in zip(images, shown.prompts, shown.seeds, strict=True)
                ],
            }
        )
    note = "The same prompts, seeds and initial noise in every row. " + sentences.images(cell.rows) + ". "
    note += selection_note(cell.rows)
    return {"prompts": shown.prompts, "rows": rows, "note": note if shown.prompts else "n/a: no variant has images."}


def _image(image, alt: str) -> dict:
    if image is None:
        return {"data": "", "alt": "not measured", "width": 0, "height": 0}
    small = image if max(image.shape[:2]) <= THUMBNAIL else fit(image, THUMBNAIL)
    height, width = small.shape[:2]
    return {"data": Markup(data_uri(small)), "alt": alt, "width": width, "height": height}


# --- failures, artifacts --------------------------------------------------------------------------------------------


def failures(cell: Cell) -> list[dict]:
    """Variants without a result (at most HOLES of them): stage, reason, and where its log lies."""
    holes = [row for row in cell.rows if not is_ok(row)]
    return [
        {
            "variant": row["variant"],
            "status": row["status"],
            "stage": logs.stage_of(row),
            "reason": row.get("reason") or "no reason given",
            "log": logs.log_of(row, results_of(cell)),
        }
        for row in holes[:HOLES]
    ]


def results_of(cell: Cell) -> Path:
    """The sweep's folder as everybody names it, wherever this copy of it lies."""
    return Path("results") / cell.plan["sweep"]


def artifacts(cell: Cell) -> dict | None:
    """Parity and census, a line per artifact."""
    lines: dict[str, list[str]] = {}
    for row in cell.rows:
        if words.missing(row.get("parity_denoiser_relative_error")) and not row.get("census"):
            continue
        lines.setdefault(
            logs.artifact_of(row),
            [
                words.number(row.get("parity_denoiser_relative_error"), 2),
                words.psnr(row.get("parity_image_psnr_db")),
                row.get("census") or words.NOT_MEASURED,
                words.seconds(row.get("build_s")),
                words.size(row.get("artifact_bytes")),
            ],
        )
    if not lines:
        return None
    heads = ["artifact", "relative error of the denoiser", "PSNR of the image, dB", "what runs", "build", "size"]
    return {"heads": heads, "rows": [[name, *texts] for name, texts in lines.items()]}


# --- where it comes from --------------------------------------------------------------------------------------------


def found_versions(cells: Sequence[Cell], notes: Mapping) -> dict[str, dict[str, str]]:
    """Environment -> package -> version, from what the servers, the conversions and the scorers noted themselves."""
    found: dict[str, dict[str, str]] = {}
    for cell in cells:
        _add(found, "export", _versions_in(cell.folder.parent / "artifacts" / cell.model / "onnx" / "manifest.json"))
        for row in cell.rows:
            manifest = cell.folder.parent / "artifacts" / cell.model / logs.artifact_of(row) / "manifest.json"
            _add(found, row["engine"], _versions_in(manifest))
            quality = cell.folder / cell.model / cell.target / row["variant"] / "quality.json"
            _add(found, "scoring", _versions_in(quality, "provenance"))
        engines = {row["variant"]: row["engine"] for row in cell.rows}
        for note in notes[cell.model, cell.target]:
            for role, server in (note.get("servers") or {}).items():
                engine = engines.get(note["variant"] if role == "variant" else cell.plan["baseline"])
                _add(found, engine or role, server.get("versions") or {})
    return found


def _add(found: dict, environment: str, packages: Mapping[str, str]) -> None:
    if packages:
        found.setdefault(environment, {}).update({k: str(v) for k, v in packages.items() if v is not None})


def _versions_in(path: Path, key: str | None = None) -> Mapping[str, str]:
    if not path.exists():
        return {}
    document = read_json(path)
    return ((document.get(key) or {}) if key else document).get("versions") or {}


def provenance(
    cells: Sequence[Cell], notes: Mapping, hosts: Mapping, runs: set[str], now_unix_s: float
) -> method.Facts:
    """What identifies this run."""
    revisions = {host.get("git_revision") or host.get("git") for host in hosts.values()} - {None}
    dirty = any(host.get("git_dirty") for host in hosts.values())
    locks = ", ".join(sorted(environments_of(notes)) + [e for e in map(_current, ("export", "scoring")) if e])
    return [
        (
            "Git revision",
            (", ".join(sorted(revisions)) or "n/a: not a git checkout") + (" with changes" if dirty else ""),
        ),
        ("Environments, with the digests of their locks", locks or words.NOT_MEASURED),
        ("Runs", words.listing(sorted(runs), 6) or words.NOT_MEASURED),
        ("Report made", method.day(now_unix_s)),
        (
            "Results",
            f"{results_of(cells[0])}: plan.json, summary.csv, tables/, plots/, and the raw records of every variant",
        ),
    ]


def environments_of(notes: Mapping) -> set[str]:
    """The environments that the measured servers ran in, as they noted them: name and digest of the lock."""
    servers = (server for found in notes.values() for note in found for server in (note.get("servers") or {}).values())
    return {server["environment"] for server in servers if server.get("environment")}


def _current(name: str) -> str | None:
    """An environment by its lock as it is now; the rerun rules keep that the one that was used."""
    try:
        return f"{name}-{lock_digest(name)}"
    except EnvironmentFailed:
        return None
