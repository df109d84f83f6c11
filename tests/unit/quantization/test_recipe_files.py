"""Recipes of the user's own: what is read from the file, and what is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slim_eval.config import RunConfig
from slim_eval.errors import UsageError
from slim_eval.execution import messages
from slim_eval.execution.plan import lay_out
from slim_eval.quantization import cache, recipe_files
from slim_eval.quantization.recipe_files import of_text, register
from slim_eval.schemes import SCHEMES, Recipe, find, is_quantized, scheme
from tests.unit.quantization.test_cache import request

GPTQ = "default_stage:\n  default_modifiers:\n    GPTQModifier: {scheme: W4A16, targets: [Linear], ignore: [lm_head]}\n"


@pytest.fixture(autouse=True)
def _leave_no_recipe() -> Iterator[None]:
    yield
    for name in recipe_files.texts():
        SCHEMES.unregister(f"recipe:{name}")


def recipe(modifiers: str) -> str:
    return f"a_stage: {{b_modifiers: {{{modifiers}}}}}"


@pytest.mark.parametrize(
    ("modifiers", "label", "bits", "calibrates"),
    [
        ("GPTQModifier: {scheme: W4A16}", "W4A16", (4, 16, 16), True),
        ("QuantizationModifier: {scheme: FP8_DYNAMIC, targets: Linear}", "FP8", (8, 8, 16), False),
        ("QuantizationModifier: {scheme: FP8}", "FP8", (8, 8, 16), True),
        ("QuantizationModifier: {scheme: W8A8}", "W8A8", (8, 8, 16), False),
        ("SmoothQuantModifier: {}, QuantizationModifier: {scheme: W8A8}", "W8A8", (8, 8, 16), True),
        (
            "QuantizationModifier: {scheme: W8A8, kv_cache_scheme: {num_bits: 8, type: float}}",
            "W8A8+KV8",
            (8, 8, 8),
            True,
        ),
        (
            "QuantizationModifier: {config_groups: {g: {weights: {num_bits: 4, type: int, group_size: 32}}}}",
            "W4A16 g32",
            (4, 16, 16),
            False,
        ),
        (
            "QuantizationModifier: {config_groups: {g: {weights: {num_bits: 8, type: int}, "
            "input_activations: {num_bits: 8, type: int}}}}",
            "W8A8",
            (8, 8, 16),
            True,
        ),
        (
            "QuantizationModifier: {scheme: {W4A16: ['re:.*mlp.*'], W8A8: ['re:.*attn.*']}}",
            "MIXED-W4A16-W8A8",
            (16, 16, 16),
            False,
        ),
        ("AutoRoundModifier: {scheme: W4A16}", "W4A16", (4, 16, 16), True),
    ],
)
def test_formats_and_calibration_are_read_from_the_file(
    modifiers: str, label: str, bits: tuple[float, float, float], calibrates: bool
) -> None:
    made = of_text("mine", recipe(modifiers), "mine.yaml")
    assert made.recipe is not None
    assert (made.label, made.recipe.needs_calibration) == (label, calibrates)
    assert (made.weight_bits, made.activation_bits, made.kv_cache_bits) == bits
    if label in ("W4A16", "W8A8"):
        assert made.kernels, "what engines need is that of the same formats"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "line 1, column 6"),
        ("a: \tb: c", "line 1"),
        ("", "contains no modifiers"),
        ("[1, 2]", "contains no modifiers"),
        ("modifiers: {GPTQModifier: {scheme: W4A16}}", "contains no modifiers"),
        ("a_stage: {b_modifiers: [GPTQModifier]}", "contains no modifiers"),
        (recipe("GPTQModifier: W4A16"), "GPTQModifier has no arguments"),
        (recipe("SmoothQuantModifier: {smoothing_strength: 0.8}"), "quantizes nothing"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: &a [*a, *a]\nb: {<<: 1}", "expected a mapping"),
        ("&a [" * 2000, "recipe"),
    ],
)
def test_what_is_no_recipe(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        of_text("mine", text, "mine.yaml")
    assert words in caught.value.cause
    assert "\n" not in caught.value.cause
    assert caught.value.remedy


def test_an_unknown_modifier_is_named_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llmcompressor" / "modifiers" / "gptq"
    package.mkdir(parents=True)
    (package / "base.py").write_text("class GPTQModifier(Modifier):\n    pass\n")
    monkeypatch.setattr(recipe_files.environment, "module_folder", lambda *_: tmp_path / "llmcompressor")
    assert of_text("mine", GPTQ, "mine.yaml")
    with pytest.raises(UsageError) as caught:
        of_text("mine", GPTQ.replace("GPTQMod", "GTPQMod"), "mine.yaml")
    assert caught.value.cause == "recipe mine.yaml: llm-compressor has no modifier 'GTPQModifier'"
    assert "GPTQModifier" in str(caught.value.remedy)


def test_a_file_becomes_a_scheme_with_a_name_for_folders(tmp_path: Path) -> None:
    file = tmp_path / "w4a16 mine.yaml"
    file.write_text(GPTQ)
    register([f"recipe:{file}", "int8"])
    made = scheme(f"recipe:{file}")
    assert made.name == "recipe:w4a16_mine"
    assert scheme("recipe:w4a16_mine") == made
    asked = request(tmp_path, precision=made.name)
    assert cache.checkpoint_directory(asked).name == "Tiny_recipe_w4a16_mine"
    assert is_quantized("recipe:of-another-run"), "a record's scheme is known to be quantized without the file"
    with pytest.raises(UsageError, match="a recipe says itself"):
        scheme("recipe:w4a16_mine+kv8")


def test_the_content_is_a_setting(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(GPTQ)
    register([f"recipe:{file}"])
    first = cache.settings(request(tmp_path, precision="recipe:mine"))
    record = cache.recipe_record(cache.recipe_of("recipe:mine"))
    assert record["file"] == GPTQ
    file.write_text(GPTQ.replace("lm_head", "re:.*down_proj"))
    register([f"recipe:{file}"])
    second = cache.settings(request(tmp_path, precision="recipe:mine"))
    assert first["recipe"] != second["recipe"]
    assert first["recipe"].startswith("sha256:")


@pytest.mark.parametrize("name", ["missing.yaml", "folder"])
def test_what_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        register([f"recipe:{tmp_path / name}"])
    config = RunConfig(models=("demo",), precision=(f"recipe:{tmp_path / name}",), output_dir=tmp_path / "o")
    with pytest.raises(UsageError, match="cannot be read"):
        lay_out(config)
    assert not (tmp_path / "o").exists()


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(GPTQ)
    with pytest.raises(UsageError, match="have the same name"):
        register([f"recipe:{tmp_path / folder / 'mine.yaml'}" for folder in ("a", "b")])


def test_a_recipe_travels_with_its_job(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(GPTQ)
    register([f"recipe:{file}"])
    text = messages.QuantizeJob(request=request(tmp_path, precision="recipe:mine")).model_dump_json()
    SCHEMES.unregister("recipe:mine")
    assert find("recipe:mine") is None
    job = messages.parse_job(text)
    assert isinstance(job, messages.QuantizeJob)
    assert job.request.recipe.file == GPTQ, "where the file is not"


def test_a_modifier_without_a_list_of_what_it_ignores_is_accepted() -> None:
    """SmoothQuant's is None by default: a fault of ours there looked like a recipe that is wrong."""
    pytest.importorskip("llmcompressor")
    from slim_eval.quantization.llmcompressor import modifiers_of

    text = recipe(
        "SmoothQuantModifier: {smoothing_strength: 0.8}, QuantizationModifier: {scheme: W8A8, targets: [Linear]}"
    )
    made = Recipe(name="mine (W8A8)", scheme="", file=text)
    assert [list(modifier.ignore) for modifier in modifiers_of(made)] == [list(made.ignore)] * 2


@pytest.mark.parametrize("pattern", ["ignore: ['re:*lm_head']", "targets: ['re:*lm_head']"])
def test_a_pattern_that_is_none_is_refused_where_the_file_is_read(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"recipe mine.yaml: 're:\*lm_head' is not a regular expression") as caught:
        of_text("mine", recipe(f"GPTQModifier: {{scheme: W4A16, {pattern}}}"), "mine.yaml")
    assert "\n" not in caught.value.cause
    assert "re:.*lm_head" in caught.value.remedy
