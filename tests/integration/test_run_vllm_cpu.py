"""The whole command on vLLM's CPU build."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from slim_eval.demo import TASKS
from slim_eval.results.store import read_samples
from tests.commands import DTYPE, ON_A_BUSY_HOST, Run, run_command

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")
RECORDS = ("performance", "energy", *TASKS)


def test_it_ends_well(vllm_run: Run) -> None:
    assert vllm_run.process.returncode == 0, vllm_run.process.stderr


@pytest.mark.parametrize("name", RECORDS)
def test_vllm_measured_it(vllm_run: Run, name: str) -> None:
    content = json.loads((vllm_run.variant("fp16") / f"{name}.json").read_text())
    assert content["engine"] == "vllm"
    assert content["dtype"] == DTYPE
    if name == "performance":
        assert content["output_tokens"] == 16
        assert content["kv_cache_tokens"] > 0
        assert content["weights_gb"] > 0
        assert 0 < content["ttft_s"] < content["e2e_latency_s"]
    elif name in TASKS:
        assert content["accuracy"] >= 0.6


def test_int4_ran_and_the_record_says_on_what(vllm_run: Run) -> None:
    for name in RECORDS:
        content = json.loads((vllm_run.variant("int4") / f"{name}.json").read_text())
        assert content["engine"] in ("vllm", "transformers")
        if content["engine"] == "transformers":
            assert "AVX-512" in content["engine_reason"]


@pytest.mark.parametrize("task", TASKS)
def test_both_engines_see_the_same_items_and_agree_on_most(demo_run: Run, vllm_run: Run, task: str) -> None:
    ours = {row["doc_hash"]: row for row in read_samples(demo_run.variant("fp16"), task)}
    theirs = {row["doc_hash"]: row for row in read_samples(vllm_run.variant("fp16"), task)}
    assert ours.keys() == theirs.keys()
    accuracies = [
        json.loads((run.variant("fp16") / f"{task}.json").read_text())["accuracy"] for run in (demo_run, vllm_run)
    ]
    assert abs(accuracies[0] - accuracies[1]) <= 0.1  # kernels round differently; a wrong prompt would show


def test_no_engine_process_survives(vllm_run: Run) -> None:
    log = (vllm_run.variant("fp16") / "run.log").read_text()
    assert log
    assert "Traceback" not in log


@needs_vllm
def test_vllms_server_answers_like_vllm_in_process(vllm_run: Run, tmp_path: Path) -> None:
    """One variant through the API and one in process: the same scores, item by item."""
    common = (
        "--models", "demo", "--tasks", "accuracy", "--num-fewshot", "2", "--accuracy-limit", "12",
        "--accuracy-batch-size", "8", "--no-wandb-enabled", "--engine-arg", "dtype=float32",
    )  # fmt: skip
    api = run_command(
        "run", "--engine", "openai", "--server", "vllm", "--engine-arg", "enforce_eager=true", *common, cwd=tmp_path
    )
    assert api.returncode == 0, api.stdout + api.stderr
    in_process = vllm_run.variant("fp16")
    if DTYPE != "float32":  # the answers of the shared run are rounded to it, in other batches
        own = run_command(
            "run", "--engine", "vllm", "--enforce-eager", *common, "--output-dir", "own", cwd=tmp_path,
            env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},  # the same kernels, without two more processes to start
        )  # fmt: skip
        assert own.returncode == 0, own.stdout + own.stderr
        in_process = tmp_path / "own" / "demo" / "demo_fp16"
    (served,) = {path.parent for path in (tmp_path / "outputs").rglob("*.samples.jsonl.gz")}
    for task in TASKS:
        twins = {(row["task"], row["doc_id"]): row for row in read_samples(in_process, task)}
        items = read_samples(served, task)
        assert len(items) > 0
        for item in items:
            twin = twins[item["task"], item["doc_id"]]
            assert item["doc_hash"] == twin["doc_hash"]
            assert item["prompt_hash"] == twin["prompt_hash"]
            assert item.get("response") == twin.get("response")
            if "loglikelihoods" in item:
                assert item["loglikelihoods"] == pytest.approx(twin["loglikelihoods"], abs=0.01)


@needs_vllm
def test_vllms_server_is_measured_under_load(tmp_path: Path) -> None:
    process = run_command(
        "run", "--models", "demo", "--engine", "vllm", "--enforce-eager", "--tasks", "serving", "--concurrency", "1 4",
        "--serving-duration", "4", "--input-len", "32", "--output-len", "16", "--energy-source", "none",
        "--no-wandb-enabled", *ON_A_BUSY_HOST, cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    record = json.loads((tmp_path / "outputs" / "demo" / "demo_fp16" / "serving.json").read_text())
    alone, together = record["levels"]
    assert [level["max_concurrency"] for level in (alone, together)] == [1, 4]
    for level in (alone, together):
        assert level["output_tokens"] == 16
        assert level["prompt_tokens"] == pytest.approx(32, abs=1)  # with or without a token that begins a text
        assert 0 < level["ttft_s"] < level["e2e_latency_s"]
        assert level["e2e_latency_s"] == pytest.approx(level["ttft_s"] + 15 * level["tpot_s"], rel=0.02)
        assert level["kv_cache_usage"] is not None
    assert together["achieved_concurrency"] == pytest.approx(4, abs=0.5)
