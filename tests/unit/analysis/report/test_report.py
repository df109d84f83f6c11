"""What stands in `report.html`: every number once measured, every caveat in words, nothing that a name can break."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from slim_eval.analysis.summary import Section
from slim_eval.results.rows import rows_of, tasks_of

from slim_eval.analysis import evidence
from slim_eval.analysis.pareto import objectives
from slim_eval.analysis.report import (
    charts,
    concerns,
    details,
    environments,
    impact,
    marks,
    numbers,
    overview,
    standing,
)
from slim_eval.analysis.report.page import ReportData, report_html
from slim_eval.analysis.report.settings import settings_of
from slim_eval.analysis.tables import results_table
from slim_eval.results.records import FloorEntry, NoiseRecord
from slim_eval.results.store import find_results, write_noise
from slim_eval.results.variants import Variant
from tests.planted import items, outcomes

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


def data_of(variants: Sequence[Variant], **changes: Any) -> ReportData:
    rows = rows_of(variants)
    found = evidence.gather(variants, rows, 1.0)
    made = results_table.records_of(results_table.quantization_impact(results_table.tidy_table(rows)))
    return replace(ReportData("Title", rows, variants, found, made), **changes)


def told(*sentences: str) -> tuple[Section, ...]:
    """Findings under one heading, and what has a part of its own in the report."""
    return Section("Quantized", sentences), Section("What the records say", ("Told elsewhere.",), apart=True)


def marker_of(data: ReportData) -> marks.Marker:
    return marks.Marker.of(data.rows, data.evidence)


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


def test_findings_stand_under_their_headings_and_long_lists_unfold(three: list[Variant]) -> None:
    sentences = [f"Sentence {number}." for number in range(9)]
    page = Page(report_html(data_of(three, findings=told(*sentences))))
    assert "Quantized" in page.text
    assert "4 more" in page.text
    assert all(sentence in page.text for sentence in sentences)
    assert "Told elsewhere." not in page.text


def test_the_page_has_every_section_and_its_numbers(three: list[Variant]) -> None:
    page = Page(report_html(data_of(three, findings=told("Half of it is said."), problems=("x.json: skipped",))))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == [
        "findings", "caveats", "comparison", "trade-offs", "drops", "impact", "tasks", "environment", "noise",
        "methods", "notes",
    ]  # fmt: skip
    for words in (
        "Half of it is said.",
        "x.json: skipped",
        "Title",
        "3 configurations of 1 model",
        "Test GPU, Test CPU",
    ):
        assert words in page.text
    lines = [line for line in page.lines if line[:1] == ["Tiny"]]
    int8 = next(line for line in lines if line[1] == "int8")
    assert "2.00 ±0.15" in int8
    int4 = next(line for line in lines if line[1] == "int4")
    assert "not measured" in int4
    assert not any(re.fullmatch(r"0(\.0*)?", field) for field in int4)


def test_only_scripts_named_by_their_hash_may_run_and_nothing_may_be_fetched(three: list[Variant]) -> None:
    page = Page(report_html(data_of(three)))
    policy = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in policy["script-src"]
    assert "connect-src" not in policy
    runs = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in runs]
    assert policy["script-src"].split() == [f"'sha256-{value}'" for value in hashes]
    assert len(runs) == 3
    addresses = [a[key] for _, a in page.tags for key in ("src", "href", "action", "poster", "data") if a.get(key)]
    assert all(address is not None and address.startswith(("#", "data:")) for address in addresses)
    assert not [name for _, a in page.tags for name in a if name.startswith("on")]


@pytest.mark.parametrize(
    "place", ["model", "precision", "note", "task", "finding", "problem", "title", "hardware", "error"]
)
def test_a_text_cannot_break_out_of_its_place(place: str, make_variant: MakeCell, three: list[Variant]) -> None:
    head: dict[str, Any] = {
        "note": {"notes": (HOSTILE,)},
        "hardware": {"environment": {"cpu": HOSTILE, "gpus": []}}, "model": {"model": HOSTILE},
    }.get(place, {})  # fmt: skip
    task = HOSTILE if place == "task" else "quiz"
    # Two models of one short name are shown by their full names.
    models = (HOSTILE, f"other/{HOSTILE}") if place == "model" else ("org/Tiny", "org/Big")
    precision = HOSTILE if place == "precision" else "fp16"
    variants = [make_variant(model, precision, tasks={task: 0.5}, head=head | {"model": model}) for model in models]
    changes = {"finding": {"findings": told(HOSTILE)}, "problem": {"problems": (HOSTILE,)}, "title": {"title": HOSTILE}}
    data = data_of(variants, **changes.get(place, {}))
    if place == "error":
        broken = replace(data.evidence, caveats=(evidence.Caveat(HOSTILE, HOSTILE, (HOSTILE,)),))
        data = replace(data, evidence=broken)
    html = report_html(data)
    page, plain = Page(html), Page(report_html(data_of(three[:2])))
    assert len(page.scripts) == len(plain.scripts)
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {"noscript", "details", "summary", "h3"}
    assert "img" not in {tag for tag, _ in page.tags}
    assert "<script>alert" not in html
    assert "alert(1)" in page.text


def test_the_embedded_data_are_read_back_whole(make_variant: MakeCell) -> None:
    models = (HOSTILE, f"other/{HOSTILE}")
    page = Page(report_html(data_of([make_variant(model, head={"model": model}) for model in models])))
    assert {point["name"] for point in page.data["points"]} == set(models)
    (_, text) = next(script for script in page.scripts if script[0].get("id") == "data")
    assert not set(text) & set("<>&\u2028\u2029")


def test_the_same_results_make_the_same_file(three: list[Variant]) -> None:
    assert report_html(data_of(three)) == report_html(data_of(three))


def test_one_configuration_without_tasks_or_energy(make_variant: MakeCell) -> None:
    page = Page(report_html(data_of([make_variant(energy=None)])))
    for words in (
        "No finding was worked out", "1 configuration of 1 model", "No accuracy task was measured",
        "No quantized configuration was measured", "No noise floor was measured", "The records carry no notes",
    ):  # fmt: skip
        assert words in page.text
    assert page.data["drops"] == []
    assert {metric["settings"] for metric in page.data["metrics"]} == {"any", "speed"}


def test_a_variant_that_knows_almost_nothing(make_variant: MakeCell) -> None:
    bare = {"engine": None, "environment": None, "config": None, "model_size_gb": None}
    empty = dict.fromkeys(("mean_latency_s", "tokens_per_second", "ttft_s", "tpot_s", "output_tokens", "weights_gb"))
    variants = [
        make_variant(energy=None, head=bare, performance={**empty, "mean_peak_mem_mb": 5.0, "batch_size": None})
    ]
    page = Page(report_html(data_of(variants)))
    assert [metric["key"] for metric in page.data["metrics"]] == ["mean_peak_mem_mb"]
    assert (page.data["x"], page.data["y"]) == (None, "mean_peak_mem_mb")
    assert "The records do not say where or how they were measured" in page.text


def test_rows_and_variants_must_fit(three: list[Variant]) -> None:
    with pytest.raises(ValueError, match="one variant a row"):
        report_html(replace(data_of(three), variants=three[:2]))


def test_only_the_tasks_asked_for_are_shown(make_variant: MakeCell) -> None:
    data = data_of([make_variant(tasks={"mmlu": 0.5, "quiz": 0.6})], tasks=("quiz", "never measured"))
    page = Page(report_html(data))
    assert page.data["tasks"] == ["quiz"]
    assert "mmlu" not in page.text


def test_the_file_stays_small_and_works_with_many_configurations(make_variant: MakeCell) -> None:
    variants = [
        make_variant(f"org/Model-{n}", precision, tasks={"mmlu": 0.5, "gsm8k": 0.4})
        for n in range(20)
        for precision in ("fp16", "int8", "int4")
    ]
    html = report_html(data_of(variants))
    page = Page(html)
    assert len(page.data["points"]) == 60
    assert sum(line[:1] == ["Model-7"] for line in page.lines) >= 3
    assert len(html.encode()) < len(report_html(data_of(variants[:1])).encode()) + 60 * 10_000
    assert html.count("plotly.js v") == 1


@pytest.mark.large
def test_thousands_of_configurations_are_told_once_each_way(make_variant: MakeCell) -> None:
    one = make_variant(tasks={"mmlu": {"accuracy": 0.5, "subtasks": {"law": {"acc,none": 0.5, "num_items": 3}}}})
    variants = [replace(one, model=f"org/M{n}", directory=one.directory / str(n)) for n in range(1500)]
    data = ReportData("Many", rows_of(variants), variants, evidence.Evidence({}, {}))
    page = Page(report_html(data))
    assert len(page.data["points"]) == 1500
    assert sum(line[:1] == ["law"] for line in page.lines) == details.MAX_MODELS
    assert f"The subjects of {1500 - details.MAX_MODELS} further models" in page.text
    assert page.data["max_drops"] < 100
    ((labels, _),) = environments.environments(data.rows, variants).groups
    assert len(labels) == 1500


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12345.6, "12,346"), (123.45, "123.5"), (1.2345, "1.23"), (0.012345, "0.0123"), (-0.5, "-0.500"),
     (1e-9, "1.00e-09")],
)  # fmt: skip
def test_figures_keep_the_digits_that_count(value: float, text: str) -> None:
    assert numbers.figure(value) == text


def test_an_interval_is_half_its_width_with_the_digits_of_its_number() -> None:
    assert numbers.plus_minus(6.29, (6.22, 6.36)) == "±0.07"
    assert numbers.plus_minus(6.29, (6.2875, 6.2925)) == "±0.00250"  # never shown as none
    row = {"quiz": 0.5, "quiz_stderr": 0.02, "tpot_s": 0.004, "tpot_s_ci95_low": 0.003, "tpot_s_ci95_high": 0.006}
    assert numbers.measured(row, "quiz", numbers.PERCENT).plus_minus == "±3.9"
    assert numbers.measured(row, "tpot_s", 1000).title == "95 % interval 3.00 to 6.00"
    for missing in (None, float("nan"), True, "x"):
        assert numbers.measured({"tpot_s": missing}, "tpot_s") == numbers.ABSENT


def test_marks_say_what_is_wrong_with_a_number(three: list[Variant]) -> None:
    data = data_of(three)
    table = overview.comparison_table(data.rows, ("quiz",), marker_of(data))
    headers = [column.header for column in table.columns]
    words = {
        (data.rows[n]["precision"], header): [mark.word for mark in value.marks]
        for n, line in enumerate(table.rows)
        for header, value in zip(headers, line, strict=True)
    }
    assert words["int8", "amortised latency, ms"] == ["confounded"]
    assert words["int8", "TPOT, ms"] == []
    assert words["int8", "quiz, %"] == ["degraded"]
    assert [mark.word for mark in table.marks] == ["confounded", "degraded"]
    assert "KV cache, tokens" in table.absent


def test_emulated_kernels_and_other_hardware_mark_speed_but_not_size(make_variant: MakeCell) -> None:
    other = {"environment": {"cpu": "Other CPU", "gpus": []}, "kernels": "emulated"}
    data = data_of([make_variant(), make_variant(precision="int8", head=other)])
    table = overview.comparison_table(data.rows, (), marker_of(data))
    line = dict(zip([column.header for column in table.columns], table.rows[1], strict=True))
    assert [mark.word for mark in line["TPOT, ms"].marks] == ["emulated", "other setting"]
    assert [mark.word for mark in line["J/output token"].marks] == ["emulated", "other setting"]
    assert line["weights on disk, GiB"].marks == ()
    page = Page(report_html(data))
    assert "hardware Other CPU against Test GPU, Test CPU" in page.text
    assert "settings, which are not compared with each other" in page.text


def test_caveats_come_in_words_the_gravest_first(three: list[Variant]) -> None:
    data = data_of(three, problems=("a.json: skipped",))
    found = concerns.concerns(data.rows, marker_of(data), settings_of(data.rows, ("quiz",)), data.impact, data.problems)
    tones = [concern.tone for concern in found]
    assert tones == sorted(tones, key=("bad", "warn", "note").index)
    by_word = {concern.word: concern for concern in found}
    assert by_word["unreadable"].text == "a.json: skipped"
    assert by_word["invalid"].text == "energy does not count: window of 1 s is under 2 s"
    assert by_word["confounded"].variants == ("Tiny int8",)
    assert "50.0 output tokens a request against 100.0" in by_word["confounded"].text


def test_an_underpowered_drop_is_told_with_the_items_it_would_take(make_variant: MakeCell) -> None:
    first, second = outcomes(40, right=30, lost=2, gained=1)
    variants = [
        make_variant(
            precision=precision, tasks={"quiz": {"accuracy": sum(scores) / 40, "num_items": 40}},
            samples={"quiz": items(scores)},
        )
        for precision, scores in (("fp16", first), ("int8", second))
    ]  # fmt: skip
    data = data_of(variants)
    (found,) = (c for c in concerns.concerns(data.rows, marker_of(data), (), (), ()) if c.word == "underpowered")
    assert found.text.startswith("quiz: 40 items cannot tell a drop of 1 pp from none (drop +2.5 pp, ")
    assert re.search(r"it would take about [\d,]+ items$", found.text)
    (drop,) = charts.chart_data(data.rows, ("quiz",), marker_of(data), ())["drops"]
    assert (drop["verdict"], drop["drop"], drop["items"]) == ("underpowered", 2.5, 40)
    assert drop["low"] < 0 < drop["high"]


def test_items_that_may_not_be_paired_say_why(make_variant: MakeCell) -> None:
    variants = [make_variant(precision=precision, tasks={"quiz": 0.5, "mmlu": 0.5}) for precision in ("fp16", "int8")]
    data = data_of(variants)
    (found,) = (c for c in concerns.concerns(data.rows, marker_of(data), (), (), ()) if c.word == "not paired")
    assert found.text == "mmlu, quiz: fp16 has no outcomes of single items"
    headers, fields = impact.impact_table(data.impact, data.rows, ("quiz",), marker_of(data))
    drop = fields[0][headers.index("quiz drop, pp")]
    assert (drop.text, drop.plus_minus) == ("+0.0", "unpaired")


def test_the_noise_floor_is_shown_and_marks_what_is_below_it(make_variant: MakeCell) -> None:
    variants = [make_variant(write=True), make_variant(precision="int8", performance={"tpot_s": 0.0041}, write=True)]
    floor = NoiseRecord(
        model="org/Tiny", precision="fp16", timestamp="t", engine="vllm", hardware="Test GPU, Test CPU", batch_size=8,
        max_new_tokens=100, prompt_tokens=12.0, metrics={"tpot_s": FloorEntry(values=(0.004, None), floor=0.05)},
        tasks={"quiz": FloorEntry(values=(0.5, 0.51), floor=1.0)}, flips={"quiz": 0.1},
    )  # fmt: skip
    write_noise(variants[0].directory.parent, floor)
    page = Page(report_html(data_of(variants)))
    assert ["Tiny", "fp16", "TPOT, ms", "±5.0 %", "4.00, not measured"] in page.lines
    assert ["Tiny", "fp16", "quiz, %", "±1.0 pp; 10.0 % of the answers changed", "50.00, 51.00"] in page.lines
    (tpot,) = (metric for metric in page.data["metrics"] if metric["key"] == "tpot_s")
    assert tpot["marks"] == {"1": ["within noise"]}
    assert tpot["values"] == [4.0, 4.1]


def test_the_impact_keeps_intervals_marks_and_reasons(three: list[Variant]) -> None:
    data = data_of(three)
    headers, fields = impact.impact_table(data.impact, data.rows, ("quiz",), marker_of(data))
    int8, int4 = (dict(zip(headers, line, strict=True)) for line in fields)
    assert int8["TPOT speed-up"].text == "2.00x"
    assert [mark.word for mark in int8["amortised-latency ratio"].marks] == ["confounded"]
    assert int8["quiz drop, pp"].text == "+14.0"
    assert re.fullmatch(r"\(\+\d+\.\d to \+\d+\.\d\)", int8["quiz drop, pp"].plus_minus)
    assert int4["energy saved, %"].absent
    assert "marked invalid" in int4[headers[-1]].text
    assert int4["quiz drop, pp"] == numbers.ABSENT


def test_subjects_stand_beside_each_other_by_precision(make_variant: MakeCell) -> None:
    def task(value: float) -> dict[str, Any]:
        subject = {"acc,none": value, "acc_stderr,none": 0.05, "num_items": 100}
        return {
            "mmlu": {
                "accuracy": value,
                "subtasks": {"law": subject, "art": {"num_items": 7}},
                "task_versions": {"mmlu": 2},
            }
        }

    data = data_of([make_variant(tasks=task(0.5)), make_variant(precision="int8", tasks=task(0.47))])
    (detail,) = details.task_details(data.rows, data.variants, ("mmlu", "never"), marker_of(data))
    (subjects,) = detail.subjects
    assert subjects.headers == ("subject", "items", "fp16", "int8", "int8 - fp16")
    law, art = subjects.rows
    assert [value.text for value in law] == ["law", "100", "50.0", "47.0", "-3.0"]
    assert law[2].plus_minus == "±9.8"
    assert [value.text for value in art] == ["art", "7", *["not measured"] * 3]
    line = dict(zip(detail.headers, detail.rows[1], strict=True))
    assert (line["version"].text, line["few-shot"].text, line["items"].text) == ("2", "5", "400")
    assert "chat template" in detail.absent


def test_settings_keep_apart_what_was_measured_differently(make_variant: MakeCell) -> None:
    variants = [
        make_variant("org/A"),
        make_variant("org/B", performance={"prompt_tokens": 14.0}),  # another tokenizer, the same prompt
        make_variant("org/C", performance={"batch_size": 1}, tasks={"quiz": {"accuracy": 0.5, "num_fewshot": 0}}),
        make_variant("org/D", performance=None, tasks={"quiz": 0.5}),
    ]
    speed, energy, quiz = settings_of(rows_of(variants), ("quiz",))
    assert speed.members == (0, 0, 1, None)
    assert speed.counts == (2, 1)
    assert "batch size 1 against 8" in speed.differences
    assert speed.labels == tuple(f"vllm, Test GPU, Test CPU, batch size {size}" for size in (8, 1))
    assert speed.words[0].startswith("vllm, Test GPU, Test CPU, batch size 8, output length setting 100")
    assert (energy.members, energy.differences) == ((0, 0, 0, 0), "")
    assert quiz.members == (None, None, 0, 1)
    assert "few-shot examples of quiz 5 against 0" in quiz.differences


def test_what_was_not_recorded_is_not_called_one_setting(make_variant: MakeCell) -> None:
    bare = {"engine": None, "environment": None, "config": None}
    variants = [make_variant(f"org/{name}", head=bare, performance={"batch_size": None}, energy=None) for name in "AB"]
    speed, _ = settings_of(rows_of(variants), ())
    assert not speed.recorded
    page = Page(report_html(data_of(variants)))
    assert "the records do not say in which setting it was measured" in page.text
    assert "no engine, hardware or setting was recorded" in page.text
    assert page.data["settings"]["speed"]["recorded"] is False


def test_environments_tell_what_is_the_same_and_what_differs(make_variant: MakeCell) -> None:
    newer = {"environment": {"cpu": "Test CPU", "gpus": [{"name": "Test GPU"}], "packages": {"torch": "2.9"}}}
    older = {"environment": {"cpu": "Test CPU", "gpus": [{"name": "Test GPU"}], "packages": {"torch": "2.8"}}}
    variants = [make_variant("org/A", head=newer), make_variant("org/B", head=older), make_variant("org/C", head=older)]
    found = environments.environments(rows_of(variants), variants)
    assert found.differing == ("packages · torch",)
    assert found.groups == ((("A fp16",), ("2.9",)), (("B fp16", "C fp16"), ("2.8",)))
    assert ("cpu", "Test CPU") in found.common
    assert ("gpus", "Test GPU") in found.common


def test_the_frontier_is_told_with_what_it_rests_on(three: list[Variant]) -> None:
    rows = rows_of(three)
    wanted = objectives.parse_objectives("mean_latency_s:min model_size_gb:min", rows)
    made = objectives.frontier(rows, wanted)
    data = data_of(three, frontier=made, objectives=wanted)
    told = dict(standing.standing(rows, made, wanted, marker_of(data)))
    assert "Tiny int8 (confounded)" in {label for labels in told.values() for label in labels}
    (reservation,) = standing.reservations(rows, made, wanted, settings_of(rows, ()))
    assert "lengths differ (50 to 100 tokens): it compares different work" in reservation
    page = Page(report_html(data))
    assert "by the point values alone, as no interval is known" in page.text
    assert "amortised latency, ms (less is better)" in page.text


def test_a_frontier_over_several_settings_says_so(make_variant: MakeCell) -> None:
    variants = [make_variant("org/A"), make_variant("org/B", performance={"batch_size": 1})]
    rows = rows_of(variants)
    wanted = objectives.parse_objectives("tpot_s", rows)
    settings = settings_of(rows, ())
    (mixed,) = standing.reservations(rows, objectives.frontier(rows, wanted), wanted, settings)
    assert "compared though speed was measured in several settings" in mixed
    (apart,) = standing.reservations(rows, objectives.frontier(rows, wanted, ["a", "b"]), wanted, settings)
    assert apart == "Configurations of 2 settings, each compared only within its own."


def test_the_published_results_are_told_with_all_their_faults(published: Path) -> None:
    variants = [variant for variant in find_results(published).variants if variant.records]
    rows = rows_of(variants)
    wanted = objectives.default_objectives(rows)
    page = Page(report_html(data_of(variants, frontier=objectives.frontier(rows, wanted), objectives=wanted)))
    assert "13 configurations of 5 models" in page.text
    for words in (
        "the latency ratio 2.18x compares different work; per token it is 1.28x", "amortised", "reserved memory",
        "HellaSwag is plain accuracy", "no intervals and no outcomes of single items were kept", "unpaired",
        "whether a difference is more than chance cannot be told",
    ):  # fmt: skip
        assert words in page.text
    assert page.data["drops"] == []
    assert page.data["x"] == "tokens_per_second"
    assert set(tasks_of(rows[0])) == {"mmlu", "gsm8k", "hellaswag"}
