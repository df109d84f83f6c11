"""The data type of computation: what ``--dtype auto`` is, what each engine accepts, and that both spellings are one."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slim_eval import engines, power
from slim_eval.config import Dtype, EngineConfig
from slim_eval.engines import Platform, engine
from slim_eval.engines.memory import served_bytes
from slim_eval.engines.transformers import TRANSFORMERS
from slim_eval.engines.vllm import VLLM
from slim_eval.errors import EngineError
from slim_eval.models.source import ConfigFacts, describe_config
from slim_eval.schemes import scheme, scheme_of
from tests.commands import INSTANT, SHORT, WITH_INSTANT, run_command
from tests.standins.tiny_models import make_checkpoint

AVX2, AVX512, UNKNOWN = frozenset({"avx2"}), frozenset({"avx2", "avx512f"}), frozenset[str]()
BF16, SAPPHIRE = AVX512 | {"avx512_bf16"}, AVX512 | {"amx_bf16", "avx512_fp16"}


def facts(dtype: str = "bfloat16", **changes: Any) -> ConfigFacts:
    return ConfigFacts(
        architecture=None, model_type=None, dtype=dtype, dtype_stated=True, max_position_embeddings=None,
        tied_embeddings=False, **{"quantization": None} | changes,
    )  # fmt: skip


@pytest.mark.parametrize("member", [VLLM, TRANSFORMERS], ids=lambda each: each.name)
@pytest.mark.parametrize(
    ("own", "flags", "expected"),
    [
        ("bfloat16", AVX2, "float32"),
        ("bfloat16", AVX512, "float32"),
        ("bfloat16", BF16, "bfloat16"),
        ("bfloat16", SAPPHIRE, "bfloat16"),
        ("bfloat16", frozenset({"asimd", "bf16"}), "bfloat16"),
        ("bfloat16", frozenset({"asimd"}), "float32"),
        ("bfloat16", UNKNOWN, "bfloat16"),
        ("float16", AVX2, "float32"),
        ("float16", BF16, "float32"),  # it has instructions for the other type only
        ("float16", SAPPHIRE, "float16"),
    ],
)
def test_auto_is_the_own_type_where_the_device_computes_in_it(
    own: str, flags: frozenset[str], expected: str, member: engines.EngineType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "cpu_flags", lambda: flags)
    for precision in ("fp16", "int8"):
        found = {on_cpu: member.computing_dtype(Dtype.AUTO, facts(own), scheme(precision), on_cpu=on_cpu)
                 for on_cpu in (True, False)}  # fmt: skip
        assert found == {True: expected, False: own}
        for asked in (Dtype.FLOAT16, Dtype.BFLOAT16, Dtype.FLOAT32):
            assert member.computing_dtype(asked, facts(own), scheme(precision), on_cpu=True) == asked.value


@pytest.mark.parametrize(
    ("member", "precision", "changes", "expected"),
    [
        (VLLM, "int4", {}, "bfloat16"),  # its kernel takes 16 bit only
        (VLLM, "int8", {}, "float32"),
        (TRANSFORMERS, "int4", {}, "float32"),
        (VLLM, "fp16", {"quantization": "compressed-tensors", "is_packed": True}, "bfloat16"),
        (VLLM, "fp16", {"quantization": "compressed-tensors"}, "float32"),
        (TRANSFORMERS, "fp16", {"quantization": "compressed-tensors", "is_packed": True}, "float32"),
        (VLLM, "fp16", {"quantization": "awq"}, "bfloat16"),
        (TRANSFORMERS, "fp16", {"quantization": "gptq"}, "bfloat16"),
    ],
)
def test_kernels_that_need_16_bit_get_it(
    member: engines.EngineType, precision: str, changes: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "cpu_flags", lambda: AVX512)
    assert member.computing_dtype(Dtype.AUTO, facts(**changes), scheme(precision), on_cpu=True) == expected


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every engine."""
    monkeypatch.setattr(engine, "find_spec", lambda name: importlib.util.find_spec("json"))


TILES = SAPPHIRE | {"amx_int8", "amx_tile"}
CPU, AMX_CPU, AMPERE = Platform("cpu", cpu_flags=AVX512), Platform("cpu", cpu_flags=TILES), Platform("cuda", (8, 0))
BLACKWELL, ROCM = Platform("cuda", (10, 0)), Platform("other")


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("precision", "platform", "types"),
    [
        ("fp16", AMX_CPU, None),
        ("int4", CPU, "float16 or bfloat16"),
        ("int4", AMX_CPU, "float16 or bfloat16"),
        ("int4", AMPERE, "float16 or bfloat16"),
        *((name, CPU, None) for name in ("int8", "int8-smoothquant", "int8-rtn")),
        *((name, AMX_CPU, "bfloat16") for name in ("int8", "int8-smoothquant", "int8-rtn", "int8+kv8")),
        ("w8a8", AMX_CPU, "bfloat16"),  # a checkpoint that came quantized
        ("w4a16-awq g128", AMX_CPU, "float16 or bfloat16"),
        ("w8a16-gptq", AMPERE, "float16 or bfloat16"),
        ("int8", AMPERE, "float16 or bfloat16"),
        ("fp8", AMPERE, "float16 or bfloat16"),
        ("online:fp8", AMPERE, "float16 or bfloat16"),
        ("nvfp4", BLACKWELL, "float16 or bfloat16"),
        ("int8", ROCM, None),  # slim-eval knows nothing about it
    ],
)
def test_a_kernel_that_cannot_compute_in_a_type_is_not_chosen(
    precision: str, platform: Platform, types: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VLLM, "platform", lambda: platform)
    monkeypatch.setattr(VLLM, "obstacle", lambda *_: None)
    assert engines.choose("vllm", precision).name == "vllm"
    assert engines.choose("auto", precision, Dtype.BFLOAT16).name == "vllm"
    for dtype in (Dtype.FLOAT16, Dtype.FLOAT32):
        if types is None or dtype.value in types.split():
            assert engines.choose("vllm", precision, dtype).name == "vllm"
            continue
        with pytest.raises(EngineError, match=rf"in {types}( on this CPU)?, not in {dtype.value}"):
            engines.choose("vllm", precision, dtype)


@pytest.mark.usefixtures("_installed")
def test_another_engine_is_chosen_for_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VLLM, "platform", lambda: AMX_CPU)
    for precision, words in (("int4", "W4A16 in float16 or bfloat16"), ("int8", "W8A8 in bfloat16")):
        decision = engines.choose("auto", precision, Dtype.FLOAT32)
        assert decision.name == "transformers"
        assert f"vLLM computes {words} on this CPU, not in float32" in decision.reason


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("precision", ["nvfp4", "nvfp4a16", "mxfp4"])
def test_weights_that_are_unpacked_to_16_bit_are_refused_in_float32(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VLLM, "platform", lambda: CPU)
    assert engines.choose("transformers", precision, Dtype.BFLOAT16).name == "transformers"
    with pytest.raises(EngineError, match=r"no engine serves .*Transformers computes W4A.* not in float32"):
        engines.choose("auto", precision, Dtype.FLOAT32)


@pytest.mark.parametrize("own", ["float16", "bfloat16"])
def test_auto_is_a_type_that_the_kernel_takes(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"int8": "bfloat16", "fp16": own, "int4": own, "w8a8": "bfloat16", "w4a16": own}
    monkeypatch.setattr(engine, "cpu_flags", lambda: TILES)
    for name, dtype in expected.items():
        assert VLLM.computing_dtype(Dtype.AUTO, facts(own), scheme_of(name), on_cpu=True) == dtype
        assert VLLM.computing_dtype(Dtype.AUTO, facts(own), scheme_of(name), on_cpu=False) == own
    monkeypatch.setattr(engine, "cpu_flags", lambda: AVX512 | {"amx_tile"})  # no instructions for either type
    assert VLLM.computing_dtype(Dtype.AUTO, facts(own), scheme_of("int8"), on_cpu=True) == "bfloat16"
    assert VLLM.computing_dtype(Dtype.AUTO, facts(own), scheme_of("fp16"), on_cpu=True) == "float32"


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(("capability", "expected"), [((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"),
                                                      (None, "bfloat16")])  # fmt: skip
def test_a_gpu_without_bfloat16_computes_in_float16(
    capability: tuple[int, int] | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = power.Gpu(0, "GPU-a", "Card", 1024.0, "1")
    able = power.GpuCapabilities(gpu, None, capability, has_counter=True, has_power=True, driver_cuda=None)
    monkeypatch.setattr(power, "resolve_gpus", lambda *_: (gpu,))
    monkeypatch.setattr(power, "gpu_capabilities", lambda gpus: (able,) if gpus else ())
    monkeypatch.setattr(VLLM, "platform", lambda: Platform("cuda", capability))
    engine._compute_in_bfloat16.cache_clear()
    for gpus in (None, (gpu,)):
        of = partial(VLLM.computing_dtype, Dtype.AUTO, scheme=scheme("fp16"), on_cpu=False, gpus=gpus)
        assert (of(facts("bfloat16")), of(facts("float16"))) == (expected, "float16")
        # torch emulates it on any GPU, and some models overflow in float16.
        emulated = TRANSFORMERS.computing_dtype(Dtype.AUTO, facts(), scheme("fp16"), on_cpu=False, gpus=gpus)
        assert emulated == "bfloat16"
    assert VLLM.computing_dtype(Dtype.AUTO, facts(), scheme("fp16"), on_cpu=False, gpus=()) == "bfloat16"
    engine._compute_in_bfloat16.cache_clear()
    if expected == "float16":
        with pytest.raises(EngineError, match=r"vLLM computes in bfloat16 from compute capability 8.0 on"):
            engines.choose("vllm", "fp16", Dtype.BFLOAT16)
    else:
        assert engines.choose("vllm", "fp16", Dtype.BFLOAT16).name == "vllm"


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ((*INSTANT, "--dtype", "float16"), 2, "does not support --dtype"),
        ((*SHORT, "--precision", "mxfp4", "--dtype", "float32"), 1, "Transformers computes W4A4-MXFP4 in float16 or"),
        ((*SHORT, "--precision", "online:fp8"), 1, "Transformers cannot serve it, only vLLM can"),
    ],
)
def test_what_an_engine_cannot_serve_is_refused_and_a_dry_run_says_the_same(
    options: tuple[str, ...], status: int, words: str, tmp_path: Path
) -> None:
    done = run_command("run", "--models", "demo", *options, cwd=tmp_path, env=WITH_INSTANT)
    assert done.returncode == status
    assert words in done.stderr
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("*.json"))
    dry = run_command("run", "--models", "demo", *options, "--dry-run", cwd=tmp_path, env=WITH_INSTANT)
    assert (dry.returncode, dry.stderr, dry.stdout) == (status, done.stderr, "")


def test_a_dry_run_refuses_no_engine_that_is_not_here(tmp_path: Path) -> None:
    options = (*INSTANT, "--dtype", "float16", "--dry-run")
    elsewhere = ("--executor", "ray")  # the cluster's machines have the engine
    done = run_command("run", "--models", "demo", *options, *elsewhere, cwd=tmp_path, env=WITH_INSTANT)
    assert (done.returncode, done.stderr) == (0, "")
    absent = (*options[2:], "--engine", "vllm", "--serve-python", str(_python_without_packages(tmp_path)))
    done = run_command("run", "--models", "demo", *absent, cwd=tmp_path, env=WITH_INSTANT)
    assert (done.returncode, done.stderr) == (0, "")


def _python_without_packages(folder: Path) -> Path:
    """An interpreter that has the standard library alone."""
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("float32", Dtype.FLOAT32), ("float", Dtype.FLOAT32), ("half", Dtype.FLOAT16), ("auto", Dtype.AUTO)],
)
def test_the_engine_argument_of_earlier_versions_means_the_option(name: str, dtype: Dtype) -> None:
    config = EngineConfig(engine_args=[f"dtype={name}", "max_num_seqs=4"])  # type: ignore[arg-type]
    assert config.asked_dtype is dtype
    assert config.further_args == {"max_num_seqs": 4}
    assert EngineConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float16", "engine_args": {"dtype": "float16"}}, "cannot be combined"),
        ({"engine_args": {"dtype": "int8"}}, "dtype=int8: unknown data type, known: auto, float16"),
        ({"dtype": "fp16"}, "auto"),
    ],
)
def test_both_or_an_unknown_one_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EngineConfig(**options)


def test_the_size_as_served_knows_the_type(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    assert served_bytes(folder, "float32") == 2 * served_bytes(folder, "float16") == 2 * served_bytes(folder)


def test_how_compressed_tensors_packs_is_read(tmp_path: Path) -> None:
    for form, packed in (("pack-quantized", True), ("int-quantized", False)):
        text = f'{{"quantization_config": {{"quant_method": "compressed-tensors", "format": "{form}"}}}}'
        (tmp_path / "config.json").write_text(text)
        assert describe_config(tmp_path).is_packed is packed
