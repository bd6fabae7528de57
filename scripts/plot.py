"""Draw every picture of a sweep from its tables into plots/, and plots/index.json, which says what each shows.

No model is run. Pictures of a sweep with one model and one target are named after what they show
(pareto-latency-fid.svg); with several, model and target follow (pareto-latency-fid--sdxl--h100.svg).
"""

import argparse
import sys
import time
from pathlib import Path

from diffsweep.show.cells import Cell, read_cells
from diffsweep.show.figures import Picture, pictures
from diffsweep.show.style import save_png, save_svg, use_style
from diffsweep.sweep.files import digest_file, write_json
from diffsweep.sweep.outcomes import run_program
from diffsweep.sweep.runs import current_run


def stem(cell: Cell, name: str) -> str:
    return name if cell.only else f"{name}--{cell.model}--{cell.target}"


def save(picture: Picture, folder: Path, name: str) -> dict:
    """Write a picture's files; returns what the index says of it."""
    save_png(picture.figure, folder / f"{name}.png", picture.dpi)
    if picture.svg:
        save_svg(picture.figure, folder / f"{name}.svg")
    return {
        "name": picture.name,
        "section": picture.section,
        "files": [f"{name}.png", *([f"{name}.svg"] if picture.svg else [])],
        "finding": picture.frame.finding,
        "subtitle": picture.frame.subtitle,
        "alt": picture.alt,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="the sweep's folder, results/<sweep>")
    options = parser.parse_args()
    began_s = time.perf_counter()
    try:
        cells = read_cells(options.results)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"plot: {options.results}: {error}; run scripts/aggregate.py first")
    index, folder = [], options.results / "plots"
    with use_style():
        for cell in cells:
            for picture in pictures(cell):
                entry = save(picture, folder, stem(cell, picture.name))
                index.append({"model": cell.model, "target": cell.target, **entry})
    made_from = {"summary.parquet": digest_file(options.results / "summary.parquet")}
    files = {name: digest_file(folder / name) for picture in index for name in picture["files"]}
    told = {"schema": 1, "run": current_run(), "inputs": made_from, "files": files, "pictures": index}
    write_json(folder / "index.json", told)
    print(f"drew {len(index)} pictures in {time.perf_counter() - began_s:.1f} s", flush=True)


if __name__ == "__main__":
    run_program(main)
