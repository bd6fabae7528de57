"""States of a sweep: kept whole, found again, compared with the right verdicts."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import publish
import synthetic
from diffsweep.analysis import gate, keeping, stats, updates, verdicts
from diffsweep.analysis.comparison import Limits
from diffsweep.analysis.keeping import NoState, before_update, find, keep, kept, open_state
from diffsweep.analysis.states import current_locks
from diffsweep.analysis.updates import Change, Comparison, compare
from diffsweep.analysis.verification import verify
from diffsweep.show import update_words
from diffsweep.sweep.files import digest_file
from signed import sign_records

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
NAMES = ("fp32", "onnxruntime", "ddim-10")
VARIANTS = synthetic.make_variants({name: synthetic.DEFAULT_VARIANTS[name] for name in NAMES})
# Little noise, so that few requests decide.
CALM = {
    variant["name"]: replace(synthetic.truth_of(variant), between_spread=0.004, within_spread=0.01, outliers=0.0)
    for variant in VARIANTS
}
ORT = ("reference", "local", "onnxruntime")
LOCKS = current_locks()
BUMPED = {"onnxruntime": "onnxruntime-bbbbbbbbbbbb"}


def plan_of(variants: list[dict] | None = None, **options) -> dict:
    return synthetic.make_plan(variants or VARIANTS, **{"replicates": 4, "requests": 8, "images": 60, **options})


def make(folder: Path, plan: dict, seed=0, truths: dict | None = None, locks=(), machine="CPU A", **options) -> Path:
    """Synthetic results that say, as real ones do, which environments and which machine they were made in."""
    truths = {**CALM, **(truths or {})}
    sweep = synthetic.make_results(folder, plan, truths, seed=seed, pictures=False, **options)
    environments = {engine: f"{engine}-aaaaaaaaaaaa" for engine in ("torch", "onnxruntime")} | dict(locks)
    engines = {variant["name"]: variant["engine"] for variant in plan["variants"]}
    for path in sweep.glob("*/*/*/replicate-*/replicate.json"):
        notes = json.loads(path.read_text())
        for role, server in notes["servers"].items():
            server["environment"] = environments[engines[notes["variant"] if role == "variant" else plan["baseline"]]]
        notes["host"] |= {"cpu": machine, "cores_usable": 2, "git_revision": "0" * 40, "git_dirty": False}
        notes["seed"] = seed
        path.write_text(json.dumps(notes))
    receipts = sweep.parent / "envs"
    receipts.mkdir(exist_ok=True)
    for name in environments.values():
        version = "1.0" if "aaaa" in name else "1.1"
        (receipts / f"{name}.txt").write_text(f"python==3.11.7\nidna=={version}\n")
    return sweep


def rerun(sweep: Path, other: Path, *names: str) -> None:
    """Replace variants of `sweep` by those of `other`, as Snakemake does it: deleted first, then made anew."""
    for name in names:
        target = sweep / "reference/local" / name
        shutil.rmtree(target)
        shutil.copytree(other / "reference/local" / name, target)
    shutil.copytree(other.parent / "envs", sweep.parent / "envs", dirs_exist_ok=True)
    for source in (other.parent / "artifacts").rglob("manifest.json"):
        destination = sweep.parent / source.relative_to(other.parent)
        destination.unlink(missing_ok=True)
        shutil.copy(source, destination)


def updated(folder: Path, truths: dict | None = None, names=("onnxruntime",), plan=None, **options) -> Path:
    """A sweep with a kept state, of which `names` were then measured anew in a bumped environment."""
    plan = plan or plan_of()
    sweep = make(folder / "before", plan)
    keep(sweep, plan, LOCKS)
    rerun(sweep, make(folder / "after", plan, 7, truths, **{"locks": BUMPED, **options}), *names)
    return sweep


def comparison_of(sweep: Path, limits: Limits | None = None) -> Comparison:
    """The results as they are now against the oldest kept state."""
    scratch = sweep / "scratch"
    return compare(open_state(kept(sweep)[-1], scratch), open_state(sweep, scratch), limits)


def change_of(comparison: Comparison, name: str = "onnxruntime") -> Change:
    return next(change for change in comparison.changes if change.variant == name)


# --- keeping --------------------------------------------------------------------------------------------------------


def test_a_state_outlives_the_results_it_was_made_from(tmp_path):
    plan = plan_of()
    sweep = make(tmp_path, plan)
    live = sweep.joinpath(*ORT) / "replicate-1/latency.jsonl"
    content = live.read_bytes()
    notes = keep(sweep, plan, LOCKS)
    old = keeping.kept_folder(sweep, notes) / "default" / live.relative_to(sweep)
    assert os.path.samefile(live, old)  # no second copy on the disk
    shutil.rmtree(sweep / "reference")
    assert old.read_bytes() == content
    state = open_state(keeping.kept_folder(sweep, notes), tmp_path)
    assert state.facts(ORT)["environment"] == "onnxruntime-aaaaaaaaaaaa"
    assert state.facts(ORT)["baseline_environment"] == "torch-aaaaaaaaaaaa"
    assert updates._read(state, ORT).status == "ok"


def test_the_same_results_are_kept_once_and_leftovers_go(tmp_path):
    plan = plan_of(replicates=1, requests=2, images=4)
    sweep = make(tmp_path, plan)
    leftover = sweep / "states/.20260101T000000Z-00000000.99.partial"
    leftover.mkdir(parents=True)
    first = keep(sweep, plan, LOCKS)
    (sweep / "summary.csv").write_text("a price changed\n")
    assert keep(sweep, plan, LOCKS) == first
    assert [path.name for path in (sweep / "states").iterdir()] == [first["state"]]
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "results", copy)  # other times and inodes: the same state
    assert keep(copy / "default", plan, LOCKS)["state"] == first["state"]


def test_a_kept_state_that_was_altered_is_found(tmp_path):
    plan = plan_of(replicates=1, requests=2, images=4)
    sweep = make(tmp_path, plan)
    folder = keeping.kept_folder(sweep, keep(sweep, plan, LOCKS))
    told = [problem for problem in verify(sweep.parent, [sweep]) if str(folder) in problem]
    assert keeping.altered(folder) == [] and not any("kept" in problem for problem in told)
    record = folder.joinpath("default", *ORT, "replicate-1/latency.jsonl")
    record.write_text(record.read_text().replace("0.0", "0.1", 1))
    assert keeping.altered(folder) == ["/".join(ORT)]
    problems = [problem for problem in verify(sweep.parent, [sweep]) if problem.startswith(f"{folder}: ")]
    assert problems == [f"{folder}: the records of {'/'.join(ORT)} are not the ones that were kept; remove this state"]
    (folder / "default/plan.json").unlink()
    assert any("cannot be read" in problem for problem in verify(sweep.parent, [sweep]))


def test_states_are_found_by_name_by_lock_and_by_sweep(tmp_path):
    sweep = updated(tmp_path, plan=plan_of(replicates=2, requests=2, images=4))
    notes = keep(sweep, json.loads((sweep / "plan.json").read_text()), LOCKS)
    root = sweep.parent
    new, old = kept(sweep)
    assert len(kept(sweep)) == 2 and new.name == notes["state"]
    assert find(new.name, root) == new and find("default", root) == sweep and find(str(old), root) == old
    assert find("onnxruntime-aaaa", root) == old and find("onnxruntime-bb", root) == new
    assert find("torch-", root) == new  # in both: the newest
    with pytest.raises(NoState, match="may be any of"):
        find("20", root)
    with pytest.raises(NoState, match="no kept state"):
        find("nothing", root)
    with pytest.raises(NoState, match="state.json is missing"):
        open_state(tmp_path, tmp_path)


def test_what_is_an_update(tmp_path):
    plan = plan_of(replicates=2, requests=2, images=4)
    sweep = make(tmp_path / "before", plan)
    first = keep(sweep, plan, LOCKS)
    assert before_update(first, sweep) is None
    more = {**plan, "protocol": {**plan["protocol"], "replicates": 3}}
    grown = make(tmp_path / "grown", more, seed=5)
    for name in NAMES:  # one replicate more: the same measurement, extended
        where = Path("reference/local", name, "replicate-3")
        shutil.copytree(grown / where, sweep / where)
    second = keep(sweep, more, LOCKS)
    assert second["state"] != first["state"] and before_update(second, sweep) is None
    rerun(sweep, make(tmp_path / "after", more, 7, locks=BUMPED), "onnxruntime")
    third = keep(sweep, more, LOCKS)
    assert before_update(third, sweep).name == second["state"]
    assert change_of(comparison_of(sweep)).kind == updates.RENEWED


# --- speed ----------------------------------------------------------------------------------------------------------


def test_a_planted_slow_down_is_found_and_the_rest_is_left_alone(tmp_path):
    found = comparison_of(updated(tmp_path, {"onnxruntime": synthetic.slower(CALM["onnxruntime"], 1.25)}))
    change = change_of(found)
    assert change.speed.verdict == "regressed" and change.speed.basis == "paired"
    assert change.speed.ratio.low < 1 / 1.25 < change.speed.ratio.high
    assert change.speed.now.value < change.speed.before.value
    assert {c.kind for c in found.changes if c is not change} == {updates.SAME}
    assert update_words.cause(found) == "environment onnxruntime: idna 1.0 → 1.1"
    assert "1 slower" in update_words.headline(found)


def test_no_change_is_not_called_one(tmp_path):
    change = change_of(comparison_of(updated(tmp_path, plan=plan_of(images=4))))
    assert change.speed.verdict in ("within noise", "cannot tell") and change.speed.limit >= 0.01


def test_a_machine_that_is_slower_today_is_no_update(tmp_path):
    slow = {name: synthetic.slower(truth, 1.3) for name, truth in CALM.items()}
    change = change_of(comparison_of(updated(tmp_path, slow)))
    assert change.speed.verdict in ("within noise", "cannot tell")
    assert change.speed.ratio.value == pytest.approx(1, abs=0.03)


def test_an_updated_baseline_leaves_latencies_that_are_not_paired(tmp_path):
    slow = {name: synthetic.slower(truth, 1.3) for name, truth in CALM.items()}
    bumped = {"torch": "torch-bbbbbbbbbbbb"}
    found = comparison_of(updated(tmp_path, slow, NAMES, locks=bumped))
    for change in found.changes:
        assert change.speed.basis == "not paired" and change.speed.verdict == "regressed"
        assert change.speed.ratio.value == pytest.approx(1 / 1.3, rel=0.05)
        assert change.speed.limit >= 0.10
    assert change_of(found).speed.why == "the baseline was updated too"
    assert "not paired: the baseline was updated too" in update_words.as_text(found)


def test_on_another_machine_nothing_is_told(tmp_path):
    found = comparison_of(updated(tmp_path, names=NAMES, machine="CPU B"))
    assert {change.speed.verdict for change in found.changes} == {"cannot tell"}
    assert "another machine: CPU B, 2 cores, before CPU A, 2 cores" in change_of(found).speed.why
    assert any(d.subject == "machine" for d in found.differences)
    assert gate.judge(found, "pass").exit_code == gate.NO_COMPARISON


def test_a_host_that_is_unfit_tells_nothing(tmp_path):
    sweep = updated(tmp_path)
    for path in sweep.glob("reference/local/fp32/replicate-*/latency.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        slowed = [{**r, "e2e_s": r["e2e_s"] * (1.5 if r["role"] == "variant" else 1)} for r in records]
        path.write_text("".join(json.dumps(record) + "\n" for record in slowed))  # in place, on purpose: both states
        sign_records(path.parent)
    change = change_of(comparison_of(sweep))
    assert change.speed.verdict == "cannot tell" and "A/A says different" in change.speed.why


@pytest.mark.parametrize("replicates", (3, 5))
def test_the_interval_covers_and_false_alarms_are_rare(replicates):
    """Replicates scatter by 1.2 % and the true ratio is 1: the interval holds it, and no verdict claims a change."""
    rng = np.random.default_rng(1)
    covered = alarms = 0
    for old, new, aa in np.exp(0.012 * rng.standard_normal((2000, 3, replicates))):
        ratio = stats.ratio_interval(new, old)
        covered += ratio.low <= 1 <= ratio.high
        floor = verdicts.noise_floor(stats.exponential(stats.replicate_interval(np.log(aa).tolist())))
        alarms += verdicts.verdict(ratio, verdicts.threshold(floor)) in (verdicts.IMPROVED, verdicts.REGRESSED)
    assert 0.93 <= covered / 2000 <= 0.985 and alarms / 2000 <= 0.01


# --- images, memory, size, holes ------------------------------------------------------------------------------------


def rescore(sweep: Path, shift: float) -> None:
    """Other images than before, whose CLIP scores are `shift` higher."""
    folder = sweep.joinpath(*ORT)
    images = json.loads((folder / "images.json").read_text())
    for entry in images["images"]:
        entry["sha256"] = entry["sha256"][::-1]
    (folder / "images.json").write_text(json.dumps(images))
    table = pq.read_table(folder / "scores.parquet")
    scores, where = pa.array(np.asarray(table["clip_score"]) + shift), table.schema.get_field_index("clip_score")
    pq.write_table(table.set_column(where, "clip_score", scores), folder / "scores.parquet")


def test_images_are_compared_one_by_one(tmp_path):
    sweep = updated(tmp_path)
    same = change_of(comparison_of(sweep)).quality
    assert (same.identical, same.images, same.verdict) == (60, 60, "equivalent")
    assert same.fid.low <= 0 <= same.fid.high or same.fid.value == 0
    rescore(sweep, -5.0)
    worse = change_of(comparison_of(sweep)).quality
    assert worse.verdict == "worse" and worse.identical == 0
    assert worse.clip.value == pytest.approx(-5.0, abs=0.2)
    assert change_of(comparison_of(sweep, Limits(clip_score=20.0))).quality.verdict == "equivalent"


def test_scores_that_were_changed_are_not_compared(tmp_path):
    sweep = updated(tmp_path)
    folder = sweep.joinpath(*ORT)
    made = {name: digest_file(folder / name) for name in ("scores.parquet", "features.npy")}
    document = json.loads((folder / "quality.json").read_text()) | {"files": made}
    (folder / "quality.json").write_text(json.dumps(document))
    assert change_of(comparison_of(sweep)).quality.verdict == "equivalent"
    rescore(sweep, 5.0)
    quality = change_of(comparison_of(sweep)).quality
    assert quality.verdict == "cannot tell" and "scores.parquet: is not the file that was made" in quality.why


def test_other_scorers_are_not_compared(tmp_path):
    sweep = updated(tmp_path)
    rescore(sweep, -5.0)
    path = sweep.joinpath(*ORT) / "quality.json"
    document = json.loads(path.read_text())
    document["provenance"]["weights"]["clip"] = "sha256:1"
    path.write_text(json.dumps(document))
    quality = change_of(comparison_of(sweep)).quality
    assert quality.verdict == "cannot tell" and quality.why == "scored by other models than before"


def test_memory_and_size_are_relative_changes(tmp_path):
    truth = CALM["onnxruntime"]
    larger = replace(truth, peak_memory_bytes=930_000_000, artifact_bytes=12_420_000)
    assert (truth.peak_memory_bytes, truth.artifact_bytes) == (620_000_000, 20_700_000)
    change = change_of(comparison_of(updated(tmp_path, {"onnxruntime": larger})))
    assert change.memory.verdict == "regressed" and change.memory.change == pytest.approx(0.5, abs=0.08)
    assert change.size.verdict == "improved"
    assert update_words.amount_words(change.size) == "20.7 MB → 12.4 MB (−40 %)"


def test_variants_that_came_went_broke_and_changed(tmp_path):
    plan = plan_of(replicates=2, requests=2, images=4)
    sweep = make(tmp_path / "before", plan)
    keep(sweep, plan, LOCKS)
    table = {name: synthetic.DEFAULT_VARIANTS[name] for name in ("fp32", "onnxruntime", "bf16")}
    variants = synthetic.make_variants({**table, "ddim-10": ("fp32", {"steps": 12})})
    changed = plan_of(variants, replicates=2, requests=2, images=4)
    failures = {"onnxruntime": synthetic.Failure("convert", "failed", "parity: too far off")}
    truths = {variant["name"]: synthetic.truth_of(variant) for variant in variants}
    after = make(tmp_path / "after", changed, 7, truths, failures=failures)
    scratch = tmp_path / "scratch"
    old, new = open_state(kept(sweep)[0], scratch), open_state(after, scratch)
    kinds = {change.variant: change.kind for change in compare(old, new).changes}
    assert kinds == {"fp32": "measured anew", "onnxruntime": "broke", "ddim-10": "redefined", "bf16": "new"}
    found = compare(old, new)
    assert change_of(found, "ddim-10").note == "steps: 10 → 12"
    assert "parity: too far off" in change_of(found).note
    judged = gate.judge(found, "pass")
    assert judged.exit_code == gate.FAILED and ("no result any more") in [what for _, what in judged.regressed]
    back = {change.variant: change.kind for change in compare(new, old).changes}
    assert back["onnxruntime"] == "mended" and back["bf16"] == "gone"


# --- published results ----------------------------------------------------------------------------------------------


def test_published_results_can_be_compared(tmp_path, monkeypatch):
    sweep = updated(tmp_path, {"onnxruntime": synthetic.slower(CALM["onnxruntime"], 1.25)})
    old = kept(sweep)[0]
    published = tmp_path / "published"
    published.mkdir()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(old, tmp_path / "results")  # a state is a results folder of its own
    publish.write_archive(publish.raw_files(Path("results/default")), published / "records.tar.gz")
    shutil.copy(old / "default/plan.json", published)
    shutil.copy(old / "state.json", published)
    state = open_state(published, tmp_path / "scratch")
    assert state.notes["state"] == old.name
    found = compare(state, open_state(sweep, tmp_path / "scratch"))
    assert change_of(found).speed.verdict == "regressed" and change_of(found, "fp32").kind == updates.SAME
