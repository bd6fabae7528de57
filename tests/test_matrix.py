"""`matrix:` in a config: every combination once, one change at a time where it can be, names that stay."""

import copy

import pytest

from diffsweep.sweep.documents import ConfigError, read_yaml
from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.plan import make_plan
from diffsweep.sweep.variants import AXES

SMOKE = read_yaml(PROJECT / "config" / "smoke.yaml")
MATRIX = {"axes": {"engine": ["torch", "openvino"], "precision": ["fp32", "bf16"], "steps": [8, 6, 4]}}


def planned(matrix: dict, **changes) -> dict[str, dict]:
    """The variants of the smoke config with a matrix, by name."""
    plan = make_plan({**copy.deepcopy(SMOKE), "matrix": matrix, **changes})
    return {variant["name"]: variant for variant in plan["variants"]}


def test_every_combination_is_there_once_and_the_written_ones_keep_their_names():
    found = planned(MATRIX)
    combinations = {(v["engine"], v["precision"], v["steps"]) for v in found.values() if v["engine"] != "onnxruntime"}
    assert len(found) == 2 * 2 * 3 + 1  # and onnxruntime, which is written
    assert combinations == {(e, p, s) for e in ("torch", "openvino") for p in ("fp32", "bf16") for s in (8, 6, 4)}
    assert found["ddim-4"]["steps"] == 4 and "steps-4" not in found


def test_names_say_what_differs_from_the_root_and_parents_are_one_change_away():
    found = planned(MATRIX)
    assert {"openvino", "bf16", "openvino-bf16", "openvino-bf16-steps-6", "steps-6"} <= set(found)
    assert found["openvino-bf16-steps-6"]["parent"] == "openvino-bf16"
    assert found["openvino-bf16-steps-6"]["change"] == "steps: 8 -> 6"
    assert found["openvino-steps-4"]["parent"] == "openvino"
    for variant in found.values():
        assert variant["name"] == "fp32" or variant["change"].count("->") == 1


def test_names_stay_when_values_are_added():
    wider = copy.deepcopy(MATRIX)
    wider["axes"]["steps"].insert(0, 2)
    wider["axes"]["scheduler"] = ["ddim", "dpm++"]
    assert planned(wider).items() >= {k: v for k, v in planned(MATRIX).items() if v["steps"] != 2}.items()


def test_a_combination_without_its_neighbours_is_a_compound():
    matrix = {"axes": {"engine": ["openvino"], "steps": [6]}}
    assert planned(matrix)["openvino-steps-6"]["parent"] == "fp32"
    assert planned(matrix)["openvino-steps-6"]["change"] == "engine: torch -> openvino; steps: 8 -> 6"


def test_combinations_can_be_left_out_and_another_root_chosen():
    found = planned({**MATRIX, "exclude": [{"engine": "torch", "precision": "bf16"}]})
    assert "bf16" not in found and "openvino-bf16" in found
    found = planned({"parent": "onnxruntime", "axes": {"steps": [6, 5]}})
    assert found["onnxruntime-steps-5"]["parent"] == "onnxruntime"


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ({"axes": {"stepps": [1]}}, "matrix.axes: there is no axis 'stepps'; did you mean 'steps'?"),
        ({"axes": {"engine": ["torhc"]}}, "matrix.axes.engine.0: 'torhc' is not a known value; did you mean 'torch'?"),
        (
            {"axes": {"steps": [8, 6]}, "exclude": [{"steps": 7}]},
            "matrix.exclude: no combination has steps 7; remove it",
        ),
        ({"parent": "fp23", "axes": {"steps": [6]}}, "matrix.parent: there is no variant 'fp23'; did you mean 'fp32'?"),
        (
            {
                "axes": {
                    "steps": list(range(1, 1000)),
                    "guidance": list(range(1, 50)),
                    "compile": [True, False],
                    "precision": ["fp32", "bf16"],
                }
            },
            "matrix: 195,804 combinations are more than 100,000",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(matrix, message):
    with pytest.raises(ConfigError) as told:
        planned(matrix)
    assert message in str(told.value) and "\n" not in str(told.value)


def test_a_name_that_is_taken_is_told_in_one_line():
    variants = {**SMOKE["variants"], "steps-6": {"parent": "fp32", "steps": 3}}
    with pytest.raises(
        ConfigError, match="^matrix: steps 6 would be named 'steps-6', as is a variant with other values"
    ):
        planned({"axes": {"steps": [6]}}, variants=variants)


def test_thousands_of_variants_resolve():
    axes = {"engine": ["torch", "openvino"], "precision": ["fp32", "bf16", "int8"], "steps": list(range(1, 101))}
    found = planned({"axes": axes | {"scheduler": ["ddim", "dpm++", "unipc", "euler"]}})
    assert len(found) == 2 * 3 * 100 * 4 + 1
    assert all(set(AXES) <= set(variant) for variant in found.values())
