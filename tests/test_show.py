"""Pictures, report and closing words: legible, honest about holes, and self-contained, on synthetic results."""

import importlib
import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import synthetic
from diffsweep.show import costs, figures, samples, selection, sentences, style
from diffsweep.show.cells import read_cells

PROJECT = Path(__file__).resolve().parents[1]
SCRIPTS = PROJECT / "scripts"
VARIANTS = synthetic.make_variants()
REASON = "parity: the denoiser's relative error is 0.41, the limit 0.2"
EVIL = "<script>alert('x')</script> & \"quoted\" $x^2$"


def run(program: str, *arguments) -> str:
    """What a program of scripts/ prints; run in this process, since importing pandas would take most of the time."""
    module, said, before = importlib.import_module(program.removesuffix(".py")), io.StringIO(), sys.argv
    sys.argv = [program, *map(str, arguments)]
    try:
        with redirect_stdout(said):
            module.main()
    finally:
        sys.argv = before
    return said.getvalue()


def aggregated(folder: Path, plan: dict, **options) -> Path:
    return tabled(synthetic.make_results(folder, plan, **options))


def tabled(sweep: Path) -> Path:
    """`sweep`, with the tables of what now lies there."""
    tables = ("--results", sweep, "--artifacts", sweep.parent / "artifacts", "--out", sweep)
    run("aggregate.py", "--plan", sweep / "plan.json", *tables)
    return sweep


def shown(sweep: Path) -> tuple[str, dict]:
    """The report and the pictures' index of an aggregated sweep."""
    run("plot.py", "--results", sweep)
    run("report.py", "--results", sweep, "--out", sweep / "report.html")
    return (sweep / "report.html").read_text(encoding="utf-8"), json.loads((sweep / "plots/index.json").read_text())


def small_plan(variants: list[dict], **options) -> dict:
    return synthetic.make_plan(variants, **{"replicates": 3, "requests": 24, "images": 8, **options})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """The default sweep with three holes, aggregated."""
    failures = {
        "int8": synthetic.Failure("convert", "failed", REASON),
        "fp16": synthetic.Failure("benchmark", "unsupported", EVIL),
        "openvino-int8": synthetic.Failure("score", "failed", "3 of 8 images are black (first: 0007-7.png)"),
    }
    return aggregated(tmp_path_factory.mktemp("default"), small_plan(VARIANTS), failures=failures)


@pytest.fixture(scope="module")
def report(sweep) -> tuple[str, dict]:
    """The default sweep's report, with HTML in a prompt of every variant."""
    for path in sweep.glob("reference/local/*/images.json"):
        document = json.loads(path.read_text())
        for entry in document["images"][:1]:
            entry["prompt"] = EVIL
        path.write_text(json.dumps(document))
    operators = [
        {"operator": f"Conv{i}{EVIL}", "calls": 1234, "total_s": 0.5**i, "share": 0.5**i} for i in range(1, 14)
    ]
    known = {"traced_s": 2.0, "plain_s": 1.5, "files": ["trace/torch.json.gz"], "note": "how to read it"}
    ok, absent = {"status": "ok", "reason": None}, {"status": "unsupported", "reason": "nsys is not on the PATH"}
    nothing = {"operators": [], "files": [], "traced_s": None, "plain_s": None, "note": ""}
    profilers = {"torch": {"outcome": ok, "operators": operators, **known}, "nsys": {"outcome": absent, **nothing}}
    document = {"variant": "bf16", "images": 1, "profilers": profilers}
    (sweep / "reference/local/bf16/trace.json").write_text(json.dumps(document))
    return shown(sweep)


def test_the_report_shows_the_operators_of_traced_variants(report):
    html, _ = report
    assert "Which operators the time goes to" in html
    section = html.split("Which operators the time goes to")[1].split("Failures and holes")[0]
    assert "bf16, torch:" in section and "Conv1" in section and "50 %" in section and "1,234" in section
    assert (
        "3 other operators" in section and "traced in 2.00 s (1.50 s without the profiler); how to read it" in section
    )
    assert "reference/local/bf16/trace/torch.json.gz" in section
    assert "nsys, bf16: n/a, nsys is not on the PATH." in section and "<script" not in section


# --- the report -----------------------------------------------------------------------------------------------------

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """What a page loads, names, points to and says."""

    def __init__(self, html: str):
        super().__init__()
        self.loads, self.ids, self.targets, self.tags, self.texts, self.images = [], [], [], [], [], []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        known = dict(attrs)
        self.loads += [known[k] for k in ("src", "srcset", "data", "poster", "action", "background") if k in known]
        self.loads += [known["href"]] if tag in ("link", "image") else []
        self.targets += [known["href"]] if tag in ("a", "use") else []
        self.targets += re.findall(r"url\(([^)]*)\)", " ".join(v or "" for v in known.values()))
        self.ids += [known["id"]] if "id" in known else []
        self.images += [known] if tag == "img" else []
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.get_starttag_text().endswith("/>") or tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)


def test_the_report_loads_nothing(report):
    html, _ = report
    page = Page(html)
    assert page.loads and all(load.startswith("data:") for load in page.loads)
    assert all(target.startswith("#") for target in page.targets)
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    assert "default-src 'none'" in html
    assert not set(page.tags) & {"iframe", "object", "embed", "form", "base"}
    assert len(html.encode()) < 3e6


def test_links_and_pictures_inside_the_report_meet(report):
    page = Page(report[0])
    assert len(page.ids) == len(set(page.ids))
    assert {target[1:] for target in page.targets} <= set(page.ids)
    assert page.images and all(image.get("alt") for image in page.images)


def test_holes_are_shown_with_their_reasons(report):
    page = Page(report[0])
    assert page.text.count(REASON) >= 3  # in the table, in the images, among the failures
    assert "results/artifacts/reference/logs/torch-int8.log" in page.text
    assert "results/default/reference/local/fp16/replicate-1/benchmark.log" in page.text
    assert "n < 368" in page.text  # P99 of 72 requests
    assert "unsupported" in page.text and "n/a" in page.text


def test_html_in_prompts_and_reasons_is_harmless(report):
    html, _ = report
    assert "<script>alert" not in html
    assert EVIL in Page(html).text
    assert Page(html).tags.count("script") == 1


def test_html_in_a_variants_name_is_harmless(tmp_path):
    evil = {**VARIANTS[1], "name": "<img src=x onerror=alert(1)>"}
    html, _ = shown(aggregated(tmp_path, small_plan([VARIANTS[0], evil])))
    assert all(image["src"].startswith("data:") for image in Page(html).images)
    assert "<img src=x" not in html


def test_the_report_states_method_machine_and_versions(report):
    text = Page(report[0]).text
    for said in ("3 replicates × 24 = 72 measured requests", "A/A test", "c7i.large", "2026-10-01", "Synthetic CPU"):
        assert said in text
    for said in ("2.13.0", "snakemake --cores all", "Git revision", "of useful time", "failed=retry", "torchmetrics"):
        assert said in text


def test_the_report_says_what_images_cost(report, sweep):
    text = Page(report[0]).text
    for said in ("What it costs", "c7i.large: $0.0892 an hour on demand, $0.0357 an hour spot", "as of 2026-10-01"):
        assert said in text
    for said in ("on demand 25 %", "spot 75 %", "pays back", "needs none", "see `snakemake arrivals`"):
        assert said in text
    assert "The price is old." not in text
    (cell,) = read_cells(sweep)
    assert costs.section(cell, synthetic.STARTED_UNIX_S)["alarm"] == ""
    assert "more than a year" in costs.section(cell, synthetic.STARTED_UNIX_S + 500 * 86400)["alarm"]
    shares = costs.price_words({**synthetic.LOCAL["price"], "gpus": 8, "spot_per_hour": None})
    assert "uses one of its 8 GPUs" in shares and "no spot price" in shares


def test_when_a_variant_has_paid_for_itself(sweep):
    (cell,) = read_cells(sweep)
    rows = {row["variant"]: row for row in cell.rows}
    assert re.fullmatch(r"after [\d,]+ images", costs.payback_words(rows["openvino"]))
    assert costs.payback_words(rows["fp32"]) == ""
    shown = {entry.name: entry for entry in costs.entries(cell)}
    assert shown["fp32"].payback == "the baseline" and shown["int8"].known == [] and REASON in shown["int8"].note
    assert re.search(r"less than fp32, and has paid for its build (after|at once)", costs.finding(cell.rows))
    unclear = [{**row, "usd_per_1000_images_on_demand_high": 9.0} for row in cell.rows]
    assert costs.finding(unclear).endswith("is not shown")
    assert costs.finding([]).startswith("No cost is known")


def test_wall_time_over_useful_time(tmp_path):
    sweep = synthetic.make_results(tmp_path, small_plan(VARIANTS[:2]))
    images = [*sweep.glob("reference/local/*/images.json")]
    for path in (*sweep.glob("reference/local/*/replicate-*/replicate.json"), *images):
        path.write_text(json.dumps({**json.loads(path.read_text()), "run": "r1"}))
    useful_s = sum(json.loads((tabled(sweep) / "tables/targets.json").read_text())[0]["useful_s"].values())
    run_note = {"run": "r1", "started_unix_s": 1000.0, "ended_unix_s": 1000.0 + 1.25 * useful_s}
    (sweep / "run.json").write_text(json.dumps(run_note))
    assert "a ratio of 1.25." in Page(shown(sweep)[0]).text
    for path, other in ((sweep / "run.json", run_note), (images[0], json.loads(images[0].read_text()))):
        before = path.read_text()
        path.write_text(json.dumps({**other, "run": "r2"}))
        run("report.py", "--results", tabled(sweep), "--out", sweep / "report.html")
        assert "to it is n/a" in Page((sweep / "report.html").read_text()).text
        path.write_text(before)


def test_every_picture_is_there_twice(report, sweep):
    _, index = report
    assert [p["name"] for p in index["pictures"]] == figures.names(len(VARIANTS))
    for picture in index["pictures"]:
        assert all((sweep / "plots" / file).stat().st_size > 1000 for file in picture["files"])
        assert picture["finding"] and picture["alt"]
    assert (sweep / "plots/pareto-latency-fid.svg").exists() and (sweep / "plots/images.png").exists()


def test_the_same_data_give_the_same_picture(report, sweep, tmp_path):
    with style.use_style():
        picture = next(figures.pictures(read_cells(sweep)[0]))
        style.save_svg(picture.figure, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == (sweep / "plots" / f"{picture.name}.svg").read_bytes()


# --- all sorts of sweeps --------------------------------------------------------------------------------------------


def test_a_single_variant(tmp_path):
    html, index = shown(aggregated(tmp_path, small_plan(VARIANTS[:1])))
    assert "Nothing to compare" in Page(html).text
    assert [p["name"] for p in index["pictures"]] == figures.names(1)


def test_two_variants_are_compared_in_one_picture(tmp_path):
    plan = small_plan([VARIANTS[0], VARIANTS[2]], replicates=5, requests=40)
    html, index = shown(aggregated(tmp_path, plan, pictures=False))
    found = next(p["finding"] for p in index["pictures"] if p["name"] == "comparison")
    assert re.fullmatch(r"fp16 raises P95 by [\d.]+ %, interval [\d.]+ to [\d.]+ %", found)
    assert found in html


def test_all_variants_failed(tmp_path):
    failures = {v["name"]: synthetic.Failure("convert", "failed", REASON) for v in VARIANTS[:4]}
    sweep = aggregated(tmp_path, small_plan(VARIANTS[:4]), failures=failures)
    html, index = shown(sweep)
    assert "No answer: the baseline itself has no result" in Page(html).text
    assert [p["name"] for p in index["pictures"]] == figures.names(4)
    assert run("console.py", "--results", sweep).count(REASON) == 4


def test_sixty_variants(tmp_path):
    variants = [{**VARIANTS[i % 17], "name": f"{VARIANTS[i % 17]['name']}-{i}"} for i in range(60)]
    variants = [{**v, "parent": variants[0]["name"] if i else None} for i, v in enumerate(variants)]
    sweep = aggregated(tmp_path, small_plan(variants, replicates=2, requests=6, images=3))
    html, _ = shown(sweep)
    assert len(html.encode()) < 4e6
    text = Page(html).text
    assert all(variant["name"] in text for variant in variants)


def test_hundreds_of_variants_stay_readable(tmp_path):
    """Pictures with a row for each show the few that matter; the page has all rows as data."""
    table = {"fp32": (None, {})}
    table |= {f"s{n}-g{g}": ("fp32", {"steps": n, "guidance": g / 10}) for n in (5, 10, 20) for g in range(31, 101)}
    plan = small_plan(synthetic.make_variants(table), replicates=2, requests=4, images=3)
    sweep = aggregated(tmp_path, plan, pictures=False)
    cell = read_cells(sweep)[0]
    drawn = {row["variant"] for row in selection.few(cell.rows)}
    fronts = {row["variant"] for row in cell.rows if row["pareto_latency_fid"] or row["pareto_latency_cost"]}
    assert len(drawn) == selection.ROWS and {"fp32", *fronts} <= drawn
    html, index = shown(sweep)
    assert len(html.encode()) < 5e6
    everything = json.loads(re.search(r'class="everything">(.*?)</script>', html, re.DOTALL)[1])
    assert {row[0] for row in everything} == set(table)
    assert html.count("<tr") < 700  # not one per variant in each of seven tables
    pareto = (sweep / "plots/pareto-latency-fid.svg").read_text()
    assert "<image" in pareto and pareto.count('id="point:') < 60 and 'id="label:fp32"' in pareto
    for name in ("latency", "speedup", "clocks", "throughput", "latency-throughput", "cost", "images"):
        assert max(Image.open(sweep / f"plots/{name}.png").size) < 6000, name
    caption = next(p for p in index["pictures"] if p["name"] == "speedup")
    assert "40 of 211 variants are shown" in Page(html).text and caption["finding"]
    assert "40 of 211 variants are shown" in run("console.py", "--results", sweep)


def test_several_models_and_targets(tmp_path):
    plan = small_plan(VARIANTS[:3])
    plan["models"]["other"] = {**plan["models"]["reference"], "name": "other"}
    plan["targets"] = {"far": {**synthetic.LOCAL, "name": "far"}}
    html, index = shown(aggregated(tmp_path, plan))
    page = Page(html)
    assert len(page.ids) == len(set(page.ids)) and {t[1:] for t in page.targets} <= set(page.ids)
    assert len(index["pictures"]) == 2 * len(figures.names(3))
    assert "pareto-latency-fid--other--far.svg" in {file for p in index["pictures"] for file in p["files"]}


def test_an_image_that_is_not_the_one_that_was_made_is_not_shown(tmp_path):
    sweep = synthetic.make_results(tmp_path, small_plan(VARIANTS[:2], images=2))
    names = [variant["name"] for variant in VARIANTS[:2]]
    rows = [{"variant": name, "status": "ok"} for name in names]
    cell = SimpleNamespace(folder=sweep, model="reference", target="local", rows=rows)
    assert all(image is not None for found in samples.sample_images(cell, 2).images.values() for image in found)
    paths = [sorted((sweep / "reference/local" / name / "images").glob("*.png"))[1] for name in names]
    paths[0].write_bytes(paths[0].with_name(paths[0].name.replace("0001-1", "0000-0")).read_bytes())  # another's
    paths[1].write_bytes(paths[1].read_bytes()[:-20])  # cut off
    assert [[image is None for image in samples.sample_images(cell, 2).images[name]] for name in names] == [
        [False, True],
        [False, True],
    ]


def test_an_unfit_host_is_named_on_every_picture(tmp_path, report, sweep):
    copy = tmp_path / "default"
    shutil.copytree(sweep, copy)
    hosts = json.loads((copy / "tables/targets.json").read_text())
    hosts[0]["host_unfit"] = "A/A says different: by a factor of 1.2 (1.1 to 1.3)"
    (copy / "tables/targets.json").write_text(json.dumps(hosts))
    cell = read_cells(copy)[0]
    with style.use_style():
        for picture in figures.pictures(cell):
            said = [text.get_text().replace("\n", " ") for text in picture.figure.texts]
            assert any("A/A says different" in text for text in said), picture.name
            assert picture.frame.finding == sentences.NO_FINDING
    run("report.py", "--results", copy, "--out", copy / "report.html")
    assert "Cannot tell: this host measures differences" in Page((copy / "report.html").read_text()).text


# --- the terminal ---------------------------------------------------------------------------------------------------


def test_the_closing_words(sweep):
    said = run("console.py", "--results", sweep)
    lines = said.splitlines()
    table = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert all(v["name"] in table for v in VARIANTS)
    assert "baseline" in table["fp32"] and "×" in table["openvino"] and "$" in table["openvino"]
    assert f"Report: {sweep / 'report.html'}" in said
    assert "openvino-int8" in lines[-1] and "score.log" in lines[-1]  # failures come last
    assert "3 variants without a result:" in said


def test_the_closing_words_need_the_standard_library_only():
    code = (
        "import sys; import diffsweep.show.console; print({'numpy', 'pandas', 'matplotlib', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_missing_tables_are_named(tmp_path):
    for program, arguments in (("plot.py", ()), ("report.py", ("--out", tmp_path / "r.html")), ("console.py", ())):
        with pytest.raises(SystemExit, match=str(tmp_path)):
            run(program, "--results", tmp_path, *arguments)
