"""Synthetic results folders with known truth: what a sweep would leave behind, without running a model.

`make_results(folder, plan)` writes every file of the contracts that the analysis, the plots and the report read, with
noise between processes, between requests, drift and outliers. Each variant's truth is a `Truth`; each stage of each
variant can be made to fail. Used by the tests, and by hand: `PYTHONPATH=scripts python tests/synthetic FOLDER`.
"""

from synthetic.cells import Failure, write_json
from synthetic.images import draw, prompt_of
from synthetic.plan import (
    DEFAULT_VARIANTS,
    LOCAL,
    Truth,
    artifact_name,
    make_plan,
    make_variants,
    slower,
    true_speedup,
    truth_of,
)
from synthetic.replicates import STARTED_UNIX_S, digests, records_of_steps
from synthetic.results import EXPORT_S, make_results

__all__ = [
    "DEFAULT_VARIANTS",
    "EXPORT_S",
    "LOCAL",
    "STARTED_UNIX_S",
    "Failure",
    "Truth",
    "artifact_name",
    "digests",
    "draw",
    "make_plan",
    "make_results",
    "make_variants",
    "prompt_of",
    "records_of_steps",
    "slower",
    "true_speedup",
    "truth_of",
    "write_json",
]
