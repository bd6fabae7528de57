"""Bundle a finished sweep as an RO-Crate in one .zip, to be kept, passed on, and opened again elsewhere.

    snakemake --cores all bundle                        makes results/<sweep>/bundle.zip

    git clone ... && cd diffsweep && unzip bundle.zip   opens it over a fresh clone:
    snakemake -n --configfile results/<sweep>/provenance/config.json    finds nothing to do

In it: results with raw records and images, the merged config, plan, prompt suites and targets, locks and receipts, the
machine, the git revision, the workflow's code, and Snakemake's own records. Not in it: model files and logs. Whatever
names a person, a home folder or a token is refused.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from diffsweep.show.crate import Contents, describe_crate
from diffsweep.sweep.files import atomic, read_json
from diffsweep.sweep.holdings import all_files, code_files, config_files, snakemake_records
from diffsweep.sweep.outcomes import run_program
from diffsweep.sweep.privacy import find_private
from diffsweep.sweep.runs import git_revision

CRATE = "ro-crate-metadata.json"
CHANGING = ("before", "after")  # what a host's description holds of the moment
NO_TEXT = {".png", ".npy", ".parquet"}
EPOCH = (1980, 1, 1, 0, 0, 0)  # one time for all: nothing in a bundle is newer than what was made from it


def main() -> None:
    options = parse_options()
    results = options.results
    try:
        plan, config = read_json(results / "plan.json"), read_json(options.config)
        made = [path for path in all_files(results) if results / "provenance" not in path.parents]
        records = snakemake_records(made)
        written = provenance(results, plan, config, made)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"bundle: {results} is no finished sweep: {type(error).__name__}: {error}; let it end first")
    config_sources = config_files(config, plan)
    files = {path: path.read_bytes() for path in (*code_files(), *config_sources, *made, *sorted(records))}
    files |= {path: as_json(value) for path, value in written.items()}
    times = [record[key] for record in records.values() for key in ("starttime", "endtime") if record.get(key)]
    contents = Contents(
        sweep=plan["sweep"],
        files=files,
        inputs=[results / "provenance" / "config.json", *config_sources],
        results=made,
        records=sorted(records),
        began=when(min(times)) if times else None,
        ended=when(max(times)) if times else None,
        snakemake=version_of("snakemake"),
    )
    files[Path(CRATE)] = as_json(describe_crate(contents))
    refuse_private(files)
    write_zip(options.out, files)
    print(f"bundled {len(files)} files, {options.out.stat().st_size / 1e6:.1f} MB", flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="the sweep's folder, results/<sweep>")
    parser.add_argument("--config", required=True, type=Path, help="the merged config, as JSON")
    parser.add_argument("--out", required=True, type=Path, help="where the bundle goes")
    return parser.parse_args()


def provenance(results: Path, plan: Mapping, config: Mapping, made: list[Path]) -> dict[Path, object]:
    """What is written for the bundle alone, by path: the config, the machines, the source's revisions."""
    machines: dict[str, dict] = {}
    revisions = set()
    for path in (path for path in made if path.name == "replicate.json"):
        notes = read_json(path)
        host = {key: value for key, value in notes.get("host", {}).items() if key not in CHANGING}
        revisions.add(host.pop("git_revision", None))
        host.pop("git_dirty", None)
        machines.setdefault(f"{notes.get('model')}/{notes.get('target')}", host)
    source = {**git_revision(), "measured_at_revisions": sorted(filter(None, revisions))}
    folder = results / "provenance"
    return {folder / "config.json": config, folder / "machine.json": machines, folder / "source.json": source}


def version_of(package: str) -> str | None:
    """The version that the workflow's lock pins."""
    lines = Path("envs", "workflow.lock").read_text(encoding="utf-8").splitlines()
    return next((line.split()[0].split("==")[1] for line in lines if line.startswith(f"{package}==")), None)


def when(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


def as_json(value: object) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def refuse_private(files: Mapping[Path, bytes]) -> None:
    """End in one line when a file names its maker or holds a token."""
    for path, content in files.items():
        found = find_private(content) if path.suffix not in NO_TEXT else None
        if found:
            sys.exit(f"bundle: {path} holds {found}; a bundle is for others: remove it first (give paths relative)")


def write_zip(out: Path, files: Mapping[Path, bytes]) -> None:
    """The same bytes for the same files, whenever and by whomever it is made."""
    with atomic(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path.as_posix(), EPOCH)
            entry.compress_type = zipfile.ZIP_STORED if path.suffix == ".png" else zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if content.startswith(b"#!") else 0o644) << 16
            archive.writestr(entry, content)


if __name__ == "__main__":
    run_program(main)
