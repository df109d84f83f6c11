"""What stands in `report.html`: every number once measured, every caveat in words, nothing that a name can break."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import plotly.graph_objects as plotly
import pytest
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from slim_eval.analysis.caveats import Caveat, Kind
from slim_eval.analysis.findings import Section
from slim_eval.analysis.pareto.frontier import find_frontiers, frontier, parse_objectives
from slim_eval.analysis.report import charts, provenance, report_tables
from slim_eval.analysis.report.page import plotly_bundle, report_html
from slim_eval.analysis.report.report_tables import ABSENT, Field
from slim_eval.analysis.study import Study
from slim_eval.metrics import METRICS, Basis, Metric
from slim_eval.results.records import FloorEntry, NoiseRecord, PerformanceRecord
from slim_eval.results.store import find_results, write_noise
from slim_eval.results.variants import Estimate, Variant
from slim_eval.utils.redaction import REDACTED
from tests.planted import items, outcomes
from tools.report_scripts import SCRIPTS, VENDOR

MakeCell = Callable[..., Variant]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"q\" 'q' \u2028"


class Page(HTMLParser):
    """The parts of a page that a test asks for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.lines: list[list[str]] = []
        self._inside = ""
        self._in_field = False
        self.feed(html)
        self.lines = [[field.strip() for field in line] for line in self.lines]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        elif tag == "tr":
            self.lines.append([])
        elif tag in ("td", "th") and self.lines:
            self.lines[-1].append("")
            self._in_field = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        if tag in ("td", "th"):
            self._in_field = False

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._inside != "style":
            self.texts.append(data)
            if self._in_field:
                self.lines[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self) -> Any:
        (found,) = (text for attributes, text in self.scripts if attributes.get("id") == "data")
        return json.loads(found, parse_constant=lambda name: pytest.fail(name))

    @property
    def policy(self) -> str:
        (found,) = (
            attributes["content"] for tag, attributes in self.tags
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        )  # fmt: skip
        assert found is not None
        return found


def html_of(variants: Sequence[Variant], **arguments: Any) -> str:
    return report_html(Study.read(variants), title=arguments.pop("title", "Title"), **arguments)


def page_of(variants: Sequence[Variant], **arguments: Any) -> Page:
    return Page(html_of(variants, **arguments))


def told(*sentences: str) -> tuple[Section, ...]:
    """Findings under one heading, and one that has a part of its own in the report."""
    return Section("Quantized", sentences), Section("Notes in the records", ("Told elsewhere.",), apart=True)


def line_of(table: report_tables.ReportTable, row: int) -> dict[str, Field]:
    return dict(zip(table.headers, table.rows[row], strict=True))


def words_of(field: Field) -> list[str]:
    return [mark.word for mark in field.marks]


@pytest.fixture
def three(make_variant: MakeCell) -> list[Variant]:
    """One model: int8 is confounded and paired, int4 has invalid energy and no TTFT."""
    first, second = outcomes(400, right=300, lost=60, gained=4)
    half = {"performance": {"output_tokens": 50.0, "tpot_s": 0.002, "intervals": {"tpot_s": (0.0019, 0.0022)}}}
    return [
        make_variant(tasks={"quiz": 0.75}, samples={"quiz": items(first)}),
        make_variant(precision="int8", tasks={"quiz": 0.61}, samples={"quiz": items(second)}, **half),
        make_variant(
            precision="int4", performance={"ttft_s": None}, write=True,
            energy={"valid": False, "invalid_reasons": ("window of 1 s is under 2 s",), "joules_per_output_token": None,
                    "energy_joules": None, "energy_per_query_j": None},
        ),
    ]  # fmt: skip


def test_findings_are_under_their_headings_and_long_lists_unfold(three: list[Variant]) -> None:
    sentences = [f"Sentence {number}." for number in range(9)]
    page = page_of(three, sections=told(*sentences))
    assert "Quantized" in page.text
    assert "4 more" in page.text
    assert all(sentence in page.text for sentence in sentences)
    assert "Told elsewhere." not in page.text


def test_the_page_has_every_section_and_its_numbers(three: list[Variant]) -> None:
    page = page_of(three, sections=told("Half of it is said."), problems=("x.json: skipped",))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == [
        "verdict", "findings", "caveats", "comparison", "trade-offs", "drops", "impact", "tasks", "environment",
        "noise", "methods", "notes",
    ]  # fmt: skip
    for words in ("Half of it is said.", "x.json: skipped", "Title", "3 variants of 1 model", "Test GPU, Test CPU"):
        assert words in page.text
    lines = [line for line in page.lines if line[:1] == ["Tiny"]]
    int8 = next(line for line in lines if line[1] == "int8")
    assert "2.00 ±0.15" in int8
    int4 = next(line for line in lines if line[1] == "int4")
    assert "not measured" in int4
    assert not any(re.fullmatch(r"0(\.0*)?", field) for field in int4)


def test_only_scripts_named_by_their_hash_may_run_and_nothing_may_be_fetched(three: list[Variant]) -> None:
    page = page_of(three)
    policy = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in policy["script-src"]
    assert "connect-src" not in policy
    runs = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in runs]
    assert policy["script-src"].split() == [f"'sha256-{value}'" for value in hashes]
    assert len(runs) == 4
    addresses = [a[key] for _, a in page.tags for key in ("src", "href", "action", "poster", "data") if a.get(key)]
    assert all(address is not None and address.startswith(("#", "data:")) for address in addresses)
    assert not [name for _, a in page.tags for name in a if name.startswith("on")]


@pytest.mark.parametrize(
    "place", ["model", "precision", "note", "task", "finding", "problem", "title", "hardware", "caveat", "metric"]
)
def test_a_text_cannot_break_out_of_its_place(
    place: str, make_variant: MakeCell, three: list[Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    head: dict[str, Any] = {
        "note": {"notes": (HOSTILE,)},
        "hardware": {"environment": {"cpu": HOSTILE, "gpus": []}}, "model": {"model": HOSTILE},
    }.get(place, {})  # fmt: skip
    task = HOSTILE if place == "task" else "quiz"
    # Two models of one short name are shown by their full names.
    models = (HOSTILE, f"other/{HOSTILE}") if place == "model" else ("org/Tiny", "org/Big")
    precision = HOSTILE if place == "precision" else "fp16"
    variants = [make_variant(model, precision, tasks={task: 0.5}, head=head | {"model": model}) for model in models]
    changes = {"finding": {"sections": told(HOSTILE)}, "problem": {"problems": (HOSTILE,)}, "title": {"title": HOSTILE}}
    if place == "caveat":
        caveat = Caveat(Kind(HOSTILE, HOSTILE, "warn", HOSTILE), HOSTILE, (HOSTILE,))
        monkeypatch.setattr("slim_eval.analysis.study.find_caveats", lambda variants: [caveat])
    if place == "metric":
        METRICS.register(Metric("hostile", HOSTILE, HOSTILE, HOSTILE, basis=Basis.OWN, compute=lambda variant: 1.0))
    try:
        html = html_of(variants, **changes.get(place, {}))
    finally:
        METRICS.unregister("hostile")
    page, plain = Page(html), page_of(three[:2])
    assert len(page.scripts) == len(plain.scripts)
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {"noscript", "details", "summary", "h3"}
    assert "img" not in {tag for tag, _ in page.tags}
    assert "<script>alert" not in html
    assert "alert(1)" in page.text


def test_the_embedded_data_are_read_back_whole(make_variant: MakeCell) -> None:
    models = (HOSTILE, f"other/{HOSTILE}")
    page = page_of([make_variant(model, head={"model": model}) for model in models])
    assert {point["name"] for point in page.data["trade_off"]["points"]} == set(models)
    (_, text) = next(script for script in page.scripts if script[0].get("id") == "data")
    assert not set(text) & set("<>&\u2028\u2029")


def test_the_same_results_make_the_same_file(three: list[Variant]) -> None:
    assert html_of(three) == html_of(three)


def test_one_variant_without_tasks_or_energy(make_variant: MakeCell) -> None:
    page = page_of([make_variant(energy=None)])
    for words in (
        "There are no findings", "1 variant of 1 model", "No accuracy task was measured",
        "Only baselines were measured", "No noise floor was measured", "The records have no notes",
    ):  # fmt: skip
        assert words in page.text
    assert page.data["drops"]["rows"] == []
    assert "joules_per_output_token" not in page.data["trade_off"]["axes"]


def test_a_variant_that_knows_almost_nothing(make_variant: MakeCell) -> None:
    bare = {"engine": None, "environment": None, "config": None, "model_size_gb": None}
    empty = dict.fromkeys(("mean_latency_s", "tokens_per_second", "ttft_s", "tpot_s", "output_tokens", "weights_gb"))
    variants = [
        make_variant(energy=None, head=bare, performance={**empty, "mean_peak_mem_mb": 5.0, "batch_size": None})
    ]
    page = page_of(variants)
    chart = page.data["trade_off"]
    assert list(chart["axes"]) == ["mean_peak_mem_mb"]
    assert (chart["x"], chart["y"]) == (None, "mean_peak_mem_mb")
    assert "A trade-off needs two metrics" in page.text
    assert "The records do not state where or how they were measured" in page.text


def test_only_the_tasks_asked_for_are_shown(make_variant: MakeCell) -> None:
    study = Study.read([make_variant(tasks={"mmlu": 0.5, "quiz": 0.6})], ("quiz",))
    page = Page(report_html(study))
    assert "quiz" in page.data["trade_off"]["axes"]
    assert "mmlu" not in page.text


def test_the_file_stays_small_and_works_with_many_variants(make_variant: MakeCell) -> None:
    variants = [
        make_variant(f"org/Model-{n}", precision, tasks={"mmlu": 0.5, "gsm8k": 0.4})
        for n in range(20)
        for precision in ("fp16", "int8", "int4")
    ]
    html = html_of(variants)
    page = Page(html)
    assert len(page.data["trade_off"]["points"]) == 60
    assert sum(line[:1] == ["Model-7"] for line in page.lines) >= 3
    assert len(html.encode()) < len(html_of(variants[:1]).encode()) + 60 * 10_000
    assert len(html.encode()) < 2_000_000
    assert html.count("plotly.js (basic") == 1


@pytest.mark.large
def test_thousands_of_variants_are_shown_once_each_way(make_variant: MakeCell) -> None:
    one = make_variant(tasks={"mmlu": {"accuracy": 0.5, "subtasks": {"law": {"acc,none": 0.5, "num_items": 3}}}})
    variants = [replace(one, model=f"org/M{n}", directory=one.directory / str(n)) for n in range(1500)]
    study = Study.of(variants)
    page = Page(report_html(study))
    assert len(page.data["trade_off"]["points"]) == 1500
    assert sum(line[:1] == ["law"] for line in page.lines) == report_tables.MAX_MODELS
    assert f"The subjects of {1500 - report_tables.MAX_MODELS} further models" in page.text
    assert page.data["drops"]["max_rows"] < 100
    ((labels, _),) = provenance.environments(study).groups
    assert len(labels) == 1500


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(0.0, 0, "0"), (12345.6, 0, "12,346"), (123.45, 1, "123.5"), (1.2345, 2, "1.23"), (0.012345, 2, "0.0123"),
     (-0.5, 1, "-0.500"), (1e-9, 2, "1.00e-09")],
)  # fmt: skip
def test_numbers_keep_the_digits_that_count(value: float, decimals: int, text: str) -> None:
    assert report_tables.figure(value, decimals) == text


def test_an_interval_is_half_its_width_with_the_digits_of_its_number(make_variant: MakeCell) -> None:
    assert report_tables.estimated(Estimate(6.29, (6.22, 6.36)), 2).plus_minus == "±0.07"
    assert report_tables.estimated(Estimate(6.29, (6.2875, 6.2925)), 2).plus_minus == "±0.00250"  # never shown as none
    variant = make_variant(
        tasks={"quiz": {"accuracy": 0.5, "stderr": 0.02}},
        performance={"tpot_s": 0.004, "ttft_s": None, "intervals": {"tpot_s": (0.003, 0.006)}},
    )
    study = Study.of([variant])
    (shown,) = study.variants
    assert report_tables.measured(study, shown, study.metric("quiz")).plus_minus == "±3.9"
    assert report_tables.measured(study, shown, METRICS["tpot_s"]).title == "95 % interval 3.00 to 6.00"
    assert report_tables.measured(study, shown, METRICS["ttft_s"]) == ABSENT


def test_marks_show_what_is_wrong_with_a_number(three: list[Variant]) -> None:
    table = report_tables.comparison_table(Study.read(three), ())
    int8 = line_of(table, [line[1].text for line in table.rows].index("int8"))
    assert words_of(int8["amortised latency, ms"]) == ["confounded"]
    assert words_of(int8["TPOT, ms"]) == []
    assert words_of(int8["quiz, %"]) == ["degraded"]
    assert [mark.word for mark in table.marks] == ["confounded", "degraded"]
    assert "KV cache, tokens" in table.absent


def test_emulated_kernels_and_other_hardware_mark_speed_but_not_size(make_variant: MakeCell) -> None:
    other = {"environment": {"cpu": "Other CPU", "gpus": []}, "kernels": "emulated"}
    study = Study.read([make_variant(), make_variant(precision="int8", head=other)])
    line = line_of(report_tables.comparison_table(study, ()), 1)
    assert words_of(line["TPOT, ms"]) == ["other setting", "emulated"]
    assert words_of(line["energy, J/token"]) == ["other setting", "emulated"]
    assert line["on disk, GiB"].marks == ()
    page = Page(report_html(study))
    assert "hardware Other CPU against Test GPU, Test CPU" in page.text
    assert "settings, which are not compared with each other" in page.text


def test_caveats_come_in_words_the_gravest_first(three: list[Variant]) -> None:
    found = provenance.report_caveats(Study.read(three), (), ("a.json: skipped",))
    tones = [caveat.kind.tone for caveat in found]
    assert tones == sorted(tones, key=("bad", "warn", "note").index)
    by_word = {caveat.kind.word: caveat for caveat in found}
    assert by_word["unreadable"].text == "a.json: skipped"
    assert by_word["invalid"].text == "energy is not used: window of 1 s is under 2 s"
    assert by_word["confounded"].variants == ("Tiny int8",)
    assert "50.0 output tokens per request against 100.0" in by_word["confounded"].text


def test_an_inconclusive_drop_is_shown_with_the_items_it_needs(make_variant: MakeCell) -> None:
    first, second = outcomes(40, right=30, lost=2, gained=1)
    study = Study.read([
        make_variant(
            precision=precision, tasks={"quiz": {"accuracy": sum(scores) / 40, "num_items": 40}},
            samples={"quiz": items(scores)},
        )
        for precision, scores in (("fp16", first), ("int8", second))
    ])  # fmt: skip
    (found,) = (c for c in provenance.report_caveats(study, (), ()) if c.kind.word == "inconclusive")
    assert found.text.startswith("quiz: 40 items are too few to decide on a drop of 1 pp (drop +2.5 pp, ")
    assert re.search(r"needs about [\d,]+ items$", found.text)
    chart = charts.drops(study)
    (row,), (trace,) = chart["rows"], chart["figure"]["data"]
    assert row["label"].endswith("<b>inconclusive</b>")
    assert (trace["x"], "40 items" in trace["hovertext"][0]) == ([2.5], True)
    assert trace["error_x"]["arrayminus"][0] > 2.5


def test_items_that_may_not_be_paired_say_why(make_variant: MakeCell) -> None:
    bare = {"accuracy": 0.5, "stderr": None, "num_items": None, "limit": 50}
    variants = [make_variant(precision=name, tasks={"quiz": bare, "mmlu": bare}) for name in ("fp16", "int8")]
    study = Study.read(variants)
    (found,) = (c for c in provenance.report_caveats(study, (), ()) if c.kind.word == "not paired")
    assert found.text == "mmlu, quiz: fp16 has no outcomes of single items"
    drop = line_of(report_tables.impact_table(study), 0)["quiz drop, pp"]
    assert (drop.text, drop.plus_minus) == ("+0.0", "unpaired")


def test_the_noise_floor_is_shown_and_marks_what_is_below_it(make_variant: MakeCell) -> None:
    variants = [make_variant(write=True), make_variant(precision="int8", performance={"tpot_s": 0.0041}, write=True)]
    floor = NoiseRecord(
        model="org/Tiny", precision="fp16", timestamp="t", engine="vllm", hardware="Test GPU, Test CPU", batch_size=8,
        max_new_tokens=100, prompt_tokens=12.0, metrics={"tpot_s": FloorEntry(values=(0.004, None), floor=0.05)},
        tasks={"quiz": FloorEntry(values=(0.5, 0.51), floor=1.0)}, flips={"quiz": 0.1},
    )  # fmt: skip
    write_noise(variants[0].directory.parent, floor)
    page = page_of(variants)
    assert ["Tiny", "fp16", "TPOT, ms", "±5.00 %", "4.00, not measured"] in page.lines
    assert ["Tiny", "fp16", "quiz, %", "±1.00 pp; 10.0 % of the answers changed", "50.0, 51.0"] in page.lines
    (int8,) = (point for point in page.data["trade_off"]["points"] if point["precision"] == "int8")
    assert dict(int8["numbers"])["TPOT, ms"] == "4.10 [within noise]"
    assert page.data["trade_off"]["axes"]["tpot_s"]["values"] == [4.0, 4.1]


def test_the_impact_keeps_intervals_marks_and_reasons(three: list[Variant]) -> None:
    table = report_tables.impact_table(Study.read(three))
    lines = {line[1].text: line_of(table, n) for n, line in enumerate(table.rows)}
    int8, int4 = lines["int8"], lines["int4"]
    assert int8["baseline"].text == "fp16"
    assert int8["TPOT speed-up"].text == "2.00x"
    assert words_of(int8["amortised latency ratio"]) == ["confounded"]
    assert int8["quiz drop, pp"].text == "+14.0"
    assert re.fullmatch(r"\(\+\d+\.\d to \+\d+\.\d\)", int8["quiz drop, pp"].plus_minus)
    assert int4["energy saved, %"].absent
    assert "marked invalid" in int4[table.headers[-1]].text
    assert int4["quiz drop, pp"] == ABSENT


def test_subjects_are_beside_each_other_by_precision(make_variant: MakeCell) -> None:
    def task(value: float) -> dict[str, Any]:
        subject = {"acc,none": value, "acc_stderr,none": 0.05, "num_items": 100}
        return {
            "mmlu": {
                "accuracy": value,
                "subtasks": {"law": subject, "art": {"num_items": 7}},
                "task_versions": {"mmlu": 2},
            }
        }

    study = Study.read([make_variant(tasks=task(0.5)), make_variant(precision="int8", tasks=task(0.47))])
    (detail,) = report_tables.task_details(study)
    (subjects,) = detail.subjects
    assert subjects.headers == ("subject", "items", "fp16", "int8", "int8 - fp16")
    law, art = subjects.rows
    assert [field.text for field in law] == ["law", "100", "50.0", "47.0", "-3.0"]
    assert law[2].plus_minus == "±9.8"
    assert [field.text for field in art] == ["art", "7", *["not measured"] * 3]
    line = line_of(detail.table, 1)
    assert (line["version"].text, line["few-shot"].text, line["items"].text) == ("2", "5", "400")
    assert "chat template" in detail.table.absent


def test_settings_keep_apart_what_was_measured_differently(make_variant: MakeCell) -> None:
    variants = [
        make_variant("org/A"),
        make_variant("org/B", performance={"prompt_tokens": 14.0}),  # another tokenizer, the same prompt
        make_variant("org/C", performance={"batch_size": 1}, tasks={"quiz": {"accuracy": 0.5, "num_fewshot": 0}}),
        make_variant("org/D", performance=None, tasks={"quiz": 0.5}),
    ]
    speed, energy, quiz = provenance.settings_of(Study.of(variants))
    assert (speed.kind, speed.counts) == ("speed", (2, 1))
    assert "batch size 1 against 8" in "; ".join(speed.groups.differences)
    assert speed.groups.names == tuple(f"vllm, Test GPU, Test CPU, batch size {size}" for size in (8, 1))
    assert speed.groups.settings[0].startswith("vllm, Test GPU, Test CPU, batch size 8, ")
    assert (energy.counts, energy.groups.differences) == ((4,), ())
    assert quiz.counts == (1, 1)
    assert "few-shot examples of quiz 5 against 0" in "; ".join(quiz.groups.differences)


def test_what_was_not_recorded_is_not_called_one_setting(make_variant: MakeCell) -> None:
    bare = {"engine": None, "environment": None, "config": None}
    nothing = {"batch_size": None, "prompt_tokens": None}
    variants = [make_variant(f"org/{name}", head=bare, performance=nothing, energy=None) for name in "AB"]
    (speed,) = provenance.settings_of(Study.of(variants))
    assert not speed.recorded
    page = page_of(variants)
    assert "the settings were not recorded, so comparability is unknown" in page.text
    assert "neither engine, hardware nor settings were recorded" in page.text
    assert any("The settings of speed were not recorded" in note for note in page.data["trade_off"]["notes"])


def test_environments_show_what_is_the_same_and_what_differs(make_variant: MakeCell) -> None:
    newer = {"environment": {"cpu": "Test CPU", "gpus": [{"name": "Test GPU"}], "packages": {"torch": "2.9"}}}
    older = {"environment": {"cpu": "Test CPU", "gpus": [{"name": "Test GPU"}], "packages": {"torch": "2.8"}}}
    variants = [make_variant("org/A", head=newer), make_variant("org/B", head=older), make_variant("org/C", head=older)]
    found = provenance.environments(Study.of(variants))
    assert found.differing == ("packages · torch",)
    assert found.groups == ((("A fp16",), ("2.9",)), (("B fp16", "C fp16"), ("2.8",)))
    assert ("cpu", "Test CPU") in found.common
    assert ("gpus", "Test GPU") in found.common


def test_the_frontier_is_shown_with_what_it_rests_on(three: list[Variant]) -> None:
    study = Study.read(three)
    made = frontier(study, parse_objectives("mean_latency_s:min model_size_gb:min", study))
    states = dict(report_tables.standings(study, made))
    assert "Tiny int8 (confounded)" in {label for labels in states.values() for label in labels}
    (caveat,) = report_tables.standing_caveats(made)
    assert "50.0 to 100.0 output tokens per request: different work" in caveat
    page = Page(report_html(study, [made]))
    assert "by the point values alone, because no intervals are known" in page.text
    assert "amortised latency, ms (lower is better)" in page.text


def test_a_frontier_over_several_settings_says_so(make_variant: MakeCell) -> None:
    study = Study.read([make_variant("org/A"), make_variant("org/B", performance={"batch_size": 1})])
    made = frontier(study, parse_objectives("tpot_s", study))
    (apart,) = report_tables.standing_caveats(made)
    assert apart == "Variants of 2 settings, each compared only within its own."


def test_a_frontier_of_two_metrics_joins_one_setting_and_leaves_out_different_work(make_variant: MakeCell) -> None:
    study = Study.read([
        make_variant("org/A", performance={"tpot_s": 0.004, "weights_gb": 2.0}),
        make_variant("org/B", performance={"tpot_s": 0.003, "weights_gb": 3.0}),
        make_variant("org/C", performance={"tpot_s": 0.005, "weights_gb": 4.0}),
        make_variant("org/D", performance={"tpot_s": 0.009, "weights_gb": 9.0, "batch_size": 1}),
        make_variant("org/E", performance={"output_tokens": 50.0}, energy=None),
    ])  # fmt: skip
    chart = charts.trade_off(study, report_tables.comparison_table(study, ()))
    fronts = dict(chart["pairs"]["tpot_s|weights_gb"]["fronts"])
    assert sorted(map(sorted, fronts.values())) == [[0, 1, 4], [3]]
    latency = chart["pairs"]["mean_latency_s|weights_gb"]
    notes = " ".join(chart["notes"][n] for n in latency["notes"])
    assert "No frontier: mean_latency_s: 50.0 to 100.0 output tokens per request: different work." in notes
    assert "2 settings that are not compared with each other (speed: " in notes
    energy = chart["pairs"]["weights_gb|joules_per_output_token"]
    assert "4 variants with both metrics; 1 without one of them is not drawn." in {
        chart["notes"][n] for n in energy["notes"]
    }


def test_metrics_of_plugins_are_in_the_table_and_the_charts(make_variant: MakeCell) -> None:
    own = METRICS.register(Metric("answers_per_euro", "answers", "answers per euro", "1/€", better="higher",
                                  basis=Basis.OWN, compute=lambda variant: 7.0))  # fmt: skip
    try:
        page = page_of([make_variant()])
    finally:
        METRICS.unregister(own.name)
    assert any("answers, 1/€" in line for line in page.lines)
    assert "other" in {attributes.get("data-group") for _, attributes in page.tags}
    assert "answers_per_euro" in page.data["trade_off"]["axes"]


def test_figures_of_plugins_are_charts_or_pictures(make_variant: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "own": SimpleNamespace(name="own", title="Own", chart=None, in_report=False),
        "chart": chart_of(plotly.Bar(y=[3])),
        "none": SimpleNamespace(name="none", title="Nothing there", chart=lambda study: None, in_report=True),
        "picture": SimpleNamespace(name="picture", title="A <picture>", chart=None, in_report=True),
    }
    name = "slim_eval.analysis.figures"
    monkeypatch.setattr(charts, "FIGURES", made)
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    table = "model,value\nhf_secretsecretsecret,1\n"
    drawn = SimpleNamespace(png=lambda figure, study: (b"\x89PNG" + b"hf_" * 40, table))
    monkeypatch.setitem(sys.modules, f"{name}.drawing", cast(ModuleType, drawn))
    page = page_of([make_variant()])
    (image,) = (attributes for tag, attributes in page.tags if tag == "img")
    address = image["src"] or ""
    assert base64.b64decode(address.removeprefix("data:image/png;base64,")) == b"\x89PNG" + b"hf_" * 40
    assert image["alt"] == "A <picture>"
    (link,) = (attributes for tag, attributes in page.tags if tag == "a" and "download" in attributes)
    assert link["download"] == "picture.csv"
    content = base64.b64decode((link["href"] or "").removeprefix("data:text/csv;base64,")).decode()
    assert content == f"model,value\n{REDACTED},1\n"
    assert [chart["data"][0]["y"] for chart in page.data["plugins"]] == [[3]]
    assert "Nothing there" not in page.text
    assert "A chart" in page.text


def chart_of(*traces: Any) -> SimpleNamespace:
    """A plugin's figure that is a chart of some traces."""
    return SimpleNamespace(name="chart", title="A chart", chart=lambda study: plotly.Figure(traces), in_report=True)


def test_the_bundle_of_plotly_fits_the_installed_one_and_has_every_trace_of_the_charts(
    three: list[Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    version, kinds = plotly_bundle()
    assert version == get_plotlyjs_version(), "run: python -m tools.report_scripts"
    assert kinds == {"scatter", "bar", "pie"}  # of plotly.js' basic bundle
    page = page_of(three)
    for chart in (page.data["trade_off"], page.data["drops"]):
        assert chart["figure"]["data"]
        assert {trace["type"] for trace in chart["figure"]["data"]} <= kinds
    monkeypatch.setattr(charts, "FIGURES", {"a": chart_of(plotly.Bar(y=[1]), plotly.Pie(values=[1]))})
    assert "plotly.js (basic" in html_of(three)


def test_a_chart_with_another_trace_or_another_plotly_has_the_whole_library(
    three: list[Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(charts, "FIGURES", {"a": chart_of(plotly.Heatmap(z=[[1]]))})
        assert f"<script>{get_plotlyjs()}</script>" in html_of(three)
    monkeypatch.setattr("plotly.offline.get_plotlyjs_version", lambda: "99.0.0")
    assert f"<script>{get_plotlyjs()}</script>" in html_of(three)


def test_every_script_carried_along_has_its_licence_and_the_version_that_the_tool_fetches() -> None:
    for package, (script, _) in SCRIPTS.items():
        path = VENDOR / Path(script).name
        assert "Permission is hereby granted" in path.with_suffix(".LICENSE").read_text(encoding="utf-8")
        assert package.rpartition("@")[2] in path.read_text(encoding="utf-8")[:100]
    assert len(list(VENDOR.iterdir())) == 2 * len(SCRIPTS)


def test_a_quantized_checkpoint_is_compared_with_its_base_model(make_variant: MakeCell) -> None:
    base = make_variant("org/Tiny")
    record = PerformanceRecord(
        model="other/Tiny-W8A8", precision="fp8", base_model="org/Tiny", tpot_s=0.002, engine="vllm"
    )
    table = report_tables.impact_table(Study.of([base, Variant.of(base.directory / "other", [record])]))
    line = line_of(table, 0)
    assert (line["model"].text, line["baseline"].text) == ("Tiny-W8A8", "fp16")


def test_the_published_results_are_shown_with_all_their_faults(published: Path) -> None:
    study = Study.read([variant for variant in find_results(published).variants if variant.records])
    page = Page(report_html(study, find_frontiers(study)))
    assert "13 variants of 5 models" in page.text
    for words in (
        "the latency ratio 2.18x compares different work; per token it is 1.28x", "amortised", "reserved memory",
        "HellaSwag is plain accuracy", "no intervals and no per-item outcomes were recorded", "unpaired",
        "whether a difference in speed or energy is beyond chance is unknown", "assume the full task",
    ):  # fmt: skip
        assert words in page.text
    assert len(page.data["drops"]["rows"]) == 24  # unpaired, from the full sizes of the tasks
    assert page.data["trade_off"]["x"] == "tokens_per_second"
    assert study.tasks == ("mmlu", "gsm8k", "hellaswag")
