"""torch.compile for real: what one process compiled, the next one finds, and compiles nothing."""

import json

from test_engines_torch import HELPERS, convert, model, run_in_torch, spec, suite  # noqa: F401  fixtures among them


def test_compiled_artifact_is_warm_in_a_second_process(spec, tmp_path):  # noqa: F811
    wanted = spec(compile=True)
    manifest = convert(wanted, tmp_path / "out")
    assert manifest["outcome"]["status"] == "ok"
    assert manifest["census"]["graph_breaks"] == 0 and "compiled graph" in manifest["census"]["detail"]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    artifact = json.dumps(wanted["artifact"])
    printed = run_in_torch(HELPERS / "second_process.py", wanted["model"]["path"], tmp_path / "out", artifact)
    counters = json.loads(printed.stdout)
    assert counters["stats"]["unique_graphs"] == 1  # for one image and for four
    assert counters["inductor"]["fxgraph_cache_hit"] == 1 and "fxgraph_cache_miss" not in counters["inductor"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before
    assert counters["batch"] <= 1
