"""`report.html` in a real browser: it opens silently and alone, and its tables and charts do what they say."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as plotly
import pytest
from matplotlib.figure import Figure

from slim_eval.analysis.figures import figure as figures
from slim_eval.analysis.findings import Section
from slim_eval.analysis.pareto.frontier import find_frontiers
from slim_eval.analysis.report.page import report_html
from slim_eval.analysis.study import Study
from slim_eval.results.records import (
    SCHEMA_VERSION,
    AccuracyRecord,
    EnergyRecord,
    FloorEntry,
    NoiseRecord,
    PerformanceRecord,
)
from slim_eval.results.store import (
    find_results,
    model_directory,
    record_name,
    variant_directory,
    write_noise,
    write_record,
)
from tests import planted

CHROMIUM = os.environ.get("SLIM_EVAL_CHROMIUM") or shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("chromium is not installed: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
#: Waits until what it states is true: what follows an action may take a moment on a slow machine.
expect = playwright.expect

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update",
    "--disable-sync", "--disable-quic",
)  # fmt: skip
PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "published" / "outputs"
# Two models of one short name are shown by their full ones.
HOSTILE, TWIN = "org/<img src=x onerror=alert(1)> & 'co'", "other/<img src=x onerror=alert(1)> & 'co'"
# Model, precision, TPOT in s, J/token, weights in GiB, output tokens, right answers lost and gained of 1200.
CELLS = (
    ("org/Small-1B", "fp16", 0.0040, 0.50, 2.0, 100.0, 0, 0),
    ("org/Small-1B", "int8", 0.0030, 0.36, 1.1, 100.0, 1, 1),
    ("org/Small-1B", "int4", 0.0024, 0.28, 0.7, 100.0, 96, 18),
    ("org/Large-3B", "fp16", 0.0100, 1.20, 6.0, 100.0, 0, 0),
    ("org/Large-3B", "int8", 0.0070, 0.80, 3.2, 60.0, 30, 24),
    ("org/Large-3B", "int4", 0.0052, None, 2.1, 100.0, 55, 20),
    (HOSTILE, "fp16", 0.0063, 0.90, 3.0, 100.0, 0, 0),
    (TWIN, "fp16", 0.0064, 0.91, 3.1, 100.0, 0, 3),
)  # fmt: skip
MODELS = [variant[0] for variant in CELLS]
SUBJECTS = [f"quiz_subject_{number}" for number in range(12)]


def write_variants(root: Path) -> Path:
    """Four models; one precision is confounded by its length, one has invalid energy, two ran elsewhere."""
    for model, precision, tpot_s, joules, weights_gb, tokens, lost, gained in CELLS:
        elsewhere = model in (HOSTILE, TWIN)
        common: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION, "model": model, "precision": precision, "engine": "vllm",
            "engine_version": "0.19.0", "dtype": "bfloat16", "kernels": "native", "model_size_gb": weights_gb,
            "environment": {"cpu": "Test CPU", "gpus": [{"name": "Other GPU" if elsewhere else "Test GPU"}]},
            "config": {"seed": 0, "performance": {"max_new_tokens": 100}}, "notes": ("a note <b>in bold</b>",),
        }  # fmt: skip
        folder = variant_directory(root, model, precision, MODELS)
        requests = planted.requests(tpot_s, iterations=40, seed=len(precision))
        metrics = planted.performance(requests) | {"output_tokens": tokens}
        metrics["mean_latency_s"] *= tokens / planted.OUTPUT_TOKENS
        ends = {key: (metrics[key] * 0.99, metrics[key] * 1.01) for key in ("ttft_s", "tpot_s", "tokens_per_second")}
        speed = PerformanceRecord(
            **common, **metrics, batch_size=8, num_runs=320, weights_gb=weights_gb, intervals=ends
        )
        write_record(folder, speed, requests)
        write_record(folder, energy_record(common, joules))
        write_record(folder, *task_record(common, lost, gained))
    write_noise(model_directory(root, "org/Small-1B"), noise_record())
    return root


def energy_record(common: dict[str, Any], joules: float | None) -> EnergyRecord:
    valid = joules is not None
    return EnergyRecord(
        **common, joules_per_output_token=joules, energy_joules=None if joules is None else joules * 2000, batch_size=1,
        num_runs=20, energy_source="nvml-counter", valid=valid, output_tokens=100.0,
        invalid_reasons=() if valid else ("window of 1.2 s is under 2 s",),
        intervals={} if joules is None else {"joules_per_output_token": (joules * 0.97, joules * 1.03)},
    )  # fmt: skip


def task_record(common: dict[str, Any], lost: int, gained: int) -> tuple[AccuracyRecord, list[dict[str, Any]]]:
    """900 of 1200 right at fp16, in twelve subjects."""
    _, after = planted.outcomes(1200, right=900, lost=lost, gained=gained)
    rows = planted.items(after, task="quiz")
    for number, row in enumerate(rows):
        row["task"] = SUBJECTS[number % len(SUBJECTS)]
    accuracy = sum(after) / len(after)
    subjects = {
        name: {"acc,none": sum(after[n :: len(SUBJECTS)]) / 100, "acc_stderr,none": 0.04, "num_items": 100}
        for n, name in enumerate(SUBJECTS)
    }
    record = AccuracyRecord(
        **common, task="quiz", accuracy=accuracy, metric="acc,none", stderr=0.0125, num_items=len(after),
        num_fewshot=5, metrics={"acc,none": accuracy}, subtasks=subjects, task_versions={"quiz": 1.0},
    )  # fmt: skip
    return record, rows


def noise_record() -> NoiseRecord:
    return NoiseRecord(
        model="org/Small-1B", precision="fp16", timestamp="2025-01-01T00:00:00+00:00", engine="vllm", kernels="native",
        hardware="Test GPU, Test CPU", batch_size=8, max_new_tokens=100, prompt_tokens=12.0,
        metrics={"tpot_s": FloorEntry(values=(0.0040, 0.0041), floor=0.03)},
        tasks={"quiz": FloorEntry(values=(0.75, 0.751), floor=0.3)}, flips={"quiz": 0.004},
    )  # fmt: skip


def render(folder: Path, target: Path) -> Path:
    """What `slim-eval analyze` does, for one report."""
    study = Study.read([variant for variant in find_results(folder).variants if variant.records])
    sections = (Section("Quantized", ("Small-1B int4 is fast.",)),)
    html = report_html(study, find_frontiers(study), sections, (), "Which one")
    target.write_text(html, encoding="utf-8")
    return target


@dataclass
class Opened:
    """A page, and what happened on it."""

    page: Any
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def load(self, path: Path) -> Any:
        self.page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri(), wait_until="load")
        self.page.wait_for_function("document.getElementById('pareto').data !== undefined")
        return self.page

    def column(self, table: str, header: str) -> list[str]:
        """The visible fields of a column, without intervals and marks."""
        script = """([table, header]) => {
            const rows = document.querySelector(table).tHead.rows;
            const names = [...rows[rows.length - 1].cells].map(cell => cell.textContent.trim());
            return [...document.querySelector(table).tBodies[0].rows].filter(row => !row.querySelector(".dt-empty"))
                .map(row => row.cells[names.indexOf(header)].firstChild.textContent.trim());
        }"""
        found: list[str] = self.page.evaluate(script, [table, header])
        return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(ARGUMENTS))
        yield made
        made.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return render(write_variants(folder / "outputs"), folder / "report.html")


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    made = Opened(context.new_page())
    yield made
    context.close()
    assert made.messages == []
    assert all(url.startswith(("file://", "data:", "blob:")) for url in made.requests), made.requests


def places_drawn(page: Any) -> list[int]:
    """Variants of the trade-off chart, by their places."""
    found: list[int] = page.evaluate(
        "document.getElementById('pareto').data.flatMap(trace => trace.customdata || []).sort((a, b) => a - b)"
    )
    return found


def values_drawn(page: Any, axis: str) -> list[float]:
    found: list[float] = page.evaluate(
        "axis => document.getElementById('pareto').data.filter(t => t.customdata).flatMap(t => [...t[axis]])", axis
    )
    return found


def test_it_opens_without_a_word_and_asks_for_nothing_but_itself(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    assert page.title() == "Which one"
    assert opened.requests[0] == report.as_uri()
    assert [url for url in opened.requests if url.startswith("file:")] == [report.as_uri()]
    assert page.locator("#overview tbody tr").count() == len(CELLS)
    assert page.locator("#pareto svg.main-svg").count() > 0
    assert page.locator("#forest svg.main-svg").count() > 0
    assert "Small-1B int4 is fast." in page.locator("#findings").inner_text()


def test_names_with_markup_are_text_everywhere(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    assert opened.column("#overview", "model")[:2] == [HOSTILE, TWIN]
    assert page.locator("#notes b").count() == 0
    assert page.locator("img").count() == 0
    page.select_option("#axis-x", "weights_gb")
    assert TWIN in page.locator("#pareto .textpoint").all_text_contents()


@pytest.mark.parametrize("key", ["click", "Enter"])
def test_a_heading_sorts_both_ways_with_the_missing_last(key: str, opened: Opened, report: Path) -> None:
    page = opened.load(report)
    heading = page.locator("#overview thead tr:last-child th", has_text="energy, J/token").first
    press = heading.click if key == "click" else lambda: heading.locator("[role=button]").press("Enter")
    assert heading.get_attribute("aria-sort") is None
    press()
    expect(heading).to_have_attribute("aria-sort", "ascending")
    assert opened.column("#overview", "energy, J/token") == [
        "0.280", "0.360", "0.500", "0.800", "0.900", "0.910", "1.200", "not measured",
    ]  # fmt: skip
    press()
    expect(heading).to_have_attribute("aria-sort", "descending")
    assert opened.column("#overview", "energy, J/token") == [
        "1.200", "0.910", "0.900", "0.800", "0.500", "0.360", "0.280", "not measured",
    ]  # fmt: skip
    expect(page.locator("#overview th[aria-sort=descending], #overview th[aria-sort=ascending]")).to_have_count(1)


def test_filters_narrow_the_table_and_the_charts(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    everything = places_drawn(page)
    page.fill("#find", "LARGE int")
    assert opened.column("#overview", "precision") == ["int8", "int4"]
    expect(page.locator("#shown")).to_have_text(f"2 of {len(CELLS)} variants")
    assert set(places_drawn(page)) < set(everything)
    assert len(places_drawn(page)) == 2
    page.select_option("#only-precision", "int4")
    assert opened.column("#overview", "model") == ["Large-3B"]
    page.fill("#find", "no such thing")
    assert opened.column("#overview", "model") == []
    assert places_drawn(page) == []
    page.fill("#find", "")
    page.select_option("#only-precision", "")
    page.select_option("#only-model", "Small-1B")
    assert opened.column("#overview", "precision") == ["fp16", "int8", "int4"]
    page.select_option("#only-model", HOSTILE)
    assert opened.column("#overview", "model") == [HOSTILE]
    page.select_option("#only-model", "")
    page.fill("#find", "small")  # a tag of this name is in most rows
    assert opened.column("#overview", "precision") == ["fp16", "int8", "int4"]
    page.fill("#find", "")
    assert places_drawn(page) == everything


def test_groups_of_columns_are_hidden_and_shown(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    heading = page.locator("#overview thead tr:last-child th", has_text="energy, J/token").first
    before = page.locator("#overview tbody tr:first-child td:visible").count()
    assert heading.is_visible()
    page.uncheck("#fit")
    assert page.locator("#overview tbody tr:first-child td:visible").count() > before
    page.check("#fit")
    assert page.locator("#overview tbody tr:first-child td:visible").count() == before
    page.uncheck("input[data-group=energy]")
    expect(heading).to_be_hidden()
    page.check("input[data-group=settings]")
    expect(page.locator("#overview thead tr:last-child th", has_text="engine").first).to_be_visible()


def test_other_axes_draw_other_numbers(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    assert sorted(values_drawn(page, "x"))[0] == pytest.approx(2.4, rel=0.05)  # TPOT in ms
    page.select_option("#axis-x", "model_size_gb")
    assert sorted(values_drawn(page, "x")) == [0.7, 1.1, 2.0, 2.1, 3.0, 3.1, 3.2, 6.0]
    page.select_option("#axis-y", "joules_per_output_token")
    assert sorted(values_drawn(page, "y")) == [0.28, 0.36, 0.5, 0.8, 0.9, 0.91, 1.2]
    expect(page.locator("#pareto-note")).to_contain_text("1 without one of them")
    assert page.evaluate("document.getElementById('pareto').layout.xaxis.title.text").startswith("on disk, GiB")
    assert page.evaluate("document.getElementById('pareto').layout.xaxis.type") == "linear"
    page.check("#log-x")
    assert page.evaluate("document.getElementById('pareto').layout.xaxis.type") == "log"


def test_a_frontier_joins_only_what_was_measured_in_one_setting(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    page.select_option("#axis-x", "tpot_s")
    page.select_option("#axis-y", "quiz")
    lines = page.evaluate("document.getElementById('pareto').data.filter(t => t.mode === 'lines').map(t => [...t.x])")
    points = values_drawn(page, "x")
    assert len(lines) == 2  # two GPUs
    assert all(x in points for line in lines for x in line)
    assert sorted(map(len, lines)) == [2, 2]  # of Small-1B int4 and int8, and of the two on the other GPU
    note = page.locator("#pareto-note").inner_text()
    assert "2 settings that are not compared" in note
    assert "hardware Test GPU, Test CPU against Other GPU, Test CPU" in note
    page.select_option("#axis-x", "model_size_gb")
    page.select_option("#axis-y", "weights_gb")
    assert "settings that are not compared" not in page.locator("#pareto-note").inner_text()


def test_a_doubtful_point_is_an_outline_and_beats_nobody(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    page.select_option("#axis-x", "mean_latency_s")
    symbols = page.evaluate(
        "Object.fromEntries(document.getElementById('pareto').data.filter(t => t.customdata)"
        ".flatMap(t => t.customdata.map((place, n) => [place, t.marker.symbol[n]])))"
    )
    hollow = [int(place) for place, symbol in symbols.items() if symbol.endswith("-open")]
    models = opened.column("#overview", "model"), opened.column("#overview", "precision")
    assert [(models[0][place], models[1][place]) for place in hollow] == [("Large-3B", "int8")]
    assert "confounded" in page.locator("#pareto-note").inner_text()


def test_a_point_tells_all_its_numbers(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    page.locator("#pareto").scroll_into_view_if_needed()
    page.locator("#pareto .scatterlayer .points path").first.hover(force=True)
    page.wait_for_selector("#pareto .hoverlayer text")
    told = page.locator("#point").inner_text()
    for label in ("TPOT, ms", "energy, J/token", "weights, GiB", "quiz, %"):
        assert label in told
    assert "TPOT" in page.locator("#pareto .hoverlayer").first.text_content()


def test_a_chart_can_be_saved_and_has_no_button_that_sends_it_away(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    buttons = page.locator(".modebar-btn")
    assert sorted(button.get_attribute("data-title") for button in buttons.all()) == [
        "Download plot as a PNG", "Pan", "Reset axes", "Zoom",
    ]  # fmt: skip
    page.locator("#pareto").hover()
    with page.expect_download() as saved:
        page.locator("#pareto .modebar-btn[data-title^=Download]").click()
    assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")


def test_the_paired_drops_have_words_and_follow_the_task(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    words = page.evaluate("document.getElementById('forest').layout.yaxis.categoryarray.join(' ')")
    for verdict in ("equivalent", "degraded", "inconclusive"):
        assert verdict in words
    shapes = page.evaluate("document.getElementById('forest').layout.shapes.map(shape => shape.x1)")
    assert shapes == [1, 1]  # the margin
    page.fill("#find", "fp16")
    assert "None of the variants shown was paired" in page.locator("#forest-note").inner_text()
    page.fill("#find", "Small")
    page.select_option("#drop-task", "quiz")
    assert page.evaluate("document.getElementById('forest').layout.yaxis.categoryarray.length") == 2


def test_dark_and_light_by_the_system_and_by_hand(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    colours = (
        "[getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('#pareto .xtick text')).fill]"
    )
    light = page.evaluate(colours)
    page.click("#theme")
    dark = page.evaluate(colours)
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] == "rgb(20, 24, 29)"
    assert dark[1] != light[1]
    page.click("#theme")
    assert page.evaluate(colours) == light
    page.reload(wait_until="load")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"JSON.stringify({colours}) === '{_json(dark)}'")


def _json(values: Sequence[str]) -> str:
    return "[" + ",".join(f'"{value}"' for value in values) + "]"


def test_a_phone_scrolls_only_downwards(opened: Opened, report: Path) -> None:
    opened.page.set_viewport_size({"width": 360, "height": 740})
    page = opened.load(report)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.evaluate("innerWidth") == 360
    wide = "[...document.querySelectorAll('#comparison .box')].map(box => box.scrollWidth - box.clientWidth)[0]"
    heading = page.locator("#overview thead tr:last-child th")
    assert page.evaluate(wide) <= 0
    assert heading.filter(has_text="quiz, %").is_visible()  # accuracy first
    assert heading.filter(has_text="TPOT, ms").count() == 0
    page.check("input[data-group=speed]")  # comes before what does not fit beside it
    expect(heading.filter(has_text="TTFT, ms")).to_be_visible()
    assert page.evaluate(wide) <= 0
    page.uncheck("#fit")
    assert page.evaluate(wide) > 0  # all columns, in a box that scrolls
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_screen_has_the_verdict(width: int, scheme: Any, opened: Opened, report: Path) -> None:
    opened.page.set_viewport_size({"width": width, "height": 844})
    opened.page.emulate_media(color_scheme=scheme)
    page = opened.load(report)
    answer, cards = page.locator("#verdict .answer"), page.locator("#verdict .card")
    assert "Deploy Small-1B int8" in answer.inner_text()
    for shown in (answer, page.locator("#verdict .parts")):
        expect(shown).to_be_in_viewport()
    assert cards.locator("svg.interval").count() > 4
    assert [text.split()[0] for text in cards.all_inner_texts()[:4]] == ["speed", "energy", "memory", "accuracy"]
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.locator("#comparison .box").evaluate("box => box.scrollWidth <= box.clientWidth")
    expect(page.locator("#columns")).to_contain_text(" columns")
    colours = cards.first.evaluate("c => [getComputedStyle(c).color, getComputedStyle(document.body).backgroundColor]")
    assert colours == (
        ["rgb(29, 35, 41)", "rgb(255, 255, 255)"] if scheme == "light" else ["rgb(230, 234, 238)", "rgb(20, 24, 29)"]
    )


def test_the_data_of_a_chart_is_one_click_away(opened: Opened, report: Path) -> None:
    page = opened.load(report)
    with page.expect_download() as download:
        page.click("button.csv[data-chart=pareto]")
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert download.value.suggested_filename == "pareto.csv"
    header, *rows = csv.reader(text.splitlines())
    assert header == ["model", "precision", "frontier", "TPOT, ms", "x low", "x high", "quiz, %", "y low", "y high"]
    (small,) = (row for row in rows if row[:2] == ["Small-1B", "int8"])
    assert float(small[4]) < float(small[3]) < float(small[5])
    assert sum(row[0] == HOSTILE for row in rows) == 1
    assert any(row[2].startswith("frontier") for row in rows)
    with page.expect_download() as download:
        page.click("button.csv[data-chart=forest]")
    header, *rows = csv.reader(Path(download.value.path()).read_text(encoding="utf-8").splitlines())
    assert header == ["model", "precision", "task", "drop, pp", "low", "high", "verdict"]
    assert ["Small-1B", "int4", "quiz"] in [row[:3] for row in rows]
    assert {row[6] for row in rows} <= {"equivalent", "degraded", "improved", "inconclusive"}
    assert all(float(row[4]) <= float(row[3]) <= float(row[5]) for row in rows)


def test_the_data_of_a_figure_of_a_plugin_is_one_click_away(opened: Opened, tmp_path: Path) -> None:
    def draw(study: Study) -> Figure:
        made = Figure(figsize=(2, 2))
        made.subplots().plot([1, 2], [30, 40], label="seen")
        return made

    def chart(study: Study) -> Any:
        return plotly.Figure(plotly.Bar(x=["a", "b"], y=np.array([0.5, 7.25]), name="<b>bars</b>"))  # packed as bytes

    figures.FIGURES.register(figures.Figure("picture", "A picture", draw))
    figures.FIGURES.register(figures.Figure("bars", "A chart", draw, chart))
    try:
        path = render(write_variants(tmp_path / "outputs"), tmp_path / "report.html")
    finally:
        figures.FIGURES.unregister("picture")
        figures.FIGURES.unregister("bars")
    page = opened.load(path)
    found = []
    for button in ("a.csv[download='picture.csv']", "button.csv[data-name=bars]"):
        with page.expect_download() as download:
            page.click(button)
        found.append((download.value.suggested_filename, Path(download.value.path()).read_text().splitlines()))
    assert found == [
        ("picture.csv", ["kind,series,x,y", "line,seen,1.0,30.0", "line,seen,2.0,40.0"]),
        ("bars.csv", ["series,x,y", "bars,a,0.5", "bars,b,7.25"]),
    ]


def test_it_prints(opened: Opened, report: Path, tmp_path: Path) -> None:
    page = opened.load(report)
    page.click("#theme")  # paper is light whatever the screen
    page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True, print_background=True)
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert len(content) > 50_000
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    hidden = page.evaluate(
        "[...document.querySelectorAll('.box')].filter(b => getComputedStyle(b).overflowX !== 'visible').length"
    )
    assert hidden == 0


def test_the_published_results_open_too(opened: Opened, tmp_path: Path) -> None:
    folder = Path(os.environ.get("SLIM_EVAL_PUBLISHED", str(PUBLISHED)))
    if not folder.is_dir():
        pytest.skip(f"the published results are not at {folder}; SLIM_EVAL_PUBLISHED can name their folder")
    page = opened.load(render(folder, tmp_path / "report.html"))
    assert page.locator("#overview tbody tr").count() == 13
    assert len(places_drawn(page)) == 13
    note = page.locator("#forest-note").inner_text()
    assert "the margin of 1 pp" in note  # their drops have intervals, though nothing is paired
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    drawings = "[...document.querySelectorAll('#drops .chart .main-svg:first-child')]"
    sizes = page.evaluate(f"{drawings}.map(each => [each.clientHeight, each.clientWidth])")
    assert len(sizes) == 2
    assert all(height < 186 / 25.4 * 96 and width < 273 / 25.4 * 96 for height, width in sizes)  # A4, its margins
    drawn = page.evaluate(
        "[...document.querySelectorAll('#drops .chart')].flatMap(c => c.layout.yaxis.categoryarray).length"
    )
    assert drawn == 24
    assert page.locator("#columns").inner_text() == "12 of 13 columns"  # without the settings
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.getElementById('forest').layout.yaxis.categoryarray.length") == 24
    assert page.locator("#drops .chart").count() == 1
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


def test_a_single_number_opens_too(opened: Opened, tmp_path: Path) -> None:
    common = {"schema_version": SCHEMA_VERSION, "model": "m", "precision": "fp16"}
    record = PerformanceRecord(**common, tpot_s=0.01)
    write_record(tmp_path / "m" / f"m_{record_name(record)}", record)
    opened.page.goto(render(tmp_path / "m", tmp_path / "report.html").as_uri())
    opened.page.wait_for_function("document.getElementById('pareto-note').textContent.includes('needs two metrics')")
    assert opened.column("#overview", "TPOT, ms") == ["10.00"]
