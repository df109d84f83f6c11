"""optimum-benchmark's reports: files by their documented fields, numbers computed again by hand."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from slim_eval.errors import ResultFileError
from slim_eval.results.importers import ImportedRecord
from slim_eval.results.records import PerformanceMetrics
from tests.unit.results.importers import conftest

PREFILL, DECODE = [0.10, 0.11, 0.12], [0.90, 0.93, 0.96]


def latency(values: list[float]) -> dict[str, Any]:
    return {
        "unit": "s", "values": values, "count": len(values), "total": sum(values), "mean": statistics.mean(values),
        "p50": statistics.median(values), "p90": max(values), "p95": max(values), "p99": max(values),
        "stdev": statistics.pstdev(values), "stdev_": 1.0,
    }  # fmt: skip


REPORT: dict[str, Any] = {
    "load_model": {"memory": None, "latency": latency([2.5]), "throughput": None, "energy": None, "efficiency": None},
    "prefill": {
        "memory": {"unit": "MB", "max_ram": 900.0, "max_global_vram": 4000.0, "max_process_vram": 3000.0},
        "latency": latency(PREFILL), "throughput": {"unit": "samples/s", "value": 36.4}, "energy": None,
    },
    "decode": {
        "memory": {"unit": "MB", "max_ram": 950.0, "max_global_vram": 4100.0, "max_process_vram": 3145.728},
        "latency": latency(DECODE), "throughput": {"unit": "tokens/s", "value": 39.0}, "energy": None,
    },
    "per_token": {"memory": None, "latency": latency([0.1] * 27), "throughput": None, "energy": None},
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "name": "run",
    "backend": {"name": "pytorch", "version": "2.5.1", "model": "org/Tiny", "torch_dtype": "float16", "device": "cuda",
                "quantization_scheme": None, "quantization_config": {}, "hub_kwargs": {"token": "hf_SECRET"}},
    "scenario": {"name": "inference", "warmup_runs": 10, "input_shapes": {"batch_size": 4, "sequence_length": 64},
                 "generate_kwargs": {"max_new_tokens": 10, "min_new_tokens": 10}},
    "launcher": {"name": "process"},
    "environment": {"cpu": " AMD EPYC", "gpu": ["NVIDIA A100"], "optimum_benchmark_version": "0.5.0"},
}  # fmt: skip


def write(folder: Path, report: Any = REPORT, config: Any = CONFIG) -> Path:
    path = folder / "benchmark.json"
    path.write_text(json.dumps({"config": config, "report": report}), encoding="utf-8")
    return path


def read(path: Path) -> tuple[ImportedRecord, PerformanceMetrics]:
    (imported,) = conftest.read(path)
    assert imported.tool == "optimum-benchmark"
    assert isinstance(imported.metrics, PerformanceMetrics)
    return imported, imported.metrics


def test_an_iteration_is_a_batch(tmp_path: Path) -> None:
    imported, metrics = read(write(tmp_path))
    walls = [first + rest for first, rest in zip(PREFILL, DECODE, strict=True)]
    assert metrics.ttft_s == pytest.approx(0.11)
    assert metrics.tpot_s == pytest.approx(0.93 / 9)
    assert metrics.std_tpot_s == pytest.approx(statistics.stdev(DECODE) / 9)
    assert metrics.mean_latency_s == pytest.approx(statistics.mean(walls) / 4)
    assert metrics.tokens_per_second == pytest.approx(4 * 10 * 3 / sum(walls))
    assert metrics.e2e_latency_s == pytest.approx(statistics.mean(walls))
    assert (metrics.num_runs, metrics.num_iterations, metrics.num_warmup, metrics.batch_size) == (12, 3, 40, 4)
    assert (metrics.prompt_tokens, metrics.output_tokens, metrics.load_time_s) == (64, 10, 2.5)
    assert metrics.mean_peak_mem_mb == pytest.approx(3000), "10**6 bytes in the file, 2**20 here"
    assert (imported.model, imported.precision, imported.version) == ("org/Tiny", "fp16", "0.5.0")
    assert (imported.head["engine"], imported.head["dtype"]) == ("transformers", "float16")
    assert imported.head["environment"] == {"cpu": "AMD EPYC", "gpus": [{"name": "NVIDIA A100"}]}
    assert "SECRET" not in conftest.dump(tmp_path / "benchmark.json", imported)


def test_the_configuration_may_be_beside_the_report(tmp_path: Path) -> None:
    (folder := tmp_path / "other").mkdir()
    (folder / "benchmark_report.json").write_text(json.dumps(REPORT), encoding="utf-8")
    (folder / "benchmark_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    assert read(folder / "benchmark_report.json") == read(write(tmp_path))


def test_before_0_3_a_scenario_was_a_benchmark(tmp_path: Path) -> None:
    old = {key: value for key, value in CONFIG.items() if key != "scenario"} | {"benchmark": CONFIG["scenario"]}
    assert read(write(tmp_path, config=old)) == read(write(tmp_path))


def test_a_quantized_model_is_not_fp16(tmp_path: Path) -> None:
    backend = CONFIG["backend"] | {"quantization_scheme": "gptq", "quantization_config": {"bits": 4}}
    imported, _ = read(write(tmp_path, config=CONFIG | {"backend": backend}))
    assert imported.precision != "fp16"
    assert imported.head["quantization_scheme"] == "gptq"
    backend = CONFIG["backend"] | {"model": "org/Tiny-GPTQ-Int4"}
    imported, _ = read(write(tmp_path, config=CONFIG | {"backend": backend}))
    assert imported.precision != "fp16", "its name says that it is quantized"


@pytest.mark.parametrize(
    ("change", "scheme"),
    [
        ({"quantization_scheme": "bnb", "quantization_config": {"load_in_8bit": True}}, "bnb-8bit"),
        ({"name": "openvino", "load_in_8bit": True, "quantization": False}, "8bit"),
        ({"name": "openvino", "load_in_4bit": True}, "4bit"),
        ({"name": "vllm", "engine_args": {"quantization": "awq", "dtype": "float16"}}, "w4a16-awq"),
        ({"name": "vllm", "torch_dtype": None, "engine_args": {"dtype": "float16"}}, "fp16"),
        ({"name": "vllm", "llm_kwargs": {"quantization": "fp8"}}, "fp8"),
        ({"name": "llama_cpp", "model": "org/Tiny-GGUF", "filename": "tiny-Q4_K_M.gguf"}, "q4_k_m"),
        ({"peft_type": "lora"}, "fp16+lora"),
        ({"quantization": True}, None),
    ],
)
def test_every_option_of_the_backend_is_read(tmp_path: Path, change: dict[str, Any], scheme: str | None) -> None:
    imported, _ = read(write(tmp_path, config=CONFIG | {"backend": CONFIG["backend"] | change}))
    assert imported.precision == scheme


def test_what_a_report_does_not_contain_is_said(tmp_path: Path) -> None:
    without = {name: phase | {"latency": {"mean": phase["latency"]["mean"]}} for name, phase in REPORT.items()}
    imported, metrics = read(write(tmp_path, report=without, config=None))
    assert metrics.ttft_s == pytest.approx(0.11)
    assert (metrics.std_ttft_s, metrics.num_iterations, imported.samples) == (None, None, [])
    assert (metrics.batch_size, metrics.output_tokens) == (2, 100), "optimum-benchmark's defaults"
    assert any("batch size is not in the file" in note for note in imported.notes)
    assert any("output tokens are not in the file" in note for note in imported.notes)
    only_memory = {"prefill": {"memory": {"max_ram": 1.0}}}
    with pytest.raises(ResultFileError, match=r"prefill\.latency' is missing"):
        read(write(tmp_path, report=only_memory))
