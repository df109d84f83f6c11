"""The tables that were published with SLiM-Eval 0.1.3, out of the files that were published with it."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pandas as pd
import pytest

from slim_eval.analysis import load_results
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.csv_tables import quantization_impact, results_table
from slim_eval.results.store import find_results
from tests.unit.analysis.tables.test_tables import records_of

# Latency ms, tokens/s, energy kWh, then MMLU, GSM8K, HellaSwag in %.
RESULTS = {
    ("Llama-3.2-3B-Instruct", "fp16"): "215.2 1189.2 0.021 60.5 67.8 52.8",
    ("Llama-3.2-3B-Instruct", "int8"): "98.9 1517.1 0.014 60.5 67.2 52.8",
    ("Llama-3.2-3B-Instruct", "int4"): "132.2 1936.1 0.011 58.8 60.1 52.0",
    ("Phi-3-mini-4k-instruct", "fp16"): "237.8 1076.7 0.021 70.5 79.8 60.0",
    ("Phi-3-mini-4k-instruct", "int8"): "179.6 1425.1 0.012 69.5 72.6 59.6",
    ("Phi-3-mini-4k-instruct", "int4"): "236.1 1084.2 0.011 68.3 71.8 58.5",
    ("Qwen2.5-3B-Instruct", "fp16"): "145.8 1186.3 0.017 66.4 65.7 56.0",
    ("Qwen2.5-3B-Instruct", "int8"): "147.8 811.9 0.015 65.6 64.9 55.2",
    ("Qwen2.5-3B-Instruct", "int4"): "152.7 1583.0 0.011 64.2 53.5 54.9",
    ("Mistral-7B-Instruct-v0.3", "fp16"): "183.3 714.7 0.038 61.8 50.0 65.9",
    ("Mistral-7B-Instruct-v0.3", "int8"): "126.4 989.2 0.021 61.7 47.1 65.7",
    ("Mistral-7B-Instruct-v0.3", "int4"): "112.7 1420.5 0.014 60.6 45.5 65.4",
    ("gemma-3-4b-it", "fp16"): "259.8 966.2 0.027 58.4 76.4 56.0",
}
# Speed-up, energy reduction in %, then the drops of MMLU, GSM8K, HellaSwag in % of the 16-bit accuracy.
IMPACT = {
    ("Llama-3.2-3B-Instruct", "int8"): "2.18 35.3 0.05 0.89 -0.08",
    ("Llama-3.2-3B-Instruct", "int4"): "1.63 49.1 2.89 11.30 1.57",
    ("Mistral-7B-Instruct-v0.3", "int8"): "1.45 45.0 0.16 5.77 0.36",
    ("Mistral-7B-Instruct-v0.3", "int4"): "1.63 62.6 1.98 8.95 0.73",
    ("Phi-3-mini-4k-instruct", "int8"): "1.32 45.7 1.38 9.03 0.66",
    ("Phi-3-mini-4k-instruct", "int4"): "1.01 50.6 3.16 9.98 2.49",
    ("Qwen2.5-3B-Instruct", "int8"): "0.99 12.6 1.20 1.15 1.55",
    ("Qwen2.5-3B-Instruct", "int4"): "0.95 35.0 3.30 18.48 1.99",
}
# What the latency ratio hides: tokens a request differ by more than 1 %; the ratio of throughput says what is left.
PER_TOKEN = {
    ("Llama-3.2-3B-Instruct", "int8"): (True, "1.28"),
    ("Llama-3.2-3B-Instruct", "int4"): (False, "1.63"),
    ("Qwen2.5-3B-Instruct", "int8"): (True, "0.68"),
    ("Qwen2.5-3B-Instruct", "int4"): (True, "1.33"),
    ("Mistral-7B-Instruct-v0.3", "int8"): (True, "1.38"),
    ("Mistral-7B-Instruct-v0.3", "int4"): (True, "1.99"),
}


@pytest.fixture(scope="module")
def frame(published: Path) -> pd.DataFrame:
    return load_results(published)


@pytest.fixture(scope="module")
def study(published: Path) -> Study:
    return Study.of(find_results(published).variants)


def percent(share: float) -> str:
    """One digit, as published: rounded to two digits first and then again, half up (59.948 became 59.95, then 60.0)."""
    twice = Decimal(str(share * 100)).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return str(twice.quantize(Decimal("0.1"), ROUND_HALF_UP))


def test_the_results_table_to_the_digits_shown(study: Study) -> None:
    made = {
        (row["name"], row["precision"]): " ".join([
            f"{row['mean_latency_s'] * 1000:.1f}", f"{row['tokens_per_second']:.1f}", f"{row['energy_kwh']:.3f}",
            *(percent(row[task]) for task in ("mmlu", "gsm8k", "hellaswag")),
        ])
        for row in records_of(results_table(study))
    }  # fmt: skip
    assert made == RESULTS


def test_the_impact_table_to_the_digits_shown(study: Study) -> None:
    made = {
        (row["name"], row["precision"]): " ".join([
            f"{row['speedup']:.2f}", f"{row['energy_reduction_percent']:.1f}",
            *(f"{row[f'{task}_drop_percent']:.2f}" for task in ("mmlu", "gsm8k", "hellaswag")),
        ])
        for row in records_of(quantization_impact(study))
    }  # fmt: skip
    assert made == IMPACT


def test_what_the_published_table_cannot_support_is_flagged(study: Study) -> None:
    rows = {(row["name"], row["precision"]): row for row in records_of(quantization_impact(study))}
    for key, (confounded, ratio) in PER_TOKEN.items():
        assert (rows[key]["length_confounded"], f"{rows[key]['per_token_speedup']:.2f}") == (confounded, ratio), key
        assert rows[key]["energy_basis"] == "whole run; output lengths not known"
        assert rows[key]["not_comparable"] is None


def test_tokens_a_request_come_out_of_latency_and_throughput(frame: pd.DataFrame) -> None:
    tokens = {(row["name"], row["precision"]): row["tokens_per_request"] for row in records_of(frame)}
    assert round(tokens["Llama-3.2-3B-Instruct", "fp16"], 1) == 256.0
    assert round(tokens["Llama-3.2-3B-Instruct", "int8"], 1) == 150.0
    assert round(tokens["Mistral-7B-Instruct-v0.3", "int4"], 1) == 160.1


def test_every_published_variant_is_in_the_tidy_table(frame: pd.DataFrame) -> None:
    assert len(frame) == 13
    assert frame["model"].nunique() == 5
    assert set(frame["hellaswag_metric"]) == {"acc"}
    assert frame["engine"].isna().all()
    assert frame["mmlu_stderr"].isna().all()
