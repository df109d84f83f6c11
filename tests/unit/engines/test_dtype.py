"""The data type of computation: what ``--dtype auto`` is, what each engine accepts, and that both spellings are one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slim_eval import engines
from slim_eval.config import Dtype, EngineConfig
from slim_eval.engines import Platform, engine
from slim_eval.engines.memory import served_bytes
from slim_eval.engines.transformers import TRANSFORMERS
from slim_eval.engines.vllm import VLLM
from slim_eval.errors import EngineError
from slim_eval.models.source import ConfigFacts, describe_config
from slim_eval.schemes import scheme
from tests.commands import INSTANT, WITH_INSTANT, run_command
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
    """Every engine, and vLLM's build for the CPU on one with AVX-512."""
    monkeypatch.setattr(engine, "find_spec", lambda name: importlib.util.find_spec("json"))
    monkeypatch.setattr(VLLM, "platform", lambda: Platform("cpu", cpu_flags=AVX512))


@pytest.mark.usefixtures("_installed")
def test_a_kernel_that_cannot_compute_in_a_type_is_not_chosen() -> None:
    assert engines.choose("auto", "int4").name == "vllm"
    assert engines.choose("auto", "int4", Dtype.BFLOAT16).name == "vllm"
    decision = engines.choose("auto", "int4", Dtype.FLOAT32)
    assert decision.name == "transformers"
    assert "W4A16 kernel on CPU computes in float16 or bfloat16, not in float32" in decision.reason
    assert engines.choose("auto", "int8", Dtype.FLOAT32).name == "vllm"
    with pytest.raises(EngineError, match="not in float32"):
        engines.choose("vllm", "int4", Dtype.FLOAT32)


def test_an_engine_that_does_not_know_types_refuses_one(tmp_path: Path) -> None:
    done = run_command("run", "--models", "demo", "--dtype", "float16", *INSTANT, cwd=tmp_path, env=WITH_INSTANT)
    assert done.returncode == 2
    assert "does not support --dtype" in done.stderr
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("*.json"))


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
