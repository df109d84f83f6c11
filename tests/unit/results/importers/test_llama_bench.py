"""llama-bench: its three formats give the same records, with numbers computed again by hand."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from slim_eval.errors import ResultFileError
from slim_eval.results.importers import ImportedRecord
from slim_eval.results.importers.llama_bench import LlamaBench
from slim_eval.results.records import PerformanceMetrics
from tests.unit.results.importers import conftest

COMMON: dict[str, Any] = {
    "build_commit": "abc1234", "build_number": 5000, "cpu_info": "AMD EPYC ", "gpu_info": "NVIDIA A100",
    "backends": "CUDA",
    "model_filename": "C:\\models\\tiny-1b-instruct-Q4_K_M.gguf", "model_type": "llama 1B Q4_K - Medium",
    "model_size": 800000000, "model_n_params": 1200000000, "n_batch": 2048, "n_ubatch": 512, "n_threads": 8,
    "type_k": "f16", "type_v": "f16", "n_gpu_layers": 99, "flash_attn": False,
}  # fmt: skip


def case(prompt: int, gen: int, samples: list[int], **fields: Any) -> dict[str, Any]:
    mean = round(statistics.mean(samples))
    tokens = prompt + gen
    return {
        **COMMON, "n_prompt": prompt, "n_gen": gen, "n_depth": 0, "test_time": "2026-01-01T00:00:00Z", "avg_ns": mean,
        "stddev_ns": round(statistics.stdev(samples)), "avg_ts": tokens / mean * 1e9, "stddev_ts": 1.0,
        "samples_ns": samples, "samples_ts": [tokens / each * 1e9 for each in samples], **fields,
    }  # fmt: skip


PROMPT = case(512, 0, [70_000_000, 72_000_000, 71_000_000])
GENERATION = case(0, 128, [1_280_000_000, 1_290_000_000, 1_270_000_000])
BOTH = case(512, 128, [1_300_000_000, 1_400_000_000, 1_350_000_000])
TESTS = [PROMPT, GENERATION, BOTH]


def write(path: Path, tests: list[dict[str, Any]]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(tests, indent=2), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(test) + "\n" for test in tests), encoding="utf-8")
    else:
        columns = [key for key in tests[0] if not key.startswith("samples_")]
        with path.open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream, quoting=csv.QUOTE_ALL)
            table.writerow(columns)
            table.writerows([int(v) if isinstance(v := test[key], bool) else v for key in columns] for test in tests)
    return path


def read(path: Path) -> dict[str, ImportedRecord]:
    return {imported.label: imported for imported in conftest.read(path)}


def numbers(imported: ImportedRecord) -> PerformanceMetrics:
    assert isinstance(imported.metrics, PerformanceMetrics)
    return imported.metrics


@pytest.mark.parametrize("name", ["bench.json", "bench.jsonl", "bench.csv"])
def test_files_that_llama_bench_wrote(name: str) -> None:
    """Of two quantizations of SmolLM2-135M on a CPU, by the llama.cpp of llama-cpp-python 0.3.36; CPU not named."""
    folder = Path(__file__).parent / "llama_bench"
    text = (folder / name).read_text(encoding="utf-8")
    rows = {
        "bench.json": lambda: json.loads(text),
        "bench.jsonl": lambda: [json.loads(line) for line in text.splitlines()],
        "bench.csv": lambda: list(csv.DictReader(text.splitlines())),
    }[name]()
    found = conftest.read(folder / name)
    assert [(each.label, str(each.precision).lower()) for each in found] == [
        ("pp64", "q8_0"), ("tg16", "q8_0"), ("pp64", "q4_k_m"), ("tg16", "q4_k_m"),
    ]  # fmt: skip
    for imported, row in zip(found, rows, strict=False):
        mean_s, made = float(row["avg_ns"]) / 1e9, numbers(imported)
        assert (imported.model, made.num_runs) == ("SmolLM2-135M-Instruct", None if name.endswith("csv") else 3)
        if imported.label == "pp64":
            assert made.ttft_s == pytest.approx(mean_s, rel=1e-4)
        else:
            assert made.tpot_s == pytest.approx(mean_s / 16, rel=1e-4)
            assert made.tokens_per_second == pytest.approx(16 / mean_s, rel=1e-4), "theirs is the mean of the rates"


@pytest.mark.parametrize("name", ["bench.json", "bench.jsonl", "bench.csv"])
def test_each_test_is_a_record_in_every_format(tmp_path: Path, name: str) -> None:
    found = read(write(tmp_path / name, TESTS))
    assert list(found) == ["pp512", "tg128", "pp512+tg128"]
    prompt, generation, both = (numbers(imported) for imported in found.values())
    assert prompt.ttft_s == pytest.approx(0.071)
    assert (prompt.tokens_per_second, prompt.tpot_s, prompt.prompt_tokens) == (None, None, 512)
    assert generation.tpot_s == pytest.approx(0.01)
    assert generation.tokens_per_second == pytest.approx(100.0)
    assert generation.std_tpot_s == pytest.approx(0.01 / 128, rel=1e-6)
    assert (generation.ttft_s, generation.output_tokens) == (None, 128)
    assert both.tokens_per_second == pytest.approx(128 / 1.35), "output tokens only"
    assert (both.ttft_s, both.tpot_s) == (None, None)
    assert both.mean_latency_s == pytest.approx(1.35)
    assert generation.weights_gb == pytest.approx(800e6 / 2**30)
    for imported in found.values():
        assert (imported.model, str(imported.precision).lower()) == ("tiny-1b-instruct", "q4_k_m")
        head = imported.head
        assert (head["engine"], head["engine_version"], head["num_parameters"]) == ("llama.cpp", "b5000", 1200000000)
        assert head["environment"] == {"cpu": "AMD EPYC", "gpus": [{"name": "NVIDIA A100"}]}
        assert len(imported.samples) == (0 if name.endswith("csv") else 3)


@pytest.mark.parametrize(
    ("model_type", "file", "model", "scheme"),
    [
        ("llama 7B mostly Q4_0", "models/7B/ggml-model-q4_0.gguf", "ggml-model", "q4_0"),
        ("qwen2 7B Q5_K - Small", "/m/Qwen2.5-7B-Instruct-Q5_K_S.gguf", "Qwen2.5-7B-Instruct", "q5_k_s"),
        ("llama 8B Q6_K", "a.Q6_K.gguf", "a", "q6_k"),
        ("llama 8B IQ2_XXS - 2.0625 bpw", "a-IQ2_XXS-00001-of-00002.gguf", "a", "iq2_xxs"),
        ("llama 8B F16", "a-f16.gguf", "a", "fp16"),
        ("llama 8B BF16", "a-BF16.gguf", "a", "fp16"),
        ("llama 8B all F32", "a.gguf", "a", "fp32"),
        ("unknown, may not work", "a-Q8_0.gguf", "a", "q8_0"),
        ("gpt-oss 20B MXFP4 MoE", "gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b", "mxfp4"),
        ("llama 8B", "model.gguf", "model", None),
    ],
)
def test_the_scheme_is_the_type_of_the_file(
    tmp_path: Path, model_type: str, file: str, model: str, scheme: str | None
) -> None:
    path = write(tmp_path / "bench.json", [GENERATION | {"model_type": model_type, "model_filename": file}])
    (imported,) = conftest.read(path)
    found = None if imported.precision is None else imported.precision.lower()
    assert (imported.model, found) == (model, scheme)


@pytest.mark.parametrize(
    ("types", "scheme"),
    [
        (("f16", "f16"), "fp16"),
        (("q8_0", "q8_0"), "fp16+kv-q8_0"),
        (("f16", "q4_0"), "fp16+kv-f16-q4_0"),
    ],
)
def test_a_quantized_cache_is_part_of_the_scheme(tmp_path: Path, types: tuple[str, str], scheme: str) -> None:
    test = GENERATION | {
        "model_type": "llama 8B F16", "model_filename": "a-f16.gguf", "type_k": types[0], "type_v": types[1]
    }  # fmt: skip
    file = conftest.foreign(write(tmp_path / "bench.json", [test]), precision="fp16")
    (imported,) = LlamaBench().read(file)
    assert (imported.precision, imported.record(file).precision) == (scheme, scheme)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_gen": 0}, "'n_gen' is 0, as is 'n_prompt': nothing was measured"),
        ({"avg_ns": 5}, "'avg_ns' is not the mean of 'samples_ns'"),
        ({"avg_ns": 0}, "'avg_ns' is 0"),
        ({"samples_ns": [float("inf")]}, "'samples_ns[0]' is inf"),
        ({"n_prompt": "many"}, "'n_prompt' is 'many'"),
    ],
)
def test_a_damaged_file_is_named_with_the_field(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ResultFileError) as failure:
        conftest.read(write(tmp_path / "bench.json", [GENERATION | change]))
    assert words in failure.value.cause


def test_a_table_whose_rows_do_not_fit_its_columns_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "bench.csv", [GENERATION])
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"abc1234"', '"abc1234","1"'), encoding="utf-8")
    with pytest.raises(ResultFileError, match="more columns"):
        conftest.read(path)
