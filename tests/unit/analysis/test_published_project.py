"""The published results that come with the project: the printed figures, their source, and what follows from them."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from slim_eval.analysis import analyze, load_results
from slim_eval.analysis.caveats import find_caveats
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.csv_tables import quantization_impact
from slim_eval.config import AnalysisConfig
from slim_eval.results.store import find_results, read_record
from slim_eval.results.variants import Variant
from tests.unit.analysis.tables.test_tables import records_of
from tests.unit.analysis.test_published import IMPACT, PER_TOKEN, RESULTS, percent

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "outputs" / "published-a100"
TASKS = ("mmlu", "gsm8k", "hellaswag")
# Parameters and size at 16 bit, as printed.
MODELS = {
    "Qwen2.5-3B-Instruct": (2.43, 5.75), "Llama-3.2-3B-Instruct": (3.96, 5.98), "Phi-3-mini-4k-instruct": (3.82, 7.12),
    "gemma-3-4b-it": (4.30, 8.64), "Mistral-7B-Instruct-v0.3": (6.71, 13.50),
}  # fmt: skip
# Half a unit of the last digit: of ms, kWh and %; percentages were rounded twice, which may add half a hundredth.
HALF_MS, HALF_KWH, HALF_PERCENT = 0.05, 0.0005, 0.055


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return load_results(FOLDER)


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.of(find_results(FOLDER).variants)


@pytest.fixture(scope="module")
def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return records_of(frame)


def test_every_printed_figure_stands_in_a_file(frame: pd.DataFrame) -> None:
    made = {
        (row["name"], row["precision"]): " ".join([
            f"{row['mean_latency_s'] * 1000:.1f}", f"{row['tokens_per_second']:.1f}", f"{row['energy_kwh']:.3f}",
            *(percent(row[task]) for task in TASKS),
        ])
        for row in records_of(frame)
    }  # fmt: skip
    assert made == RESULTS
    sizes = {
        row["name"]: (row["num_parameters_b"], row["model_size_gb"])
        for row in records_of(frame)
        if row["precision"] == "fp16"
    }
    assert sizes == MODELS
    assert all(row["model_size_gb"] is None for row in records_of(frame) if row["precision"] != "fp16")


def test_joules_are_those_of_the_printed_kilowatt_hours(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["energy_joules"] == pytest.approx(row["energy_kwh"] * 3.6e6, rel=1e-12)
        assert row["energy_per_query_j"] * row["energy_num_runs"] == pytest.approx(row["energy_joules"], rel=1e-12)


def test_the_files_are_of_today_name_their_source_and_leave_the_rest_open() -> None:
    paths = sorted(FOLDER.rglob("*.json"))
    assert len(paths) == 13 * 5
    for path in paths:
        record = read_record(path)
        assert record.schema_version == 1
        assert "SLiM-Eval's README (December 2025, MIT licence" in record.notes[0]
        assert record.environment == {"gpus": [{"name": "NVIDIA A100"}]}
        assert (record.engine, record.timestamp, record.config) == (None, None, None)
        whole = record.model_dump(mode="json")
        # Keys that came later are missing, and read as not known.
        recorded = json.loads(path.read_text(encoding="utf-8"))
        assert whole | recorded == whole
        assert all(whole[key] in (None, []) for key in whole.keys() - recorded.keys())
    assert "MIT licence" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_models_are_those_of_the_hub(frame: pd.DataFrame) -> None:
    assert set(frame["model"]) == {
        "meta-llama/Llama-3.2-3B-Instruct", "microsoft/Phi-3-mini-4k-instruct", "Qwen/Qwen2.5-3B-Instruct",
        "mistralai/Mistral-7B-Instruct-v0.3", "google/gemma-3-4b-it",
    }  # fmt: skip


def corners(*values: tuple[float, float]) -> Iterator[tuple[float, ...]]:
    """All ends of numbers that are known to (value, half a unit)."""
    return itertools.product(*((value - half, value + half) for value, half in values))


def within(printed: str, digits: int, made: Iterator[float]) -> bool:
    """Whether a printed number fits what the rounded ones may come to."""
    found, half = list(made), 0.5 * 10**-digits
    return min(found) - half <= float(printed) <= max(found) + half


@pytest.mark.parametrize("key", IMPACT, ids="-".join)
def test_the_printed_changes_fit_within_the_rounding(key: tuple[str, str], rows: list[dict[str, Any]]) -> None:
    by_key = {(row["name"], row["precision"]): row for row in rows}
    this, base = by_key[key], by_key[key[0], "fp16"]
    speedup, energy, *drops = IMPACT[key].split()
    ms = [(row["mean_latency_s"] * 1000, HALF_MS) for row in (base, this)]
    assert within(speedup, 2, (before / after for before, after in corners(*ms)))
    kwh = [(row["energy_kwh"], HALF_KWH) for row in (base, this)]
    assert within(energy, 1, ((1 - after / before) * 100 for before, after in corners(*kwh)))
    for task, drop in zip(TASKS, drops, strict=True):
        shares = [(row[task] * 100, HALF_PERCENT) for row in (base, this)]
        assert within(drop, 2, ((1 - after / before) * 100 for before, after in corners(*shares))), task


def test_the_ratios_themselves_come_out_where_the_digits_carry_them(study: Study) -> None:
    made = {(row["name"], row["precision"]): row for row in records_of(quantization_impact(study))}
    assert {key: f"{made[key]['speedup']:.2f}" for key in IMPACT} == {
        key: text.split()[0] for key, text in IMPACT.items()
    }
    for key, (confounded, ratio) in PER_TOKEN.items():
        assert (made[key]["length_confounded"], f"{made[key]['per_token_speedup']:.2f}") == (confounded, ratio)


def test_rounding_is_no_excuse_for_other_numbers(rows: list[dict[str, Any]]) -> None:
    by_key = {(row["name"], row["precision"]): row for row in rows}
    this, base = by_key["Llama-3.2-3B-Instruct", "int8"], by_key["Llama-3.2-3B-Instruct", "fp16"]
    ms = [(row["mean_latency_s"] * 1000, HALF_MS) for row in (base, this)]
    assert not within("2.19", 2, (before / after for before, after in corners(*ms)))


def test_what_they_cannot_support_is_worked_out(study: Study) -> None:
    found = find_caveats(study.variants)
    assert {caveat.kind.name for caveat in found} == {
        "length", "amortised", "energy", "metric", "parameters", "no intervals", "assumed"
    }  # fmt: skip
    lengths = {caveat.variants[0] for caveat in found if caveat.kind.name == "length"}
    assert lengths == {f"{name} {precision}" for (name, precision), (confounded, _) in PER_TOKEN.items() if confounded}
    parameters = {
        caveat.variants[0].removesuffix(" fp16"): caveat.text for caveat in found if caveat.kind.name == "parameters"
    }
    assert set(parameters) == set(MODELS) - {"Phi-3-mini-4k-instruct"}
    assert "3.96 B parameters are recorded, but 5.98 GiB at 16 bit imply 3.21 B" in parameters["Llama-3.2-3B-Instruct"]


def test_the_analysis_says_what_it_cannot_conclude(tmp_path: Path) -> None:
    report = analyze(AnalysisConfig(input_dir=FOLDER, output_dir=tmp_path, plots=False))
    assert (report.num_variants, report.problems) == (13, ())
    text = " ".join((tmp_path / "findings.md").read_text(encoding="utf-8").split())
    for sentence in (
        "13 variants of 5 models: 5 at fp16, 4 at int8, 4 at int4.",
        "Speed and energy: one setting, NVIDIA A100.",
        "the latency ratio 2.18x compares different work (150.0 output tokens per request against 255.9)",
        "Lowest amortised latency: Llama-3.2-3B-Instruct int8, 98.9 ms",
        "Confounded: mean_latency_s: 120.0 to 256.0 output tokens per request: different work",
        "Fastest per output token: Llama-3.2-3B-Instruct int4",
        "Not measured in any variant: time to first token, time per output token",
        "energy is rounded to three digits after the point of a kWh",
        "int8, drops beyond chance, of 12 judged: gsm8k Phi-3-mini-4k-instruct 7.2 pp.",
        "int4, drops beyond chance, of 12 judged: mmlu",
        "gsm8k Qwen2.5-3B-Instruct 12.2 pp, Phi-3-mini-4k-instruct 8.0 pp, Llama-3.2-3B-Instruct 7.7 pp.",
        "gsm8k drops 0.6 pp (unpaired 95 % interval -3.0 to 4.2 pp): inconclusive",
        "intervals of accuracy assume the full task (mmlu 14,042 items, gsm8k 1,319 items, hellaswag 10,042 items)",
        "whether a difference in speed or energy is beyond chance is unknown",
    ):
        assert sentence in text, sentence
    pareto = pd.read_csv(tmp_path / "pareto.csv")
    assert set(pareto["objectives"]) == {"accuracy_mean:max tokens_per_second:max energy_per_query_j:min"}
    assert pareto["excluded"].isna().all()
    assert pareto["confounded"].eq("energy_per_query_j: output lengths are not known").all()
    latex = (tmp_path / "results_table.tex").read_text(encoding="utf-8")
    assert "98.9$^{\\dag}$" in latex


def test_a_run_of_ones_own_is_set_apart_from_them(tmp_path: Path, make_variant: Callable[..., Variant]) -> None:
    own = make_variant("Qwen/Qwen2.5-3B-Instruct", "int8", tasks={"mmlu": 0.6})
    variants = [*find_results(FOLDER).variants, own]
    (row,) = [
        row for row in records_of(quantization_impact(Study.of(variants))) if row["directory"] == str(own.directory)
    ]
    assert row["speedup"] is None
    assert row["mmlu_drop_pp"] is None
    assert "engine vllm against not known" in row["not_comparable"]


def test_git_keeps_them_and_ignores_runs_of_ones_own() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    places = {
        "outputs/published-a100/x/x_fp16/performance.json": False,
        "analysis_results/published-a100/executive_summary.txt": False,
        "outputs/mine/mine_fp16/performance.json": True,
        "analysis_results/executive_summary.txt": True,
    }
    for place, ignored in places.items():
        asked = subprocess.run(["git", "check-ignore", "-q", place], cwd=ROOT, check=False)
        assert (asked.returncode == 0) == ignored, place
