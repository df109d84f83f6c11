"""The command line: what it turns into a config, and what it says of nonsense."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slim_eval import __version__, cli
from slim_eval.config import AnalysisConfig, RunConfig


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configs that commands were called with, in place of running them."""
    configs: list[Any] = []

    class Done:
        def raise_for_failures(self) -> None:
            return

    def evaluate(config: RunConfig) -> Done:
        configs.append(config)
        return Done()

    monkeypatch.setattr("slim_eval.evaluator.evaluate", evaluate)
    monkeypatch.setattr("slim_eval.analysis.analyze", configs.append)
    monkeypatch.setattr(cli, "_show_analysis", lambda report: None)
    return configs


def _run(parsed: list[Any], *args: str) -> RunConfig:
    assert cli.main(["run", *args]) == 0
    config = parsed[-1]
    assert isinstance(config, RunConfig)
    return config


@pytest.mark.parametrize(
    "args",
    [
        ("--models", "a/b c/d"),
        ("--models", "a/b,c/d"),
        ("--models", "a/b", "--models", "c/d"),
        ("--models", "a/b", "c/d"),
        ("--models=a/b", "c/d"),
    ],
)
def test_lists_are_taken_in_every_way(parsed: list[Any], args: tuple[str, ...]) -> None:
    assert _run(parsed, *args).models == ("a/b", "c/d")


def test_what_is_not_given_counts_as_not_given(parsed: list[Any]) -> None:
    config = _run(parsed, "--models", "demo", "--num-runs", "7")
    assert config == RunConfig(models="demo", performance={"num_runs": 7})
    assert config.performance.model_fields_set == {"num_runs"}
    assert config.engine.model_fields_set == set()


def test_every_new_option(parsed: list[Any]) -> None:
    config = _run(
        parsed,
        "--models", "demo", "--precision", "fp16 int8 int4", "--tasks", "energy performance", "--engine", "vllm",
        "--tensor-parallel-size", "2", "--revision", "main", "--seed", "3", "--trust-remote-code", "--enforce-eager",
        "--engine-arg", "max_num_seqs=4", "--engine-arg", "kv-cache-dtype=fp8", "--requantize", "--energy-source",
        "none", "--energy-batch-size", "2", "--include-path", "tasks", "--apply-chat-template", "--no-wandb-enabled",
        "--accuracy-batch-size-mmlu", "4", "--accuracy-batch-size-my-task=2", "--accuracy-batch-size", "16",
    )  # fmt: skip
    assert config.precision == ("fp16", "int8", "int4")
    assert config.tasks == ("energy", "performance")
    assert config.engine.engine == "vllm"
    assert config.engine.tensor_parallel_size == 2
    assert config.engine.trust_remote_code
    assert config.engine.enforce_eager
    assert config.engine.engine_args == {"max_num_seqs": 4, "kv_cache_dtype": "fp8"}
    assert (config.revision, config.seed, config.quantization.requantize) == ("main", 3, True)
    assert config.energy.source == "none"
    assert config.energy.batch_size == 2
    assert config.accuracy.include_path == Path("tasks")
    assert config.accuracy.apply_chat_template
    assert not config.tracking.enabled
    assert config.accuracy.batch_size_of("mmlu") == 4
    assert config.accuracy.batch_size_of("my-task") == 2
    assert config.accuracy.batch_size_of("gsm8k") == 16


def test_the_originals_analyze_command_works_as_written(parsed: list[Any]) -> None:
    line = "analyze --input-dir outputs --output-dir analysis_results --accuracy-tasks mmlu gsm8k hellaswag"
    assert cli.main(line.split()) == 0
    assert parsed == [AnalysisConfig(accuracy_tasks=("mmlu", "gsm8k", "hellaswag"))]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["run"], "--models"),
        (["run", "--models", ""], "--models: no value was given"),
        (["run", "--models", "demo", "--precision", "int3"], "unknown precision 'int3'"),
        (["run", "--models", "demo", "--precision", "int3"], "did you mean int8, int4"),
        (["run", "--models", "demo", "--tasks", "speed"], "performance, energy, serving, accuracy"),
        (["run", "--models", "demo", "--engine", "onnx"], "vllm"),
        (["run", "--models", "demo", "--executor", "slurm"], "unknown executor 'slurm'"),
        (["run", "--models", "demo", "--executor", "slurm"], "known: local"),
        (["noise", "--models", "demo", "--executor", "slurm"], "unknown executor 'slurm'"),
        (["run", "--models", "demo", "--num-runs", "0"], "--num-runs"),
        (["run", "--models", "demo", "--num-runs", "-5"], "--num-runs"),
        (["run", "--models", "demo", "--num-runs", "many"], "--num-runs"),
        (["run", "--models", "demo", "--batch-size", "0"], "--batch-size"),
        (["run", "--models", "demo", "--max-new-tokens", "-1"], "--max-new-tokens"),
        (["run", "--models", "demo", "--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization"),
        (["run", "--models", "demo", "--gpu-index", "-1"], "--gpu-index"),
        (["run", "--models", "demo", "--accuracy-tasks", ""], "--accuracy-tasks"),
        (["run", "--models", "demo", "--accuracy-batch-size-mmlu", "x"], "--accuracy-batch-size"),
        (["run", "--models", "demo", "--accuracy-batch-size-mmlu"], "--accuracy-batch-size"),
        (["run", "--models", "demo", "--engine-arg", "novalue"], "KEY=VALUE"),
        (["run", "--models", "'demo"], "quotation"),
        (["run", "--models", "demo", "--num-run", "3"], "--num-runs"),
        (["rum"], "run"),
        (["analyze", "--input-dir", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_cause_and_one_remedy(
    line: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(line) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) <= 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, "import nothing_of_that_name", "1 +"])
def test_a_plugin_that_cannot_be_imported_is_named(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "plugin.py"
    if content is not None:
        plugin.write_text(content)
    monkeypatch.setenv("SLIM_EVAL_PLUGINS", str(plugin))
    assert cli.main(["analyze"]) == 2
    error = capsys.readouterr().err
    assert f"plugin {plugin}: " in error
    assert "SLIM_EVAL_PLUGINS" in error


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"slim-eval {__version__}"


def test_help_groups_options_in_panels_and_shows_defaults() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "slim_eval", "run", "--help"],
        capture_output=True, text=True, check=True, env={"COLUMNS": "160", "PATH": "", "TERM": "dumb"},
    )  # fmt: skip
    panels = ("Model & precision", "Performance benchmark", "Energy benchmark", "Accuracy benchmark", "Engine",
              "Quantization", "Weights & Biases")  # fmt: skip
    for text in (*panels, "--accuracy-batch-size-TASK", "mmlu gsm8k hellaswag", "HuggingFaceH4/ultrachat_200k", "8192"):
        assert text in answer.stdout


def test_completion_is_offered() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "slim_eval", "--help"], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert "--install-completion" in answer.stdout
