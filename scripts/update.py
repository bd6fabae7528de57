"""Keep a sweep's results as a state, and write what the last update did: update.html and state.json.

An update is whatever tells the results apart from the newest kept state that other environments, another machine or
another revision of the code made. state.json says what the state is, and in short what the page says.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from diffsweep.analysis import keeping
from diffsweep.analysis.states import current_locks
from diffsweep.analysis.updates import compare
from diffsweep.sweep.files import atomic, read_json, write_json
from diffsweep.sweep.outcomes import run_program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="the sweep's folder, results/<sweep>")
    results = parser.parse_args().results
    try:
        plan = read_json(results / "plan.json")
        notes = keeping.keep(results, plan, current_locks())
        before = keeping.before_update(notes, results)
        page, update = first(notes) if before is None else against(before, keeping.kept_folder(results, notes))
    except FileNotFoundError as error:
        sys.exit(f"update: {error.filename} is missing; let the sweep end first (snakemake --cores all)")
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"update: {results}: {type(error).__name__}: {error}")
    with atomic(results / "update.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_json(results / keeping.NOTES, {**notes, "update": update})
    print(f"kept {notes['state']}" + (f"; {update['headline']}" if update else ""), flush=True)


def first(notes: dict) -> tuple[str, None]:
    from diffsweep.show.update_page import render_first

    return render_first(notes), None


def against(before: Path, now: Path) -> tuple[str, dict]:
    """The page, and what state.json says of it."""
    from diffsweep.show import update_words
    from diffsweep.show.update_page import render

    with TemporaryDirectory(prefix="diffsweep-") as scratch:
        old, new = (keeping.open_state(folder, Path(scratch)) for folder in (before, now))
        comparison = compare(old, new)
    command = f"scripts/compare {before.name} {now.name}"
    return render(comparison, command), {
        "against": before.name,
        "against_unix_s": comparison.old["kept_unix_s"],
        "cause": update_words.cause(comparison),
        "headline": update_words.headline(comparison),
    }


if __name__ == "__main__":
    run_program(main)
