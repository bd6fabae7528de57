"""Config -> plan: every axis is spelled out, and whatever is wrong is told in one line that names the key."""

import copy

import pytest
import yaml

from benchmark import is_on_baselines_server
from diffsweep.sweep.documents import ConfigError, read_yaml
from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.plan import PRICES, make_plan, resolve_price
from diffsweep.sweep.sharing import server_of
from diffsweep.sweep.specs import artifacts_of, benchmark_spec, convert_spec, images_spec
from diffsweep.sweep.variants import AXES, find_variant

DEFAULT = read_yaml(PROJECT / "config" / "config.yaml")


def changed(**changes) -> dict:
    """The default config with some keys replaced; dots in a key lead into mappings, None removes a key."""
    config = copy.deepcopy(DEFAULT)
    for key, value in changes.items():
        *path, last = key.split("__")
        place = config
        for part in path:
            place = place.setdefault(part, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    return config


def test_default_sweep_has_every_variant_that_was_asked_for():
    names = {variant["name"] for variant in make_plan(DEFAULT)["variants"]}
    wanted = "fp32 bf16 fp16 int8 compiled onnxruntime onnxruntime-int8 openvino openvino-bf16 openvino-int8"
    assert names >= {*wanted.split(), "ddim-10", "ddim-5", "dpm-20", "dpm-10", "unipc-8", "openvino-bf16-dpm-20"}


@pytest.mark.parametrize("path", sorted((PROJECT / "config").rglob("*.yaml")), ids=lambda p: p.name)
def test_every_config_that_ships_resolves(path):
    document = read_yaml(path)
    if "sweep" in document:
        plan = make_plan(document)
        assert all(set(AXES) <= set(variant) for variant in plan["variants"])


def test_a_child_inherits_what_it_does_not_change():
    variants = {v["name"]: v for v in make_plan(DEFAULT)["variants"]}
    child = variants["openvino-bf16-dpm-10"]
    assert (child["engine"], child["precision"], child["scheduler"], child["steps"]) == (
        "openvino",
        "bf16",
        "dpm++",
        10,
    )
    assert child["change"] == "steps: 20 -> 10"


def test_parents_may_stand_after_their_children():
    variants = dict(reversed(DEFAULT["variants"].items()))
    assert len(make_plan({**DEFAULT, "variants": variants})["variants"]) == len(variants)


PRICE = {"currency": "USD", "on_demand_per_hour": 1.0, "spot_per_hour": 0.4, "region": "x", "date": "2026-01-01"}

BROKEN = {
    "unknown axis": (
        {"variants__bf16": {"parent": "fp32", "precison": "bf16"}},
        ["variants.bf16", "precison", "'precision'"],
    ),
    "unknown value": (
        {"variants__bf16": {"parent": "fp32", "precision": "int7"}},
        ["variants.bf16.precision", "int7", "int8"],
    ),
    "unknown parent": (
        {"variants__bf16": {"parent": "fp23", "precision": "bf16"}},
        ["variants.bf16.parent", "fp23", "fp32"],
    ),
    "no parent": ({"variants__bf16": {"precision": "bf16"}}, ["variants.bf16.parent", "missing"]),
    "cycle": (
        {"variants__a": {"parent": "b", "steps": 9}, "variants__b": {"parent": "a", "steps": 8}},
        ["variants.", "cycle", "a -> b -> a"],
    ),
    "two changes": (
        {"variants__x": {"parent": "fp32", "steps": 9, "precision": "bf16"}},
        ["variants.x", "changes 2 axes", "compound: true"],
    ),
    "no change": ({"variants__x": {"parent": "fp32", "steps": 25}}, ["variants.x", "changes nothing"]),
    "duplicate": ({"variants__bf17": {"parent": "fp32", "precision": "bf16"}}, ["variants.bf17", "the same as 'bf16'"]),
    "bad name": ({"variants__a b": {"parent": "fp32", "steps": 9}}, ["variants", "'a b'", "plain word"]),
    "path as name": ({"variants__..": {"parent": "fp32", "steps": 9}}, ["plain word"]),
    "number as name": ({"variants": {**DEFAULT["variants"], 8: {"parent": "fp32", "steps": 8}}}, ["plain word"]),
    "reserved sweep": ({"sweep": "artifacts"}, ["sweep", "artifacts"]),
    "unknown baseline": ({"baseline": "fp33"}, ["baseline", "fp33", "fp32"]),
    "baseline with a parent": ({"variants__fp32__parent": "bf16"}, ["variants.fp32.parent"]),
    "incomplete baseline": ({"variants__fp32__steps": None}, ["variants.fp32", "steps"]),
    "steps of zero": ({"variants__ddim-5__steps": 0}, ["variants.ddim-5.steps", "0"]),
    "steps as text": ({"variants__ddim-5__steps": "five"}, ["variants.ddim-5.steps", "five"]),
    "unknown target": ({"targets": ["locl"]}, ["targets", "locl", "local"]),
    "missing section": ({"models": None}, ["models", "missing"]),
    "unknown section": ({"modles": {}}, ["modles", "models"]),
    "missing local model": (
        {"models__reference__path": "resources/nothing"},
        ["models.reference.path", "resources/nothing"],
    ),
    "unpinned hub model": (
        {"models__sdxl": {"hub": "stabilityai/sdxl", "revision": "main", "width": 1024, "height": 1024}},
        ["models.sdxl.revision", "pinned"],
    ),
    "two sources": ({"models__reference__hub": "a/b"}, ["models.reference", "either"]),
    "batching on": ({"variants__x": {"parent": "fp32", "batching": True}}, ["variants.x.batching", "max_batch: 4"]),
    "batching as text": (
        {"variants__x": {"parent": "fp32", "batching": "4@10ms"}},
        ["variants.x.batching", "4@10ms", "{max_batch: 4, max_wait_ms: 10}"],
    ),
    "batches of one": (
        {"variants__x": {"parent": "fp32", "batching": {"max_batch": 1}}},
        ["x.batching.max_batch", "1"],
    ),
    "no largest batch": (
        {"variants__x": {"parent": "fp32", "batching": {"max_wait_ms": 5}}},
        ["variants.x.batching", "'max_batch' is missing"],
    ),
    "mistyped wait": (
        {"variants__x": {"parent": "fp32", "batching": {"max_batch": 4, "max_wait": 5}}},
        ["variants.x.batching", "'max_wait'", "'max_wait_ms'"],
    ),
    "batching twice": (
        {
            "variants__x": {"parent": "fp32", "batching": {"max_batch": 4, "max_wait_ms": 10}},
            "variants__y": {"parent": "fp32", "batching": {"max_batch": 4, "max_wait_ms": 10.0}},
        },
        ["the same as 'x'"],
    ),
    "missing prompts": ({"quality__prompts": "config/prompts/none.yaml"}, ["config/prompts/none.yaml", "no such file"]),
}


@pytest.mark.parametrize("changes, words", BROKEN.values(), ids=BROKEN)
def test_a_wrong_config_is_told_in_one_line_that_names_the_key(changes, words):
    with pytest.raises(ConfigError) as caught:
        make_plan(changed(**changes))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("missing", ["date", "source"])
def test_a_price_without_date_or_source_is_refused(tmp_path, missing):
    price = {**PRICE, "source": "somewhere"}
    del price[missing]
    targets = tmp_path / "targets.yaml"
    targets.write_text(yaml.safe_dump({"targets": {"local": {"device": "cpu", "price": price}}}))
    with pytest.raises(ConfigError, match=f"targets.local.price: '{missing}' is missing"):
        make_plan({**DEFAULT, "targets_file": str(targets)})


def plan_with_price(folder, price) -> dict:
    targets = folder / "targets.yaml"
    targets.write_text(yaml.safe_dump({"targets": {"local": {"device": "cpu", "price": price}}}))
    return make_plan({**DEFAULT, "targets_file": str(targets)})


def test_a_target_may_name_its_price(tmp_path):
    found = plan_with_price(tmp_path, "aws-g5.xlarge")["targets"]["local"]["price"]
    assert found["on_demand_per_hour"] == 1.006 and found["gpus"] == 1 and "A10G" in found["instance"]
    spelled_out = {**PRICE, "source": "an invoice"}
    assert plan_with_price(tmp_path, spelled_out)["targets"]["local"]["price"] == {**spelled_out, "gpus": 1}


WRONG_PRICES = {
    "unknown name": ("aws-g5.xlarg", ["targets.local.price", "'aws-g5.xlarg'", "did you mean 'aws-g5.xlarge'?"]),
    "unknown key": ({**PRICE, "source": "x", "spot": 1}, ["targets.local.price", "unknown key 'spot'"]),
    "no day": ({**PRICE, "source": "x", "date": "2026-13-01"}, ["targets.local.price.date", "2026-13-01"]),
    "no text": ({**PRICE, "source": "x", "date": 20260101}, ["targets.local.price: date", "20260101"]),
    "another currency": ({**PRICE, "source": "x", "currency": "EUR"}, ["targets.local.price: currency", "EUR", "USD"]),
    "for nothing": ({**PRICE, "source": "x", "on_demand_per_hour": 0}, ["targets.local.price: on_demand_per_hour"]),
    "a number": (1.5, ["targets.local.price", "1.5"]),
}


@pytest.mark.parametrize("price, told", WRONG_PRICES.values(), ids=WRONG_PRICES)
def test_a_wrong_price_is_told_in_one_line(tmp_path, price, told):
    with pytest.raises(ConfigError) as caught:
        plan_with_price(tmp_path, price)
    assert "\n" not in str(caught.value)
    for word in told:
        assert word in str(caught.value)


@pytest.mark.parametrize("missing", ["date", "source", "region", "currency"])
def test_a_price_of_the_prices_file_is_held_to_the_same(tmp_path, missing):
    price = {k: v for k, v in {**PRICE, "source": "x"}.items() if k != missing}
    prices = tmp_path / "prices.yaml"
    prices.write_text(yaml.safe_dump({"prices": {"mine": price}}))
    with pytest.raises(ConfigError, match=f"prices.yaml: prices.mine: '{missing}' is missing"):
        resolve_price("mine", "targets.local.price", str(prices))


def test_every_price_that_ships_can_be_defended():
    prices = read_yaml(PROJECT / PRICES)["prices"]
    clouds = {name.split("-")[0] for name in prices}
    assert {"aws-g5.xlarge", "aws-g6.xlarge", "aws-p4d.24xlarge", "aws-p5.48xlarge", "aws-p5en.48xlarge"} <= set(prices)
    assert len(clouds) >= 4
    for name in prices:
        price = resolve_price(name, name)
        assert price["on_demand_per_hour"] > (price["spot_per_hour"] or 0)
        assert price["date"] in price["source"]  # the day on which that source said so
        assert price["spot_per_hour"] is None or not name.startswith("aws") or "spot: " in price["source"]


def test_a_price_is_in_no_spec_of_what_is_measured(tmp_path):
    """A changed price computes the tables again, and measures nothing."""
    cheap, dear = (plan_with_price(tmp_path, price) for price in ("aws-g5.xlarge", "aws-p5.48xlarge"))
    names = ("reference", "local", find_variant(cheap, "bf16"))
    assert cheap != dear
    assert benchmark_spec(cheap, *names, 1) == benchmark_spec(dear, *names, 1)
    assert images_spec(cheap, *names) == images_spec(dear, *names)
    assert artifacts_of(cheap) == artifacts_of(dear)
    assert convert_spec(cheap, "reference", "torch-bf16", "x") == convert_spec(dear, "reference", "torch-bf16", "x")


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("sweep: a\nvariants:\n  x: {}\n  x: {}\n")
    with pytest.raises(ConfigError, match="line 4.*'x' is there twice"):
        read_yaml(path)


@pytest.mark.parametrize("text", ["a: !!python/object/apply:os.system ['true']", "a: [", "\x00", "a: &x [*x]\nb: *y"])
def test_yaml_that_is_not_plain_data_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_spec_holds_only_what_its_result_depends_on():
    """A price, the order of variants, another variant, more replicates: none of it changes a measurement's spec."""
    plan = make_plan(DEFAULT)
    before = benchmark_spec(plan, "reference", "local", find_variant(plan, "bf16"), 1)
    variants = dict(reversed(DEFAULT["variants"].items())) | {"extra": {"parent": "fp32", "steps": 3}}
    after = make_plan({**DEFAULT, "variants": variants, "protocol": {**DEFAULT["protocol"], "replicates": 5}})
    after["targets"]["local"]["price"]["spot_per_hour"] = 9.0
    assert benchmark_spec(after, "reference", "local", find_variant(after, "bf16"), 1) == before


def test_the_digest_of_a_suite_covers_the_prompts_that_are_used(tmp_path):
    """A prompt added at the end changes the images that use it, not the latency."""
    suite = read_yaml(PROJECT / DEFAULT.get("quality", {}).get("prompts", "config/prompts/default.yaml"))
    longer = tmp_path / "longer.yaml"
    longer.write_text(yaml.safe_dump({**suite, "prompts": [*suite["prompts"], "one more prompt"]}))
    plan = make_plan(changed(quality__images=400))
    other = make_plan(changed(quality__images=400, quality__prompts=str(longer), protocol__prompts=str(longer)))

    def digests(plan: dict) -> tuple[str, str]:
        fp32 = find_variant(plan, "fp32")
        timing = benchmark_spec(plan, "reference", "local", fp32, 1)["prompts"]["digest"]
        return timing, images_spec(plan, "reference", "local", fp32)["suite"]["digest"]

    assert digests(plan)[0] == digests(other)[0]
    assert digests(plan)[1] != digests(other)[1]


def test_variants_that_differ_in_what_a_request_carries_share_an_artifact():
    artifacts = artifacts_of(make_plan(DEFAULT))
    assert set(artifacts) >= {"torch-fp32", "torch-int8", "torch-fp32-compile-local", "openvino-bf16"}
    assert len(artifacts) == 10


# --- batching, an axis that a variant need not state ----------------------------------------------------------------


def test_batching_is_an_axis_with_its_defaults_and_may_be_turned_off_again():
    config = changed(
        variants__batched={"parent": "fp32", "batching": {"max_batch": 8}},
        variants__alone={"parent": "batched", "batching": False, "steps": 9, "compound": True},
    )
    variants = {v["name"]: v for v in make_plan(config)["variants"]}
    assert variants["fp32"]["batching"] is None and variants["alone"]["batching"] is None
    assert variants["batched"]["batching"] == {"max_batch": 8, "max_wait_ms": 0}
    assert variants["batched"]["change"] == "batching: off -> up to 8 within 0 ms"
    assert variants["alone"]["change"] == "steps: 25 -> 9; batching: up to 8 within 0 ms -> off"


def test_specs_name_batching_only_where_there_is_some():
    batching = {"max_batch": 4, "max_wait_ms": 10}
    plan = make_plan(changed(variants__batched={"parent": "openvino-bf16", "batching": batching}))
    plain = benchmark_spec(plan, "reference", "local", find_variant(plan, "openvino-bf16"), 1)
    batched = benchmark_spec(plan, "reference", "local", find_variant(plan, "batched"), 1)
    assert "batching" not in plain["variant"] and "batching" not in batched["baseline"]
    assert batched["variant"]["batching"] == batching
    assert batched["variant_artifact"] == plain["variant_artifact"]


def test_variants_that_batch_differently_share_no_server():
    plan = make_plan(changed(variants__batched={"parent": "fp32", "batching": {"max_batch": 2}}))
    specs = {v["name"]: benchmark_spec(plan, "reference", "local", v, 1) for v in plan["variants"]}
    assert [is_on_baselines_server(specs[name]) for name in ("ddim-5", "batched", "fp32", "bf16")] == [1, 0, 0, 0]
    assert server_of(specs["ddim-5"]) == server_of(specs["ddim-10"]) != server_of(specs["batched"])
