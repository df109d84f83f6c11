"""Which engine serves a precision, and the sentence that says why."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable

import pytest

from slim_eval import engines
from slim_eval.engines import Platform, engine
from slim_eval.engines.vllm import VLLM as VLLM_ENGINE
from slim_eval.errors import EngineError, MissingPackageError
from slim_eval.schemes import scheme

AUTO, VLLM, TRANSFORMERS = "auto", "vllm", "transformers"
AVX2, AVX512 = Platform("cpu"), Platform("cpu", cpu_flags=frozenset({"avx512f"}))
Pretend = Callable[..., None]


def gpu(major: int, minor: int) -> Platform:
    return Platform("cuda", (major, minor))


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Say which packages are installed and what vLLM would run on."""

    def call(*installed: str, platform: Platform | EngineError = AVX2) -> None:
        def answer() -> Platform:
            if isinstance(platform, EngineError):
                raise platform
            return platform

        known = {name: importlib.util.find_spec("json") for name in installed}
        monkeypatch.setattr(engine, "find_spec", known.get)
        monkeypatch.setattr(VLLM_ENGINE, "platform", answer)

    return call


@pytest.mark.parametrize(
    ("platform", "precision", "obstacle"),
    [
        (AVX2, "fp16", None),
        (AVX2, "int8", None),
        (AVX2, "int4", "vLLM's W4A16 kernel on CPU needs AVX-512, which this CPU does not have"),
        (AVX512, "int4", None),
        (Platform("none"), "fp16", "this build of vLLM needs a GPU and found none"),
        (gpu(6, 1), "fp16", "vLLM's 16-bit kernel needs compute capability 7.0, this GPU has 6.1"),
        (gpu(7, 0), "fp16", None),
        (gpu(7, 0), "int8", "vLLM's W8A8 kernel needs compute capability 7.5, this GPU has 7.0"),
        (gpu(7, 5), "int8", None),
        (gpu(9, 0), "int8", None),
        (gpu(10, 0), "int8", "vLLM's W8A8 kernel needs a compute capability below 10.0, this GPU has 10.0"),
        (gpu(12, 0), "int8", "vLLM's W8A8 kernel needs a compute capability below 10.0, this GPU has 12.0"),
        (gpu(7, 0), "int4", "vLLM's W4A16 kernel needs compute capability 7.5, this GPU has 7.0"),
        (gpu(12, 0), "int4", None),
        (Platform("cuda"), "int8", None),
        (Platform("other"), "int8", None),
    ],
)
def test_obstacles(platform: Platform, precision: str, obstacle: str | None) -> None:
    assert VLLM_ENGINE.obstacle(scheme(precision), platform) == obstacle


@pytest.mark.parametrize(
    ("flags", "inexact"),
    [
        ({"avx2"}, True),
        ({"avx2", "avx512f", "avx512bw"}, True),  # AVX-512 alone has no 8-bit dot product either
        ({"avx2", "avx_vnni"}, False),
        ({"avx2", "avx512f", "avx512_vnni"}, False),
        ({"asimd", "i8mm"}, False),  # another architecture has other kernels
        (set(), False),  # not known
    ],
)
def test_int8_on_cpu_is_exact_only_with_vnni(flags: set[str], inexact: bool) -> None:
    platform = Platform("cpu", cpu_flags=frozenset(flags))
    assert VLLM_ENGINE.is_inexact(scheme("int8"), platform) is inexact
    assert not VLLM_ENGINE.is_inexact(scheme("fp16"), platform)
    assert not VLLM_ENGINE.is_inexact(scheme("int8"), gpu(8, 0))
    assert not engines.ENGINES[TRANSFORMERS].is_inexact(scheme("int8"), platform)


def test_auto_takes_vllm_where_it_runs(pretend: Pretend) -> None:
    pretend("vllm", "torch", "transformers")
    decision = engines.choose(AUTO, "int8")
    assert decision == engines.EngineDecision("vllm", "vLLM is installed and runs int8 on this machine")


def test_auto_falls_to_transformers_with_the_reason(pretend: Pretend) -> None:
    pretend("vllm", "torch", "transformers")
    decision = engines.choose(AUTO, "int4")
    assert decision.name == "transformers"
    assert decision.reason == (
        "vLLM's W4A16 kernel on CPU needs AVX-512, which this CPU does not have, so Transformers is used"
    )


def test_auto_without_vllm(pretend: Pretend) -> None:
    pretend("torch", "transformers")
    decision = engines.choose(AUTO, "fp16")
    assert decision == engines.EngineDecision("transformers", "vLLM is not installed, so Transformers is used")


def test_auto_with_a_vllm_that_does_not_import(pretend: Pretend) -> None:
    pretend("vllm", "torch", "transformers", platform=EngineError("vLLM is installed but cannot be imported (x)"))
    decision = engines.choose(AUTO, "fp16")
    assert decision.name == "transformers"
    assert "cannot be imported" in decision.reason


def test_vllm_asked_for_where_it_cannot_run(pretend: Pretend) -> None:
    pretend("vllm", "torch", "transformers")
    with pytest.raises(EngineError, match="AVX-512") as refused:
        engines.choose(VLLM, "int4")
    assert "--engine transformers" in refused.value.remedy


@pytest.mark.parametrize("choice", [VLLM, TRANSFORMERS])
def test_what_was_asked_for_is_taken(pretend: Pretend, choice: str) -> None:
    pretend("vllm", "torch", "transformers")
    decision = engines.choose(choice, "fp16")
    assert decision.name == choice
    assert f"--engine {choice}" in decision.reason


@pytest.mark.parametrize(
    ("choice", "installed", "missing"),
    [(VLLM, ["torch", "transformers"], "vllm"), (AUTO, [], "torch"), (TRANSFORMERS, ["torch"], "transformers")],
)
def test_a_missing_engine_names_its_install_command(
    pretend: Pretend, choice: str, installed: list[str], missing: str
) -> None:
    pretend(*installed)
    with pytest.raises(MissingPackageError, match=f"'{missing}'") as refused:
        engines.choose(choice, "fp16")
    assert 'pip install "slim-eval[all]"' in refused.value.remedy


def test_choosing_by_name_imports_no_engine() -> None:
    script = (
        "import sys; from slim_eval import engines;"
        "engines.choose('transformers', 'int4');"
        "print([m for m in ('torch', 'vllm', 'transformers') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
