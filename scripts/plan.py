"""Resolve a config into a plan, or say in one line what is wrong with it.

python scripts/plan.py --config config/config.yaml             prints the plan as a table
python scripts/plan.py --config config/config.yaml --out FILE  writes it as JSON
"""

import argparse
import json
import sys
from pathlib import Path

from diffsweep.sweep.files import write_json
from diffsweep.sweep.plan import AXES, ConfigError, make_plan, read_yaml


def table(plan: dict) -> str:
    """The variants of a plan, one a line."""
    header = ["variant", "parent", *AXES, "change"]
    rows = [
        [str(variant[key] if variant[key] is not None else "-") for key in ("name", *header[1:])]
        for variant in plan["variants"]
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    )


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
        print(
            f"{plan['sweep']}: {json.dumps(list(plan['models']))} on {json.dumps(list(plan['targets']))}\n{table(plan)}"
        )


if __name__ == "__main__":
    main()
