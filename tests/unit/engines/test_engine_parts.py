"""The small parts of the engines: vLLM's name, memory of processes, bytes of a checkpoint, engine arguments."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from slim_eval.config import EngineConfig
from slim_eval.engines import LoadRequest
from slim_eval.engines.memory import resident_memory, served_bytes
from slim_eval.engines.transformers import TRANSFORMERS
from slim_eval.engines.vllm import VLLM, distribution_named_vllm
from slim_eval.errors import UsageError
from tests.standins.tiny_models import make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


def installed_as_vllm() -> bool:
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(installed_as_vllm(), reason="vLLM is installed under its own name")
@pytest.mark.parametrize(("version", "answer"), [("0.32.0", "0.32.0+cpu"), ("0.19.1+cpu", "0.19.1+cpu")])
def test_the_cpu_build_has_a_name_for_as_long_as_it_takes(version: str, answer: str) -> None:
    finders, folders = list(sys.meta_path), list(sys.path)
    with distribution_named_vllm(version):
        assert metadata.version("vllm") == answer
        assert metadata.version("pytest") == pytest.__version__
        with pytest.raises(metadata.PackageNotFoundError):
            metadata.version("no-such-distribution")
    assert (sys.meta_path, sys.path) == (finders, folders)
    assert not installed_as_vllm()


def test_children_count_as_memory_of_the_engine() -> None:
    alone = resident_memory()
    script = "held = b'x' * (200 << 20); print(len(held), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        together = resident_memory()
    finally:
        child.communicate(b"\n")
    assert alone is not None
    assert together is not None
    assert together.used_mb - alone.used_mb > 190
    assert together.peak_mb >= together.used_mb > psutil.Process().memory_info().rss / 2**20


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_are_counted_as_they_are_served(tmp_path: Path, checkpoint: Path, dtype: str) -> None:
    other = make_checkpoint(tmp_path, dtype=dtype)
    assert served_bytes(other) == served_bytes(checkpoint)
    if dtype != "float32":
        assert 0 < (other / "model.safetensors").stat().st_size - served_bytes(other) < 10_000  # the header


@pytest.mark.parametrize(
    ("arguments", "cause", "remedy"),
    [
        ({"max_num_seq": 4}, "max_num_seq: vLLM has no such engine argument", "max_num_seqs"),
        ({"max_model_len": 4}, "slim-eval sets this argument itself", "use --max-model-len"),
        ({"disable_log_stats": True}, "slim-eval sets this argument itself", "omit it"),
    ],
)
@pytest.mark.large  # it imports vLLM
def test_engine_arguments_are_checked(checkpoint: Path, arguments: dict[str, object], cause: str, remedy: str) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    with pytest.raises(UsageError, match=cause) as refused:
        VLLM.load(LoadRequest(checkpoint, EngineConfig(engine_args=arguments), 64))
    assert remedy in refused.value.remedy


def test_transformers_uses_one_gpu(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="uses one GPU") as refused:
        TRANSFORMERS.load(LoadRequest(checkpoint, EngineConfig(tensor_parallel_size=2), 64))
    assert "--engine vllm" in refused.value.remedy
