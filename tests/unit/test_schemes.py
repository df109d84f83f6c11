"""Schemes beyond the table's entries: an FP8 KV cache, quantization while loading, and what engines may serve them."""

from __future__ import annotations

from pathlib import Path

import pytest

from slim_eval.config import EngineConfig
from slim_eval.engines import ENGINES
from slim_eval.engines.engine import EngineType, Platform
from slim_eval.errors import UsageError
from slim_eval.execution.plan import served_schemes
from slim_eval.execution.worker import _refuse_contradictions
from slim_eval.models import architectures
from slim_eval.quantization import cache
from slim_eval.schemes import KV8, ONLINE, SCHEMES, find, in_order, is_quantized, scheme, scheme_of
from tests.unit.quantization.test_cache import request

HOPPER, AMPERE = Platform("cuda", (9, 0)), Platform("cuda", (8, 0))
AVX2, AVX512 = (Platform("cpu", cpu_flags=frozenset({"avx2", *more})) for more in ((), ("avx512f", "avx512_vnni")))
VLLM, TRANSFORMERS = ENGINES["vllm"], ENGINES["transformers"]


@pytest.mark.parametrize("name", [*SCHEMES])
def test_every_scheme_has_a_variant_with_an_fp8_cache(name: str) -> None:
    plain, eight = scheme(name), scheme(name + KV8)
    assert (eight.name, eight.label, eight.kv_cache_bits) == (name + KV8, f"{plain.label}+KV8", 8)
    assert (eight.weight_bits, eight.activation_bits) == (plain.weight_bits, plain.activation_bits)
    assert eight.is_quantized is is_quantized(name + KV8) is plain.is_quantized
    assert eight.colour != plain.colour
    assert eight.served_with["vllm"]["kv_cache_dtype"] == "fp8"
    if plain.recipe is None:
        assert "transformers" not in eight.served_with
    else:
        assert eight.recipe is not None
        assert (eight.recipe.kv_cache, eight.recipe.needs_calibration) == (True, True)
        assert "+KV8" in eight.recipe.with_groups(32).name
        assert scheme_of(name).recipe == plain.recipe, "the plain scheme is unchanged"


def test_the_cache_is_a_setting_of_the_checkpoint_and_of_its_folder(tmp_path: Path) -> None:
    asked = {name: request(tmp_path, precision=name) for name in ("fp8", "fp8+kv8")}
    settings = {name: cache.settings(each) for name, each in asked.items()}
    assert "kv_cache" not in settings["fp8"], "older checkpoints are still found"
    assert settings["fp8+kv8"]["kv_cache"] is True
    assert settings["fp8+kv8"]["num_calibration_samples"], "its scales are calibrated"
    assert cache.checkpoint_directory(asked["fp8+kv8"]).name == "Tiny_fp8_kv8"


@pytest.mark.parametrize(
    ("engine", "name", "platform", "obstacle"),
    [
        (VLLM, "int8+kv8", HOPPER, None),
        (VLLM, "fp16+kv8", AMPERE, "needs compute capability 8.9"),
        (VLLM, "fp16", AMPERE, None),
        (VLLM, "int8+kv8", AVX2, "needs AVX-512"),
        (VLLM, "int8", AVX2, None),
        (VLLM, "fp16+kv8", AVX512, None),
        (VLLM, "w4a16+kv8 g128", AVX2, "needs AVX-512"),
        (TRANSFORMERS, "int8+kv8", AVX2, None),
        (TRANSFORMERS, "fp16+kv8", AVX2, "Transformers cannot serve it, only vLLM can"),
        (TRANSFORMERS, "online:fp8", AVX2, "Transformers cannot serve it, only vLLM can"),
        (VLLM, "online:fp8", AVX2, "no W8A8-FP8 kernel for CPUs"),
        (VLLM, "online:fp8", HOPPER, None),
        (VLLM, "online:mxfp8", HOPPER, "needs compute capability 10.0"),
    ],
)
def test_what_engines_serve(engine: object, name: str, platform: Platform, obstacle: str | None) -> None:
    found = engine.obstacle(scheme_of(name), platform)  # type: ignore[attr-defined]
    assert found is None if obstacle is None else obstacle in str(found)


def test_a_plugins_engine_that_says_nothing_of_the_cache_serves_none() -> None:
    class Silent(EngineType):
        name, label = "silent", "Silent"

    assert Silent().obstacle(scheme("int8"), HOPPER) is None
    assert Silent().obstacle(scheme("int8+kv8"), HOPPER) == ("Silent cannot serve it, only vLLM and Transformers can")


def test_online_quantization_makes_no_checkpoint() -> None:
    names = [name for name in SCHEMES if name.startswith(ONLINE)]
    assert len(names) > 2
    for name in names:
        assert not is_quantized(name)
        assert scheme(name).served_with["vllm"] == {"quantization": name.removeprefix(ONLINE)}
        assert scheme(name).recorded_as != "FP16"
    with pytest.raises(UsageError, match="unknown precision 'online:awq'"):
        scheme("online:awq")


@pytest.mark.parametrize(("methods", "obstacle"), [("'awq', 'fp8'", None), ("'awq'", "has no quantization 'fp8'")])
def test_online_methods_are_those_of_the_installed_vllm(
    methods: str, obstacle: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model_executor" / "layers" / "quantization" / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text(f"QuantizationMethods = Literal[{methods}]\n")
    monkeypatch.setattr(architectures.environment, "module_folder", lambda *_: tmp_path)
    monkeypatch.setattr(type(VLLM), "platform", lambda _: HOPPER)
    found = VLLM.obstacle(scheme("online:fp8"))
    assert found is None if obstacle is None else obstacle in str(found)


def test_what_needs_16_bit_weights_is_not_taken_for_the_checkpoints_own_scheme() -> None:
    assert served_schemes(["fp16", "as-is"], "w4a16 g128") == ["w4a16 g128"]
    assert served_schemes(["fp16+kv8"], "w4a16 g128") == ["fp16+kv8"], "which the checks refuse"
    assert served_schemes(["fp16"], "fp8+kv8") == ["fp8+kv8 as-is"]


@pytest.mark.parametrize(
    ("precision", "arguments", "words"),
    [
        ("int8+kv8", {"kv_cache_dtype": "fp8_e5m2"}, "--precision int8\\+kv8 sets it"),
        ("fp16", {"quantization": "fp8"}, "under a false name"),
        ("online:fp8", {"quantization": "awq"}, "--precision online:fp8 sets it"),
    ],
)
def test_engine_arguments_that_contradict_the_scheme(precision: str, arguments: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        _refuse_contradictions(EngineConfig(engine_args=arguments), precision, "vllm")


@pytest.mark.parametrize(("precision", "arguments"), [("fp16", {"kv_cache_dtype": "fp8"}), ("int8", {})])
def test_engine_arguments_that_do_not(precision: str, arguments: dict[str, str]) -> None:
    _refuse_contradictions(EngineConfig(engine_args=arguments), precision, "vllm")


def test_order_and_unknown_names() -> None:
    mixed = ["int4", "int8+kv8", "int8", "fp16+kv8", "fp16"]
    assert in_order(mixed) == [
        "fp16",
        "fp16+kv8",
        "int8",
        "int8+kv8",
        "int4",
    ]
    assert find("int9+kv8") is find("+kv8") is None
    with pytest.raises(UsageError, match="unknown precision 'as-is\\+kv8'"):
        scheme("as-is+kv8")


@pytest.mark.parametrize(
    ("widths", "size", "misfits"),
    [
        ((256, 512), 128, []),
        ((256, 576), 64, []),
        ((256, 576, 96), 32, []),
        ((256, 576, 80), 64, ["2 (80)"]),
        ((80, 100), 128, ["0 (80)", "1 (100)"]),
    ],
)
def test_the_group_size_is_the_largest_that_fits_what_can_be_fitted(
    widths: tuple[int, ...], size: int, misfits: list[str]
) -> None:
    recipe = scheme("int4").recipe
    assert recipe is not None
    found = {str(number): width for number, width in enumerate(widths)}
    assert recipe.fitting(found) == size
    assert recipe.with_groups(size).misfits(found) == misfits
