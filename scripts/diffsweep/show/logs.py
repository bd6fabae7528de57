"""Where the log of a failed job lies: the `log:` directives of workflow/rules/, told by the reason's first word."""

from collections.abc import Mapping
from pathlib import Path

STAGES = ("convert", "benchmark", "images", "score")


def stage_of(row: Mapping) -> str:
    """The stage that a reason begins with ("benchmark, replicate 2: ..."); "" when it names none."""
    head = str(row.get("reason") or "").split(":", 1)[0].split(",", 1)[0]
    return head if head in STAGES else ""


def log_of(row: Mapping, results: Path) -> str:
    """The path of the log, as seen from where `results` (results/<sweep>) is; "" when the reason names no stage."""
    stage = stage_of(row)
    folder = results / row["model"] / row["target"] / row["variant"]
    if stage == "convert":
        return str(results.parent / "artifacts" / row["model"] / "logs" / f"{artifact_of(row)}.log")
    if stage == "benchmark":
        number = row["reason"].split(":", 1)[0].split()[-1]
        return str(folder / f"replicate-{number if number.isdigit() else 1}" / "benchmark.log")
    return str(folder / f"{stage}.log") if stage else ""


def artifact_of(row: Mapping) -> str:
    """The artifact that a variant runs (sweep.variants.artifact_name, which needs more than the standard library)."""
    name = f"{row['engine']}-{row['precision']}"
    return f"{name}-compile-{row['target']}" if row.get("compile") in (True, "true") else name
