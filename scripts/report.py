"""Write a sweep's report: one HTML page that needs nothing else, from its tables and pictures. No model is run."""

import argparse
import sys
import time
from pathlib import Path

from diffsweep.show.cells import read_cells
from diffsweep.show.report import Sources, render
from diffsweep.sweep.documents import ConfigError, read_yaml
from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.files import atomic, read_json
from diffsweep.sweep.outcomes import run_program


def command_of(sweep: str) -> str:
    """The command that makes this sweep: with the config under config/ that names it."""
    for path in sorted(PROJECT.glob("config/**/*.yaml")):
        try:
            config = read_yaml(path)
        except ConfigError:
            continue
        if isinstance(config, dict) and config.get("sweep") == sweep:
            name = path.relative_to(PROJECT)
            return "snakemake --cores all" + ("" if str(name) == "config/config.yaml" else f" --configfile {name}")
    return "snakemake --cores all --configfile CONFIG"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="the sweep's folder, results/<sweep>")
    parser.add_argument("--out", required=True, type=Path, help="where the report goes")
    options = parser.parse_args()
    try:
        cells = read_cells(options.results)
        index = read_json(options.results / "plots" / "index.json")["pictures"]
        run, state = options.results / "run.json", options.results / "state.json"
        page = render(
            Sources(
                cells=cells,
                pictures=index,
                plots=options.results / "plots",
                run=read_json(run) if run.exists() else None,
                now_unix_s=time.time(),
                command=command_of(cells[0].plan["sweep"]),
                update=(read_json(state) if state.exists() else {}).get("update"),
            )
        )
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"report: {options.results}: {error}; run scripts/aggregate.py and scripts/plot.py first")
    with atomic(options.out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"wrote {options.out} ({len(page.encode()) / 1e6:.1f} MB)", flush=True)


if __name__ == "__main__":
    run_program(main)
