"""Resolve a config into a plan, or say in one line what is wrong with it.

python scripts/plan.py --config config/config.yaml             prints the plan as a table
python scripts/plan.py --config config/config.yaml --out FILE  writes it as JSON
"""

import argparse
import sys
from pathlib import Path

from diffsweep.sweep.documents import ConfigError, read_yaml
from diffsweep.sweep.files import write_json
from diffsweep.sweep.outcomes import run_program
from diffsweep.sweep.plan import make_plan
from diffsweep.sweep.variants import AXES


def table(plan: dict) -> str:
    """The variants of a plan, one a line."""
    keys = ("name", "parent", *AXES, "change")
    rows = [keys, *([str(variant[key] or "-") for key in keys] for variant in plan["variants"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="a sweep's config, YAML or JSON")
    parser.add_argument("--out", type=Path, help="where the plan goes, as JSON")
    options = parser.parse_args()
    try:
        plan = make_plan(read_yaml(options.config))
    except ConfigError as error:
        sys.exit(f"diffsweep: {error}")
    if options.out:
        write_json(options.out, plan)
    else:
        print(f"sweep {plan['sweep']}: models {', '.join(plan['models'])}; targets {', '.join(plan['targets'])}")
        print(table(plan))


if __name__ == "__main__":
    run_program(main)
