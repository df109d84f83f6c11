"""A sweep joined with the accuracy of the same model: every command answers per load and never across loads."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim_eval.analysis.caveats import FAILURES, find_caveats
from slim_eval.analysis.comparability import comparable_groups
from slim_eval.analysis.findings import find
from slim_eval.analysis.loads import load_of, pairs_at, served_of, shown_at, views
from slim_eval.analysis.recommend.outcome import Ranking, to_json
from slim_eval.analysis.recommend.recommendation import recommend
from slim_eval.analysis.recommend.wording import sentences
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.serving_tables import levels_table, serving_levels
from slim_eval.cli import main
from slim_eval.config import ImportConfig, Question
from slim_eval.errors import UsageError
from slim_eval.metrics import TPOT
from slim_eval.results.importers import import_results
from slim_eval.results.records import ServingLevel, ServingRecord
from slim_eval.results.store import find_results, write_record
from slim_eval.results.variants import Variant, labelled

MakeVariant = Callable[..., Variant]


def level(concurrency: int, tpot_s: float, **more: Any) -> ServingLevel:
    label = f"concurrency-{concurrency}"
    return ServingLevel.model_validate({
        "load": f"bench, {label}", "label": label, "max_concurrency": concurrency, "tpot_s": tpot_s,
        "prompt_tokens": 100.0, "output_tokens": 50.0, "tokens_per_second": concurrency / tpot_s,
        "intervals": {"tpot_s": (tpot_s * 0.99, tpot_s * 1.01)}, "itl_s": tpot_s,
    } | more)  # fmt: skip


@pytest.fixture
def sweep(tmp_path: Path, make_variant: MakeVariant) -> Callable[..., Variant]:
    """A variant with its accuracy and levels, written to a folder."""

    def made(precision: str, accuracy: float, *levels: ServingLevel) -> Variant:
        variant = make_variant(
            "org/Tiny", precision, performance=None, energy=None, tasks={"gsm8k": accuracy}, write=True
        )
        head = {"schema_version": 1, "benchmark": "serving", "model": "org/Tiny", "precision": precision}
        write_record(variant.directory, ServingRecord(**head, levels=levels))  # type: ignore[arg-type]
        return variant

    return made


@pytest.fixture
def swept(sweep: Callable[..., Variant]) -> tuple[Path, list[Variant]]:
    """int4 is the fastest alone and the slowest under load: planted so that the loads disagree."""
    first = sweep("fp16", 0.7, level(1, 0.010), level(8, 0.020), level(32, 0.040))
    sweep("int4", 0.6, level(1, 0.005), level(8, 0.030))
    sweep("int8", 0.65, level(8, 0.015), level(32, 0.035))
    root = first.directory.parent.parent
    return root, labelled(find_results(root).variants)


def answer(ranking: Ranking) -> tuple[str | None, str]:
    assert ranking.pick is not None
    return ranking.load, ranking.pick.variant.precision


def test_recommend_answers_per_load(swept: tuple[Path, list[Variant]]) -> None:
    found = recommend(Study.of(swept[1]), Question(objective="latency", min_accuracy={"gsm8k": 0.5}))
    answers = dict(map(answer, (found.ranking, *found.others)))
    assert answers == {"concurrency-1": "int4", "concurrency-8": "int8", "concurrency-32": "int8"}
    assert found.ranking.load == "concurrency-8", "the load that most variants were measured under"
    assert "this answer is for the load concurrency-8; --load names another one" in found.caveats
    text = "\n".join(sentences(found))
    assert "Pick at load concurrency-8: " in text
    assert "At load concurrency-1: " in text
    assert [entry["load"] for entry in json.loads(to_json(found))["other_settings"]] == [
        "concurrency-1",
        "concurrency-32",
    ]


@pytest.mark.parametrize(
    ("load", "pick"), [("1", "int4"), ("8", "int8"), ("concurrency-32", "int8"), ("concurrency 8", "int8")]
)
def test_a_load_can_be_named(swept: tuple[Path, list[Variant]], load: str, pick: str) -> None:
    found = recommend(Study.of(swept[1]), Question(objective="latency", load=load))
    assert found.pick is not None
    assert found.pick.variant.precision == pick
    assert len(found.ranking.candidates) == 3, "a variant that was not measured at it is named"


def test_a_load_that_was_not_measured_is_refused(swept: tuple[Path, list[Variant]]) -> None:
    with pytest.raises(UsageError, match="--load '7'") as failure:
        recommend(Study.of(swept[1]), Question(objective="latency", load="7"))
    assert failure.value.remedy == "measured: concurrency-1; concurrency-8; concurrency-32"


def test_a_limit_on_speed_holds_at_one_load(swept: tuple[Path, list[Variant]]) -> None:
    """fp16 is the most accurate and keeps the limit alone, but not under load."""
    found = recommend(Study.of(swept[1]), Question(objective="gsm8k", max_tpot_ms=16))
    answers = dict(map(answer, (r for r in (found.ranking, *found.others) if r.pick is not None)))
    assert answers == {"concurrency-1": "fp16", "concurrency-8": "int8"}
    assert any(text.startswith("At load concurrency-32: none of") for text in sentences(found))


def test_accuracy_alone_has_no_load(swept: tuple[Path, list[Variant]]) -> None:
    found = recommend(Study.of(swept[1]), Question(objective="gsm8k"))
    assert found.ranking.load is None
    assert len(found.ranking.candidates) == 3
    assert found.others == ()


def test_levels_of_different_loads_are_in_different_groups(swept: tuple[Path, list[Variant]]) -> None:
    every = [view for variant in swept[1] for view in views(variant)]
    groups = comparable_groups(every, [TPOT])
    for members in groups.members(every).values():
        assert len({load_of(view) for view in members}) == 1
    assert len(groups.names) == 3


def test_pairs_are_of_the_same_load(swept: tuple[Path, list[Variant]]) -> None:
    fp16, int8, int4 = (next(v for v in swept[1] if v.precision == name) for name in ("fp16", "int8", "int4"))
    pairs = pairs_at(fp16, int8)
    assert [(load_of(a), load_of(b)) for a, b in pairs] == [("concurrency-8",) * 2, ("concurrency-32",) * 2]
    assert [load_of(b) for _, b in pairs_at(fp16, int4, "1")] == ["concurrency-1"]


def test_compare_has_a_table_per_load_and_its_gate_decides_each(
    swept: tuple[Path, list[Variant]], capsys: pytest.CaptureFixture[str]
) -> None:
    root = swept[0] / "Tiny"
    assert main(["compare", str(root / "Tiny_fp16"), str(root / "Tiny_int4"), "--json", "--fail-if", "tpot_s>20%"]) == 3
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert [(pair["load"], pair["metrics"]["tpot_s"]["verdict"]) for pair in content["pairs"]] == [
        ("concurrency-1", "better"), ("concurrency-8", "worse"),
    ]  # fmt: skip
    assert [list(pair["tasks"]) for pair in content["pairs"]] == [["gsm8k"], []], "accuracy is compared once"
    assert [entry["decision"] for entry in content["conditions"]] == ["does not hold", "holds"]
    assert "at concurrency-8" in err
    assert main(["compare", str(root / "Tiny_fp16"), str(root / "Tiny_int4"), "--load", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["pairs"]) == 1


def test_without_a_common_load_the_difference_is_named(
    sweep: Callable[..., Variant], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = sweep("fp16", 0.7, level(1, 0.01), level(2, 0.01)), sweep("int8", 0.7, level(4, 0.01), level(8, 0.01))
    main(["compare", str(a.directory), str(b.directory), "--json"])
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert "load bench, concurrency-4 against bench, concurrency-" in pair["metrics"]["tpot_s"]["reason"]


def test_analyze_shows_the_load_that_most_have_and_lists_all(
    swept: tuple[Path, list[Variant]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "analysis"
    assert main(["analyze", "--input-dir", str(swept[0]), "--output-dir", str(out), "--no-plots"]) == 0
    said = capsys.readouterr()
    assert "speed is shown at the load concurrency-8" in said.err
    with (out / "serving_levels.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["precision"], row["label"], float(row["tpot_s"])) for row in rows] == [
        ("fp16", "concurrency-1", 0.010), ("fp16", "concurrency-8", 0.020), ("fp16", "concurrency-32", 0.040),
        ("int8", "concurrency-8", 0.015), ("int8", "concurrency-32", 0.035),
        ("int4", "concurrency-1", 0.005), ("int4", "concurrency-8", 0.030),
    ]  # fmt: skip
    content = json.loads((out / "complete_results.json").read_text(encoding="utf-8"))
    assert {cell["load"] for cell in content["cells"]} == {"concurrency-8"}
    assert [len(cell["serving"]["levels"]) for cell in content["cells"]] == [3, 2, 2]
    assert "At load concurrency-1, lowest time per output token: Tiny int4" in " ".join(
        (out / "findings.md").read_text(encoding="utf-8").split()
    )


def test_a_variant_without_the_load_has_no_speed_beside_the_others(swept: tuple[Path, list[Variant]]) -> None:
    shown = shown_at(swept[1], "32")
    assert [(v.precision, v.number(TPOT)) for v in shown.variants] == [("fp16", 0.04), ("int8", 0.035), ("int4", None)]
    assert [variant.precision for variant in shown.left_out] == ["int4"]
    assert len(serving_levels(served_of(swept[1]))) == 7


def test_a_server_that_fails_most_requests_is_not_the_fastest(sweep: Callable[..., Variant]) -> None:
    first = sweep("fp16", 0.7, level(8, 0.020, num_runs=100))
    sweep("int8", 0.7, level(8, 0.010, num_runs=2, num_errors=98))
    sweep("int4", 0.7, level(8, 0.019, num_runs=99, num_errors=1))
    study = Study.of(labelled(find_results(first.directory.parent.parent).variants))
    found = recommend(study, Question(objective="latency"))
    assert answer(found.ranking) == ("concurrency-8", "int4")
    text = " ".join((*sentences(found), *found.caveats))
    assert "98 % of the requests failed" in text
    assert "Tiny int4: 1 of 100 requests failed at concurrency-8" in text
    said = {caveat.variants: caveat.text for caveat in find_caveats(study.variants) if caveat.kind is FAILURES}
    assert set(said) == {("Tiny int8",), ("Tiny int4",)}


def test_a_load_alone_keeps_its_failures(tmp_path: Path) -> None:
    for precision, done in (("fp16", 10), ("int8", 100)):
        path = tmp_path / f"{precision}.json"
        path.write_text(json.dumps({
            "backend": "vllm", "model_id": "org/Tiny", "num_prompts": 100, "request_rate": "inf", "max_concurrency": 8,
            "duration": 50.0, "completed": done, "total_input_tokens": 1000, "total_output_tokens": 100 * done,
            "request_throughput": done / 50, "output_throughput": 2.0 * done, "mean_ttft_ms": 9.0, "mean_tpot_ms": 5.0,
        }), encoding="utf-8")  # fmt: skip
        options = ImportConfig(paths=(path,), output_dir=tmp_path / "out", model="org/Tiny", precision=precision)
        assert len(import_results(options).paths) == 1
    failing, _ = labelled(find_results(tmp_path / "out").variants)
    assert failing.failed_share == pytest.approx(0.9)
    assert "90 % of the requests failed" in str(failing.flaw(TPOT))


def test_a_long_table_has_the_lowest_and_the_highest_load_of_each(sweep: Callable[..., Variant]) -> None:
    """All levels of a study would scroll its verdict out of sight."""
    some = [level(count, 0.01) for count in range(1, 31)]
    sweep("fp16", 0.7, *some)
    second = sweep("int8", 0.7, *some)
    root = second.directory.parent.parent

    def shown() -> tuple[list[str], str]:
        table = levels_table(served_of(labelled(find_results(root).variants)))
        return next(list(column.cells) for column in table.columns if column.header == "load"), str(table.caption)

    loads, caption = shown()
    assert len(loads) == 60
    assert "all levels" not in caption
    sweep("int4", 0.7, *some)
    loads, caption = shown()
    assert loads == [loads[0], loads[1]] * 3
    assert (loads[0], loads[1]) == ("concurrency-1", "concurrency-30")
    assert "all levels" in caption


def test_what_has_no_levels_is_unchanged(make_variant: MakeVariant) -> None:
    variants = [make_variant("org/Tiny", precision) for precision in ("fp16", "int8")]
    assert shown_at(variants).variants == tuple(variants)
    assert served_of(variants) == ()
    assert views(variants[0]) == [variants[0]]
    assert not any(section.heading == "Servers under load" for section in find(Study.of(variants)))
