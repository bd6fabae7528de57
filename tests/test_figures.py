"""The table that benchmarks keep their figures in."""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from figures import RATIO, Figure, keep  # noqa: E402


def test_a_benchmark_replaces_its_own_figures_and_leaves_the_others(tmp_path):
    table = tmp_path / "timings.csv"
    keep(table, "one", [Figure("a", 1.0, "s", 2.0), Figure("b", 1.00049, RATIO)])
    keep(table, "other", [Figure("c", 3.0, "s")])
    keep(table, "one", [Figure("a", 2.5, "s", 2.0)])
    rows = list(csv.DictReader(table.open()))
    assert [(row["benchmark"], row["what"], row["value"]) for row in rows] == [
        ("other", "c", "3.0"),
        ("one", "a", "2.5"),
    ]
    assert all(row["machine"] and row["git_revision"] for row in rows)
    assert Figure("a", 2.5, "s", 2.0).missed and not Figure("a", 2.0, "s", 2.0).missed
