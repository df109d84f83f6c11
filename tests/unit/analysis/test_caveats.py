"""Caveats on prompts: a cut prompt is seen wherever the accuracy is."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from slim_eval.analysis.caveats import GRID, PROMPTS, ZEROS, find_caveats, marks_of
from slim_eval.analysis.comparability import obstacles
from slim_eval.analysis.report.report_tables import ReportTable, task_details
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.csv_tables import columns_of, results_table
from slim_eval.analysis.tables.terminal import comparison_table
from slim_eval.metrics import ACCURACY_MEAN, TPOT, task_metric
from slim_eval.results.store import find_results
from slim_eval.results.variants import Variant, labelled

MakeVariant = Callable[..., Variant]
WHOLE = {"accuracy": 0.7, "max_model_len": 512, "truncated_requests": 0, "prompts_without_turns": 0}


def _pair(make_variant: MakeVariant, **changes: Any) -> tuple[Variant, Variant]:
    return (
        make_variant("org/Tiny", "fp16", tasks={"quiz": WHOLE}),
        make_variant("org/Tiny", "int8", tasks={"quiz": WHOLE | changes}),
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"truncated_requests": 1500},
            "quiz: 1,500 prompts were cut from the left to the context window of 512 tokens",
        ),
        ({"prompts_without_turns": 3}, "quiz: 3 prompts lack a turn that the chat template drops"),
    ],
)
def test_altered_prompts_are_marked_everywhere(make_variant: MakeVariant, changes: dict[str, Any], words: str) -> None:
    whole, altered = _pair(make_variant, **changes)
    (caveat,) = [caveat for caveat in find_caveats([whole, altered]) if caveat.kind is PROMPTS]
    assert (caveat.text, caveat.variants) == (words, (altered.label,))
    study = Study([whole, altered], ["quiz"])
    whole, altered = (replace(variant, mean_tasks=("quiz",)) for variant in study.variants)
    for metric in (task_metric("quiz"), ACCURACY_MEAN):
        assert PROMPTS in marks_of(metric, altered, whole)
        assert PROMPTS not in marks_of(metric, whole, None)
    assert PROMPTS not in marks_of(TPOT, altered, whole)
    out = Console(file=io.StringIO(), width=200)
    out.print(comparison_table(study, width=200))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert f"70.0{PROMPTS.sign}" in text
    assert f"{PROMPTS.sign} {PROMPTS.meaning}" in text
    (count,) = changes.values()
    (detail,) = task_details(study)
    column = "prompts cut" if "truncated_requests" in changes else "prompts without a turn"
    assert _column(detail.table, column) == ["0", f"{count:,}"]
    (name,) = changes
    assert list(results_table(study)[f"quiz_{name}"]) == [0, count]


def test_whole_prompts_are_not_marked(make_variant: MakeVariant) -> None:
    study = Study(_pair(make_variant), ["quiz"])
    out = Console(file=io.StringIO(), width=200)
    out.print(comparison_table(study, width=200))
    assert PROMPTS.sign not in out.file.getvalue()  # type: ignore[attr-defined]
    (detail,) = task_details(study)
    assert not [column for column in results_table(study) if "truncated" in column or "turns" in column]
    assert {"prompts cut", "prompts without a turn"} <= set(detail.table.absent)


def test_a_limit_may_be_a_number_or_a_share(make_variant: MakeVariant) -> None:
    whole, share = _pair(make_variant, limit=0.1)
    _, number = _pair(make_variant, limit=1000)
    (detail,) = task_details(Study([number, share], ["quiz"]))
    assert _column(detail.table, "limit") == ["1,000 per subtask", "10 % of each subtask"]
    assert columns_of(share, ["quiz"])["quiz_limit"] == 0.1
    assert obstacles(task_metric("quiz"), share, number) == ["limit 0.1 against 1000"]
    assert obstacles(task_metric("quiz"), share, whole) == ["limit 0.1 against all items"]


def _column(table: ReportTable, header: str) -> list[str]:
    place = table.headers.index(header)
    return [row[place].text for row in table.rows]


def test_zeros_of_the_predecessor_are_named_once_and_compared_with_nothing(tmp_path: Path) -> None:
    for precision, accuracy in (("fp16", 0.6), ("int8", 0.0), ("int4", 0)):
        folder = tmp_path / "m" / f"m_{precision}"
        folder.mkdir(parents=True)
        for task in ("mmlu", "gsm8k"):
            content = {"model": "m", "precision": precision, "task": task, "accuracy": accuracy}
            (folder / f"{task}.json").write_text(json.dumps(content), encoding="utf-8")
    base, *failed = labelled(find_results(tmp_path).variants)
    (caveat,) = [caveat for caveat in find_caveats([base, *failed]) if caveat.kind is ZEROS]
    assert caveat.text.startswith("gsm8k, mmlu: stored as 0")
    assert caveat.variants == ("m int8", "m int4")
    for variant in failed:
        assert variant.estimate("mmlu") is None
        assert obstacles(task_metric("mmlu"), variant, base) == [f"not measured at {variant.precision}"]


def test_16_bit_weights_on_a_4_bit_grid_are_named_once_and_only_if_they_are(make_variant: MakeVariant) -> None:
    on_grid = [make_variant("org/Tiny", name, head={"source_grid_bits": 4}) for name in ("fp16", "int4")]
    plain = make_variant("org/Other", "fp16")
    (found,) = [caveat for caveat in find_caveats(labelled([*on_grid, plain])) if caveat.kind is GRID]
    assert found.variants == ("Tiny fp16", "Tiny int4")
    assert "int4 results are of weights that were in 4 bit before" in found.text
