"""The Transformers engine, NVML's counter, memory, and vLLM if it is installed, on a real GPU."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from slim_eval import engines, power
from slim_eval.benchmarks import energy, performance
from slim_eval.config import EnergyConfig, PerformanceConfig
from slim_eval.results.records import EnergyMetrics, PerformanceMetrics
from tests.commands import Command

WORK = PerformanceConfig(num_warmup=4, num_runs=16, batch_size=4, max_new_tokens=64)


def test_transformers_measures_on_the_gpu(transformers_engine: engines.Engine) -> None:
    metrics = performance.run(transformers_engine, WORK).metrics
    assert isinstance(metrics, PerformanceMetrics)
    assert metrics.output_tokens == 64
    assert metrics.ttft_s is not None
    assert metrics.e2e_latency_s is not None
    assert 0 < metrics.ttft_s < metrics.e2e_latency_s
    assert metrics.tpot_s is not None
    assert metrics.tpot_s > 0


def test_memory_is_the_devices(transformers_engine: engines.Engine) -> None:
    report = transformers_engine.memory()
    assert report.weights_gb == pytest.approx(2_033_408 * 2 / 2**30, rel=0.1)
    assert report.peak_mb is not None
    assert report.peak_mb >= report.weights_gb * 1024


def test_nvml_counter_and_integral_agree(transformers_engine: engines.Engine, gpu: tuple[power.Gpu, ...]) -> None:
    meter = power.open_meter("nvml", gpu, 0.05)
    config = EnergyConfig(sample_runs=60, batch_size=4)
    metrics = energy.run(transformers_engine, config, WORK.model_copy(update={"max_new_tokens": 256}), meter).metrics
    assert isinstance(metrics, EnergyMetrics)
    assert metrics.devices == (gpu[0].uuid,)
    # A throttled or shared GPU yields no headline value, but the readings are kept.
    assert (metrics.energy_joules is not None) is metrics.valid, metrics.invalid_reasons
    for joules in (metrics.energy_joules_counter, metrics.energy_joules_integral):
        assert joules is None or joules > 0
    assert (metrics.energy_joules_counter, metrics.energy_joules_integral) != (None, None)
    if metrics.valid:
        assert metrics.idle_power_watts is not None
    if metrics.energy_source == "nvml-counter":
        assert metrics.counter_disagreement is not None
        assert metrics.counter_disagreement < 0.1


def test_provenance_names_the_gpu(gpu: tuple[power.Gpu, ...]) -> None:
    (facts,) = power.gpu_facts(gpu)
    assert facts["uuid"] == gpu[0].uuid
    assert facts["name"]


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")
def test_the_whole_command(slim_eval_command: Command) -> None:
    engine = "vllm" if find_spec("vllm") else "transformers"
    process = slim_eval_command(
        "run", "--models", "demo", "--engine", engine, "--enforce-eager", "--num-runs", "32", "--max-new-tokens", "32",
        "--energy-sample-runs", "40", "--gpu-memory-utilization", "0.2", "--no-wandb-enabled",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
