"""``slim-eval run --engine openai``: against a stand-in that misbehaves, and llama.cpp's server."""

from __future__ import annotations

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import EngineConfig
from slim_eval.engines import LoadRequest
from slim_eval.engines.openai import OPENAI
from slim_eval.engines.prompt_logprobs import TEXT
from tests.commands import ON_A_BUSY_HOST, run_command
from tests.standins.endpoint import KEY, StandIn, running

ROOT = Path(__file__).parents[2]
SMALL = (
    "--num-runs", "4", "--num-warmup", "4", "--batch-size", "4", "--max-new-tokens", "8", "--no-wandb-enabled",
    *ON_A_BUSY_HOST,
)  # fmt: skip
needs_llama_cpp = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs xllamacpp")


def measure(folder: Path, *args: str, env: dict[str, str] | None = None) -> Any:
    variables = {"PYTHONPATH": str(ROOT), **(env or {})}
    return run_command("run", "--engine", "openai", *SMALL, *args, cwd=folder, env=variables)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("outputs/*/*/*.json")}


def test_an_endpoint_is_recorded_as_what_is_known_of_it(tmp_path: Path) -> None:
    with running(StandIn("served", fault="gated")) as url:
        asked = ("--models", "demo", "--base-url", url, "--served-model", "served", "--tasks", "performance")
        done = measure(tmp_path, *asked, env={"OPENAI_API_KEY": KEY})
        assert done.returncode == 0, done.stdout + done.stderr
        again = measure(tmp_path, *asked, env={"OPENAI_API_KEY": KEY})
        assert "reused: performance" in again.stdout + again.stderr
        # Another model under the same name is measured anew.
        other = measure(tmp_path, *asked[:-2], "--tasks", "performance", "--tokenizer", "demo-model", "--dry-run")
    record = records(tmp_path)["performance"]
    assert (record["model"], record["precision"], record["engine"]) == ("demo", "as-is", "openai")
    unknown = ("model_size_gb", "num_parameters", "kernels", "dtype", "weights_gb", "mean_peak_mem_mb")
    assert {key: record[key] for key in unknown} == dict.fromkeys(unknown)
    assert record["tokens_per_second"] > 0
    assert record["ttft_s"] > 0
    assert record["tpot_s"] > 0
    assert record["measured_with"]["served_model"] == "served"
    assert "401" in other.stderr + other.stdout  # without the key
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".json", ".log"))
    assert KEY not in written + done.stdout + done.stderr


@pytest.mark.parametrize(
    ("fault", "args", "cause", "remedy"),
    [
        ("gated", (), "HTTP status 401", "OPENAI_API_KEY"),
        ("html", (), "does not answer like an OpenAI-compatible API", "below /v1"),
        (None, ("--served-model", "servd"), "does not serve 'servd'; it serves served", "did you mean served?"),
        (None, ("--precision", "fp16 int4"), "one endpoint serves a model under one scheme", "as-is"),
        (None, ("--server", "x {model} {port}"), "--base-url and --server cannot be combined", ""),
    ],
)
def test_an_endpoint_that_is_refused_leaves_nothing(
    fault: str | None, args: tuple[str, ...], cause: str, remedy: str, tmp_path: Path
) -> None:
    with running(StandIn("served", fault=fault)) as url:
        done = measure(tmp_path, "--models", "some/model", "--base-url", url, "--tasks", "performance", *args)
    shown = re.sub(r"\s+", " ", done.stderr + done.stdout)
    assert done.returncode in (1, 2)
    assert cause in shown
    assert remedy in shown
    assert "Traceback" not in shown
    assert not list(tmp_path.rglob("*.json"))


def test_short_answers_are_measured_and_said(tmp_path: Path) -> None:
    with running(StandIn("demo", fault="short")) as url:
        done = measure(tmp_path, "--models", "demo", "--base-url", url, "--precision", "int4", "--tasks", "performance")
    assert done.returncode == 0, done.stdout + done.stderr
    record = records(tmp_path)["performance"]
    assert record["precision"] == "int4 as-is"  # as stated; slim-eval made nothing
    assert record["output_tokens"] == 3
    assert any("requests generated 3.0 tokens on average, not the 8 asked for" in note for note in record["notes"])


def test_a_server_that_does_not_start_is_a_failure_with_its_cause(tmp_path: Path) -> None:
    command = f"{sys.executable} -m tests.standins.endpoint --model {{model}} --port {{port}} --fault exit"
    done = measure(tmp_path, "--models", "demo", "--server", command, "--tasks", "performance")
    assert done.returncode == 1
    error = records(tmp_path)["performance.error"]
    assert error["cause"] == "the server exited with status 3: ValueError: unsupported architecture 'Gizmo'"


@needs_llama_cpp
def test_gguf_files_are_served_by_llama_cpp(tmp_path: Path) -> None:
    """Two files of the embedded model: real speeds, and its own answers from 32-bit weights."""
    from slim_eval.demo import MODEL_DIR
    from tools.make_gguf import make

    for kind in ("f32", "q8_0"):
        make(MODEL_DIR, tmp_path / f"tiny-{kind}.gguf", kind)
    done = measure(
        tmp_path, "--models", f"{tmp_path}/tiny-f32.gguf {tmp_path}/tiny-q8_0.gguf", "--precision", "as-is", "--server",
        "llama.cpp", "--base-model", str(MODEL_DIR), "--tasks", "performance,accuracy", "--accuracy-tasks",
        "demo_gsm8k,demo_hellaswag", "--accuracy-limit", "8", "--num-fewshot", "2", "--accuracy-batch-size", "4",
    )  # fmt: skip
    found = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/*/performance.json")}
    assert {record["precision"] for record in found.values()} == {"gguf-f32", "q8_0"}, done.stdout + done.stderr
    for record in found.values():
        assert record["tokens_per_second"] > 0
        assert record["mean_peak_mem_mb"] > 1
        assert record["model_size_gb"] > 0
        assert any("bits per weight" in note for note in record["notes"])
    scores = [json.loads(path.read_text())["accuracy"] for path in tmp_path.glob("outputs/*/*/demo_gsm8k.json")]
    assert len(scores) == 2
    assert min(scores) >= 0.75  # the embedded model knows them all
    # Log-likelihoods are forced: its completions API has none of a prompt.
    chosen = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/*/demo_hellaswag.json")]
    assert len(chosen) == 2, done.stdout + done.stderr
    assert min(record["accuracy"] for record in chosen) >= 0.75
    assert all(any("forced decoding" in note for note in record["notes"]) for record in chosen)
    assert not any("were not checked" in note for record in chosen for note in record["notes"])
    assert done.returncode == 0


@needs_llama_cpp
@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_forced_decoding_returns_the_log_probabilities_of_the_weights(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against Transformers, which reads the same file into float32; more contexts than the window has room for."""
    import torch

    from slim_eval.demo import MODEL_DIR
    from slim_eval.engines import prompt_logprobs
    from slim_eval.engines.prompt_logprobs import ForcedDecoding
    from slim_eval.models import loading
    from tools.make_gguf import make

    monkeypatch.setattr(prompt_logprobs, "_CANDIDATES", 1)  # so that the whole vocabulary is asked for, too

    file, within = tmp_path / f"tiny-{kind}.gguf", 0.02 if kind == "f32" else 0.6  # its kernels round activations, too
    make(MODEL_DIR, file, kind)
    config = EngineConfig(engine="openai", server="llama.cpp", tokenizer=str(MODEL_DIR))
    engine = OPENAI.load(LoadRequest(file, config, 96, precision="as-is", model="tiny", parallel=4))
    try:
        way = engine.prompt_logprobs  # after the canary, which has read the weights
        assert isinstance(way, ForcedDecoding)
        assert not any("were not checked" in note for note in engine.notes)
        tokens = [int(token) for token in engine.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
        known, end = [*tokens, *tokens][:64], int(engine.tokenizer.eos_token_id)
        asked = [
            (context, continuation)
            for start in range(8)
            for context in [known[start : start + 48]]
            for continuation in (known[start + 48 : start + 54], [end, *known[:3]], [known[start + 48], end])
        ]
        # Tokens that end within a character, in the middle and at the end.
        parts = [int(token) for token in engine.tokenizer("é ☃", add_special_tokens=False)["input_ids"]]
        assert len(parts) > 3
        asked += [
            (known[:40], [*known[40:42], *parts, *known[42:44]]),
            (known[:40], parts[:1]),
            (known[:40], parts[:-1]),
        ]
        found = way.loglikelihoods(asked, 8, lambda place, answer: None)
        assert way.loglikelihoods(asked[::-1], 1, lambda place, answer: None)[::-1] == [
            (pytest.approx(value, abs=within), is_greedy) for value, is_greedy in found
        ]
    finally:
        engine.close()
    model = loading.load(file, dtype=torch.float32)
    references = loading.token_logprobs(model, [[*context, *continuation] for context, continuation in asked])
    for (context, _), reference, (value, _) in zip(asked, references, found, strict=True):
        assert value == pytest.approx(sum(reference[len(context) - 1 :]), abs=within)
