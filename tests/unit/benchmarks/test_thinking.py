"""``--thinking`` as an option, a setting and a refusal; prompts are in tests/integration/test_thinking.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slim_eval.benchmarks.accuracy import Accuracy
from slim_eval.cli import main
from slim_eval.config import AccuracyConfig, RunConfig
from slim_eval.errors import BenchmarkError
from tests.commands import Command
from tests.standins.tiny_models import make_checkpoint
from tests.unit.benchmarks.test_accuracy import RuleEngine, _metrics, _run, folder  # noqa: F401 - a fixture


def test_tasks_that_score_log_likelihoods_refuse_it(folder: Path) -> None:  # noqa: F811
    engine = RuleEngine(chat_template="{{ enable_thinking }}</think>")
    with pytest.raises(BenchmarkError, match="own_choice: --thinking on: its answers are scored by log-likelihood"):
        _run("own_choice", folder, engine, apply_chat_template=True, thinking="on")
    assert engine.prompts == []


@pytest.mark.parametrize("thinking", ["on", "off"])
def test_an_adapter_that_cannot_switch_refuses_it(thinking: str, folder: Path) -> None:  # noqa: F811
    engine: Any = RuleEngine(chat_template="{{ enable_thinking }}</think>")
    engine.name = "rule"
    with pytest.raises(BenchmarkError, match="rule cannot switch thinking"):
        _run("own_generate", folder, engine, apply_chat_template=True, thinking=thinking)


def test_without_it_nothing_is_recorded_and_old_records_match(folder: Path) -> None:  # noqa: F811
    assert _metrics(_run("own_generate", folder)).thinking is None
    config = RunConfig(models="demo")
    assert "thinking" not in Accuracy().settings(config, "demo_gsm8k", None)
    given = RunConfig(models="demo", accuracy={"apply_chat_template": True, "thinking": "off"})
    assert Accuracy().settings(given, "demo_gsm8k", None)["thinking"] == "off"


def test_it_needs_a_chat_template(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValidationError, match="--thinking needs --apply-chat-template"):
        AccuracyConfig(thinking="off")
    assert main(["run", "--models", "demo", "--thinking", "off"]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "--thinking needs --apply-chat-template" in shown
    assert "give only one" not in shown


SWITCH = "{% for turn in messages %}{{ turn.content }}{% endfor %}{% if enable_thinking %}<think>{% endif %}</think>"


@pytest.mark.large
@pytest.mark.parametrize(
    ("template", "task", "thinking", "cause"),
    [
        (SWITCH, "demo_hellaswag", "on", "demo_hellaswag: --thinking on: its answers are scored by log-likelihood"),
        (SWITCH, "demo_mmlu", "on", "): --thinking on: its answers are scored by log-likelihood"),
        ("{{ messages[0].content }}", "demo_gsm8k", "off", "the model's chat template has no argument enable_thinking"),
        ("{{ enable_thinking }}", "demo_gsm8k", "on", "chat template does not show where a thought ends"),
        (SWITCH, "demo_hellaswag", "off", ""),
        (SWITCH, "demo_gsm8k", "on", ""),
    ],
)
def test_what_cannot_think_is_refused_before_anything_runs(
    template: str, task: str, thinking: str, cause: str, tmp_path: Path, slim_eval_command: Command
) -> None:
    model = make_checkpoint(tmp_path / "Model")
    (model / "chat_template.jinja").write_text(template)
    done = slim_eval_command(
        "run", "--models", str(model), "--tasks", "accuracy", "--accuracy-tasks", task, "--apply-chat-template",
        "--thinking", thinking, "--engine", "transformers", "--dry-run",
    )  # fmt: skip
    shown = " ".join(done.stderr.split())
    assert done.returncode == (2 if cause else 0), shown
    assert cause in shown
