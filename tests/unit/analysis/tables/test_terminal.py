"""The comparison table on the terminal."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.terminal import comparison_table
from slim_eval.results.records import FloorEntry, NoiseRecord
from slim_eval.results.variants import Variant


def show(variants: Sequence[Variant], width: int = 250, **options: Any) -> str:
    out = Console(file=io.StringIO(), width=width, legacy_windows=False)
    out.print(comparison_table(Study.of(variants), width=width, **options))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def lines_of(text: str, precision: str) -> list[list[str]]:
    """Variants of the lines of one precision."""
    found = [[variant.strip() for variant in line.strip(" │").split("│")] for line in text.splitlines() if "│" in line]
    return [line for line in found if precision in line]


def three(make_variant: Callable[..., Variant]) -> list[Variant]:
    return [
        make_variant(tasks={"mmlu": 0.8, "gsm8k": 0.5}),
        make_variant(precision="int8", energy={"valid": False}, tasks={"mmlu": 0.7999, "gsm8k": 0.55}),
        make_variant(
            precision="int4", performance=None, energy=None, tasks={"mmlu": {"accuracy": 0.6, "stderr": None}}
        ),
    ]


def test_one_row_a_precision_with_a_dash_where_nothing_was_measured(make_variant: Callable[..., Variant]) -> None:
    text = show(three(make_variant))
    assert text.splitlines()[0].strip() == "Tiny"
    ((*fp16,), (*int8,), (*int4,)) = (lines_of(text, p)[0] for p in ("fp16", "int8", "int4"))
    assert fp16 == [
        "fp16", "vllm", "20.0", "4.00", "500.0", "200.0", "4.000", "2.000", "2.00", "0.500", "80.0 ±1.0", "50.0 ±1.0",
    ]  # fmt: skip
    assert int8[-3:] == ["0.500 (invalid)", "80.0 ±1.0 (+0.0)", "55.0 ±1.0 (+5.0)"]
    assert int4 == ["int4", "vllm", "-", "-", "-", "-", "4.000", "-", "-", "-", "60.0 (-20.0)", "-"]


def test_columns_without_any_value_are_left_out(make_variant: Callable[..., Variant]) -> None:
    text = show([make_variant(energy=None, performance={"ttft_s": None})])
    assert "TTFT" not in text
    assert "J/token" not in text
    assert "(pp)" not in text
    assert "TPOT" in text


@pytest.mark.parametrize("width", [250, 120, 100, 80, 60])
def test_nothing_is_cut_in_a_narrow_terminal(width: int, make_variant: Callable[..., Variant]) -> None:
    variants = [
        *three(make_variant),
        make_variant("org/A-much-longer-model-name-7B-Instruct-v0.3", tasks={"mmlu": 0.25}),
    ]
    wide, text = show(variants), show(variants, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for precision in ("fp16", "int8", "int4"):
        # Parts of a cell may be below each other: every word of a row is in the block of its precision.
        shown = set(re.findall(r"[^\s│]+", text))
        assert {word for field in lines_of(wide, precision)[0] for word in field.split()} <= shown


def test_drops_are_shown_against_the_same_model_only_where_comparable(make_variant: Callable[..., Variant]) -> None:
    variants = [
        make_variant("a/A", tasks={"mmlu": 0.9}), make_variant("b/B", tasks={"mmlu": 0.5}),
        make_variant("b/B", "int8", tasks={"mmlu": 0.4}), make_variant("c/C", "int4", tasks={"mmlu": 0.4}),
        make_variant("a/A", "int2", tasks={"mmlu": {"accuracy": 0.4, "metric": "acc_norm,none"}}),
    ]  # fmt: skip
    text = show(variants)
    assert lines_of(text, "int8")[0][-1] == "40.0 ±1.0 (-10.0)"
    assert lines_of(text, "int4")[0][-1] == "40.0 ±1.0"
    assert lines_of(text, "int2")[0][-1] == "40.0 ±1.0"


def test_tasks_can_be_chosen_and_an_empty_table_is_a_table(make_variant: Callable[..., Variant]) -> None:
    assert "mmlu" not in show(three(make_variant), tasks=["gsm8k"])
    assert show([]).strip() == ""


def test_a_name_with_brackets_is_shown_as_it_is(make_variant: Callable[..., Variant]) -> None:
    text = show([make_variant("a/T[red]"), make_variant("b/T[red]")])
    assert "a/T[red]" in text
    assert "b/T[red]" in text


def test_the_table_needs_neither_pandas_nor_matplotlib() -> None:
    script = (
        "import sys; import slim_eval.analysis; from slim_eval.analysis.study import Study; "
        "from slim_eval.analysis.tables import terminal; "
        "terminal.comparison_table(Study.of([])); "
        "print([name for name in ('pandas', 'matplotlib', 'numpy', 'torch') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_energy_that_was_disturbed_is_called_invalid_not_missing(make_variant: Callable[..., Variant]) -> None:
    variants = [
        make_variant(),
        make_variant(precision="int8", energy={"valid": False, "joules_per_output_token": None}),
    ]
    assert lines_of(show(variants), "int8")[0][-1] == "invalid"


def test_what_is_within_noise_is_grey_and_said(make_variant: Callable[..., Variant]) -> None:
    variants = [make_variant(), make_variant(precision="int8", performance={"tpot_s": 0.0041})]
    out = Console(file=io.StringIO(), width=250, force_terminal=True, color_system="standard")
    floor = NoiseRecord(
        model="org/Tiny", precision="fp16", timestamp="", metrics={"tpot_s": FloorEntry(values=(), floor=0.05)}
    )
    study = replace(Study.of(variants), noise={variant.directory: floor for variant in variants})
    out.print(comparison_table(study, width=250))
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue()
    assert "\x1b[90m4.10\x1b[0m" in text
    assert "\x1b[90m4.00" not in text
    assert "noise floor" in text
    assert "noise floor" not in show(variants)
