"""Print what a sweep ends with: per variant the verdict, the speed-up and the quality; the answer; what failed."""

import argparse
import sys
from pathlib import Path

from diffsweep.show.console import closing_words, read_summary
from diffsweep.sweep.files import read_json


def update_line(results: Path) -> str:
    """What the last update did, in a line; empty where there was none."""
    state = results / "state.json"
    update = read_json(state).get("update") if state.exists() else None
    if not update:
        return ""
    return f"\nSince the last update ({update['cause']}): {update['headline']}. See {results / 'update.html'}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="the sweep's folder, results/<sweep>")
    results = parser.parse_args().results
    try:
        rows = read_summary(results / "summary.csv")
    except OSError as error:
        sys.exit(f"console: {results}: {error}; run the sweep first")
    print(update_line(results) + closing_words(rows, results))


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 shows a ? where it has no letter
    main()
