"""Copy what people look at, and the raw records compressed, from a finished sweep to results/published/<name>/.

    python scripts/publish.py --results results/default --name local

Images and model files stay behind: they are made again by the same command. A calibration goes along, if there is one.
"""

import argparse
import gzip
import shutil
import sys
import tarfile
from pathlib import Path

from diffsweep.sweep.files import atomic_folder, list_files
from diffsweep.sweep.holdings import raw_files
from diffsweep.sweep.paths import RESULTS
from diffsweep.sweep.privacy import find_private

SHOWN = ("report.html", "update.html", "state.json", "summary.csv", "plan.json", "run.json", "tables", "plots")


def write_archive(paths: list[Path], archive: Path) -> None:
    """A .tar.gz of `paths` that is the same, byte for byte, whenever and by whomever it is made."""
    with gzip.GzipFile(archive, "wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for path in paths:
            entry = tar.gettarinfo(path, arcname=path.as_posix())
            entry.mtime = entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            with open(path, "rb") as content:
                tar.addfile(entry, content)


def refuse_private(results: Path) -> None:
    """End in one line when something that would be published names its maker or holds a token."""
    shown = [results / name for name in SHOWN]
    files = [file for path in shown for file in ([path] if path.is_file() else list_files(path))]
    for path in (*files, *raw_files(results), *list_files(results / "calibration")):
        found = find_private(path.read_bytes())
        if found:
            sys.exit(f"publish: {path} holds {found}; remove it first")


def copy_calibration(calibration: Path, folder: Path) -> None:
    """The reports and pictures, and the replicates' records as an archive beside them."""
    shutil.copytree(calibration, folder, ignore=shutil.ignore_patterns("replicate-*", "*.log"))
    for empty in [path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())]:
        empty.rmdir()
    write_archive(calibration_records(calibration), folder / "records.tar.gz")


def calibration_records(calibration: Path) -> list[Path]:
    return sorted(calibration.rglob("replicate-*/*.json*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="a finished sweep, results/<sweep>")
    parser.add_argument("--name", required=True, help="the folder below results/published/, usually the target's name")
    options = parser.parse_args()
    missing = [name for name in SHOWN if not (options.results / name).exists()]
    if missing:
        sys.exit(f"publish: {options.results} has no {missing[0]}; let the sweep end first (snakemake --cores all)")
    refuse_private(options.results)
    with atomic_folder(Path(RESULTS, "published", options.name)) as folder:
        for name in SHOWN:
            source = options.results / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        write_archive(raw_files(options.results), folder / "records.tar.gz")
        calibration = options.results / "calibration"
        if calibration.exists():
            copy_calibration(calibration, folder / "calibration")


if __name__ == "__main__":
    main()
