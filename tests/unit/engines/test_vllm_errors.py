"""What vLLM says, and the one line of cause and remedy that is made of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slim_eval.engines.vllm import vllm_error

DEAD = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")

# Messages of vLLM 0.19 to 0.32.
MESSAGES = [
    ("To serve at least one request with the models's max seq len (8192), (1.75 GiB KV cache is needed, which is "
     "larger than the available KV cache memory (0.5 GiB).", "--max-model-len"),
    ("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.", "--gpu-memory-utilization"),
    ("Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired GPU memory utilization (0.9, 71.2 "
     "GiB).", "lower --gpu-memory-utilization"),
    ("CUDA out of memory. Tried to allocate 2.00 GiB.", "--max-model-len"),
    ("User-specified max_model_len (9999) is greater than the derived max_model_len", "lower --max-model-len"),
    ("Failed to find a kernel that can implement the WNA16 linear layer.", "--engine transformers"),
    ("Model architectures ['Foo'] are not supported for now.", "--engine transformers"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "remedy"), MESSAGES)
def test_a_message_of_this_process(message: str, remedy: str) -> None:
    error = vllm_error(ValueError(message), "", started=False)
    assert error.cause == f"vLLM did not start: {message}"
    assert remedy in error.remedy


@pytest.mark.parametrize(("message", "remedy"), MESSAGES)
def test_a_message_of_an_engine_process_is_found_in_the_log(message: str, remedy: str) -> None:
    log = (
        "(EngineCore pid=7) INFO 11-23 20:44:13 [x.py:1] Starting to load model\n"
        f"(EngineCore pid=7) ERROR 11-23 20:44:15 [core.py:9] ValueError: {message}\n"
        "(EngineCore pid=7) Traceback (most recent call last):\n"
        f"(EngineCore pid=7) RuntimeError: {DEAD}\n"
        "(EngineCore pid=7) BrokenPipeError: closed\n"
    )
    error = vllm_error(DEAD, log, started=False)
    assert error.cause == f"vLLM did not start: {message}"
    assert remedy in error.remedy


def test_an_unknown_cause_is_the_last_error_of_the_log() -> None:
    log = "(Worker pid=1) KeyError: 'first'\n(Worker pid=1) ERROR [x] vllm.FooError: the second\n"
    assert vllm_error(DEAD, log, started=False).cause == "vLLM did not start: the second"


def test_without_a_log_the_exception_speaks() -> None:
    error = vllm_error(DEAD, "", started=True)
    assert error.cause.startswith("vLLM stopped: Engine core initialization failed")
    assert "\n" not in error.cause


def test_pydantic_is_cut_to_its_sentence() -> None:
    text = "1 validation error for ModelConfig\n  Value error, too long [type=value_error, input_value=...]\n  more"
    assert vllm_error(ValueError(text), "", started=False).cause == "vLLM did not start: Value error, too long"


def test_a_long_message_is_cut() -> None:
    assert len(vllm_error(ValueError("x" * 5000), "", started=False).cause) < 400


SCRIPT = (
    "import os, sys\n"
    "os.write(2, b'before\\n')\n"
    "from slim_eval.utils.log_tail import LogTail\n"
    "tail = LogTail()\n"
    "os.system('echo from a child >&2')\n"
    "sys.stdout.write(tail.read())\n"
)


def test_the_log_is_read_from_where_it_stood(tmp_path: Path) -> None:
    with (tmp_path / "run.log").open("ab") as log:
        answer = subprocess.run([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=log, check=True)
    assert answer.stdout == b"from a child\n"


def test_stderr_that_is_a_pipe_is_left_alone() -> None:
    answer = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True, timeout=60)
    assert answer.stdout == b""
