"""The table of checks of a checkpoint: what is refused or noted from its files alone, and what is not."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from slim_eval import models
from slim_eval.demo import MODEL_DIR
from slim_eval.errors import SlimEvalError, UsageError
from slim_eval.models import architectures, checkpoint_checks
from slim_eval.models.checkpoint_checks import Finding, Use
from slim_eval.models.source import ConfigFacts, read_header
from slim_eval.schemes import Recipe, scheme

QUANTIZING = Use(precisions=("fp16", "int8", "int4"), to_quantize=("int8", "int4"))


@dataclass(frozen=True)
class Server:
    """An engine with these answers."""

    label: str = "Transformers"
    known: bool | None = True
    own_formats: frozenset[str] | None = frozenset()

    def knows(self, facts: ConfigFacts, python: Path | None, *, trust_remote_code: bool) -> bool | None:
        return self.known


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the embedded model, to change."""
    return Path(shutil.copytree(MODEL_DIR, tmp_path / "model"))


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    change(content)
    file.write_text(json.dumps(content))


def configure(folder: Path, **values: Any) -> None:
    edit(folder / "config.json", lambda config: config.update(values))


def write_weights(file: Path, tensors: dict[str, tuple[tuple[int, ...], bytes | None]]) -> None:
    """A safetensors file of bfloat16 tensors: shape, and the bytes of the values or None for zeros."""
    header, body = {}, b""
    for name, (shape, content) in tensors.items():
        size = 2
        for side in shape:
            size *= side
        values = bytes(size) if content is None else content
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(body), len(body) + size]}
        body += values
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def look(folder: Path, use: Use = QUANTIZING) -> list[Finding]:
    return checkpoint_checks.examine(models.resolve(str(folder)), use)


def only(folder: Path, use: Use = QUANTIZING) -> Finding:
    (finding,) = look(folder, use)
    return finding


def test_a_sound_checkpoint_has_no_findings() -> None:
    assert checkpoint_checks.examine(models.resolve("demo"), replace(QUANTIZING, servers=(Server(),))) == []


def test_each_row_of_the_table_says_what_it_reads() -> None:
    assert len({check.name for check in checkpoint_checks.CHECKS}) == len(checkpoint_checks.CHECKS)
    assert all(check.reads for check in checkpoint_checks.CHECKS)


def test_nothing_heavy_is_imported_and_no_weight_is_changed() -> None:
    code = (
        "import sys; from slim_eval import models; from slim_eval.models import checkpoint_checks; "
        "from slim_eval.execution.plan import intended_use; from slim_eval.config import RunConfig; "
        "run = RunConfig(models='demo', precision='fp16 int4'); source = models.resolve('demo'); "
        "assert checkpoint_checks.examine(source, intended_use(run, source, run.precision)) == []; "
        "assert not {'torch', 'transformers', 'vllm', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Configuration and architecture


def test_what_is_not_a_language_model_is_said_alone(demo: Path) -> None:
    configure(demo, architectures=["BertForMaskedLM"])
    finding = only(demo)
    assert (finding.check, finding.is_refusal) == ("configuration", True)
    assert "is an encoder (BertForMaskedLM), not a causal language model" in finding.cause
    (demo / "config.json").write_text("[]")
    assert only(demo).check == "configuration"


@pytest.mark.parametrize("known", [True, None])
def test_an_architecture_that_one_engine_may_serve_is_not_refused(demo: Path, known: bool | None) -> None:
    use = Use(precisions=("fp16",), servers=(Server(known=False), Server("vLLM", known)))
    assert look(demo, use) == []


def test_an_architecture_that_no_engine_knows(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = architectures.Library(frozenset({"llama", "picture"}), frozenset({"llama"}))
    monkeypatch.setattr(architectures, "transformers", lambda python: library)
    use = Use(precisions=("fp16",), servers=(Server(known=False),))
    configure(demo, model_type="picture", architectures=["PictureForConditionalGeneration"])
    finding = only(demo, use)
    assert "is a PictureForConditionalGeneration (model type 'picture'): Transformers has no causal" in finding.cause
    assert "--engine vllm" in finding.remedy
    configure(demo, model_type="llama99")
    finding = only(demo, replace(use, serve_python=Path("/opt/python")))
    assert finding.cause.endswith("the installed Transformers does not know this type")
    assert "/opt/python -m pip install -U transformers" in finding.remedy
    # Served by vLLM, but not to be quantized.
    configure(demo, model_type="picture")
    finding = only(demo, replace(QUANTIZING, servers=(Server("vLLM"),)))
    assert "by which models are quantized" in finding.cause
    assert "leave int8 and int4 out of --precision" in finding.remedy


def test_code_that_comes_with_a_model_must_be_trusted(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = architectures.Library(frozenset({"llama"}), frozenset({"llama"}))
    monkeypatch.setattr(architectures, "transformers", lambda python: library)
    configure(demo, model_type="own", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    use = Use(precisions=("int8",), to_quantize=("int8",))
    finding = only(demo, use)
    assert "whose Python code comes with the checkpoint" in finding.cause
    assert finding.remedy == "review the code, then add --trust-remote-code"
    assert look(demo, replace(use, trust_remote_code=True)) == []
    configure(demo, model_type="llama")  # Transformers has a class of its own
    assert look(demo, use) == []


def test_what_libraries_know_is_read_from_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = tmp_path / "transformers" / "models" / "auto"
    auto.mkdir(parents=True)
    (auto / "configuration_auto.py").write_text('CONFIG_MAPPING_NAMES = OrderedDict([("a", "AConfig"), ("b", "B")])')
    (auto / "modeling_auto.py").write_text(
        'MODEL_FOR_CAUSAL_LM_MAPPING_NAMES: dict[str, str] = OrderedDict([("a", "AForCausalLM")])\n'
        'MODEL_FOR_MASKED_LM_MAPPING_NAMES = OrderedDict([("b", "BForMaskedLM")])'
    )
    registry = tmp_path / "vllm" / "model_executor" / "models" / "registry.py"
    registry.parent.mkdir(parents=True)
    registry.write_text(
        '_TEXT_MODELS = {"CForCausalLM": ("c", "C")}\n_VLLM_MODELS = {**_TEXT_MODELS}\n'
        '_PREVIOUSLY_SUPPORTED_MODELS = {"Old": "0.1"}'
    )
    config = tmp_path / "vllm" / "transformers_utils" / "config.py"
    config.parent.mkdir()
    config.write_text('_CONFIG_REGISTRY: dict[str, type] = Lazy(c="CConfig")')
    monkeypatch.setattr("slim_eval.utils.environment.module_folder", lambda name, python: tmp_path / name)
    facts = models.describe_config(MODEL_DIR)

    def knows(kind: str, name: str, **changes: Any) -> tuple[bool | None, bool | None]:
        asked = facts.model_copy(update={"model_type": kind, "architecture": name, **changes})
        return tuple(  # type: ignore[return-value]
            known(asked, None, trust_remote_code=False)
            for known in (architectures.transformers_knows, architectures.vllm_knows)
        )

    assert knows("a", "AForCausalLM") == (True, True)  # vLLM uses Transformers' model
    assert knows("b", "BForMaskedLM") == (False, False)
    assert knows("c", "CForCausalLM") == (False, True)
    assert knows("d", "CForCausalLM") == (False, False)  # whose configuration nobody reads
    assert knows("a", "Old") == (True, True)
    monkeypatch.setattr("slim_eval.utils.environment.module_folder", lambda name, python: None)
    assert knows("d", "D") == (None, None)
    monkeypatch.setattr("slim_eval.utils.environment.module_folder", lambda name, python: tmp_path)
    assert knows("d", "D") == (None, None)


def test_the_installed_transformers_can_be_read() -> None:
    pytest.importorskip("transformers")
    library = architectures.transformers(None)
    assert library is not None
    assert {"llama", "qwen2", "gemma2", "phi3", "mamba", "gpt2"} <= library.causal & library.model_types
    assert not {"t5", "vit"} & library.causal
    assert architectures.transformers(Path(sys.executable)) == library


# Weight files


def test_shards_without_an_index(demo: Path) -> None:
    (demo / "model.safetensors").rename(demo / "model-00001-of-00002.safetensors")
    write_weights(demo / "model-00002-of-00002.safetensors", {"model.norm2.weight": ((4,), None)})
    finding = only(demo)
    assert (finding.check, finding.is_refusal) == ("weight files", True)
    assert "2 weight files, e.g. model-00001-of-00002.safetensors, but no model.safetensors.index.json" in finding.cause
    names = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    weight_map = {tensor: name for name in names for tensor in read_header(demo / name)}
    (demo / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert look(demo) == []


def test_one_file_under_a_name_that_transformers_does_not_read(demo: Path) -> None:
    (demo / "model.safetensors").rename(demo / "pytorch_model.safetensors")
    assert "e.g. pytorch_model.safetensors, but no model.safetensors.index.json" in only(demo).cause


@pytest.mark.parametrize(
    ("weight_map", "cause"),
    [
        ({"model.norm.weight": "model-00002.safetensors"}, "1 of 1 weight files are missing"),
        ({"model.norm.weight": "model.safetensors", "other.weight": "model.safetensors"}, "e.g. other.weight"),
    ],
)
def test_an_index_that_is_not_of_these_files(demo: Path, weight_map: dict[str, str], cause: str) -> None:
    (demo / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert any(finding.check == "weight files" and cause in finding.cause for finding in look(demo))


@pytest.mark.parametrize("indexed", [False, True])
def test_two_sets_of_the_same_weights(demo: Path, indexed: bool) -> None:
    """Transformers reads model.safetensors, vLLM the files of the index, or all."""
    shutil.copy(demo / "model.safetensors", demo / "model-00001-of-00001.safetensors")
    if indexed:
        names = dict.fromkeys(read_header(demo / "model.safetensors"), "model-00001-of-00001.safetensors")
        (demo / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert "model.safetensors and other files contain weights of the same names" in only(demo).cause
    (demo / "model.safetensors").unlink()
    assert len(look(demo)) == (not indexed)


# Tokenizer


def rows(folder: Path, count: int) -> None:
    """Replace the weights by an embedding of this many rows and a linear layer."""
    tensors = {"model.embed_tokens.weight": ((count, 256), None), "model.a.weight": ((2, 256), None)}
    write_weights(folder / "model.safetensors", tensors)


def test_a_tokenizer_with_more_tokens_than_the_embedding(demo: Path) -> None:
    knows = len(json.loads((demo / "tokenizer.json").read_text())["model"]["vocab"])
    rows(demo, knows)
    assert look(demo) == []
    rows(demo, 64 * knows)  # padded
    assert look(demo) == []
    rows(demo, knows - 3)
    finding = only(demo)
    assert finding.check == "tokenizer"
    assert f"knows {knows} tokens, but the model has embeddings for {knows - 3}: 3 tokens" in finding.cause
    with pytest.raises(UsageError, match="embeddings for"):
        checkpoint_checks.require(models.resolve(str(demo)), QUANTIZING)


def test_a_vocabulary_with_scores_or_in_a_file_of_its_own(demo: Path) -> None:
    rows(demo, 4)
    pieces = [["<unk>", 0.0], ["a", -1.0], ["b", -1.5], ["c", -2.0]]
    (demo / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": pieces}}))
    (demo / "tokenizer_config.json").unlink()
    assert look(demo) == []
    (demo / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": [*pieces, ["d", -3.0]]}}))
    assert "knows 5 tokens" in only(demo).cause
    (demo / "tokenizer.json").unlink()
    (demo / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate("abcdef")}))
    assert "knows 6 tokens" in only(demo).cause


def test_an_added_token_without_an_embedding_is_noted(demo: Path) -> None:
    """Gemma 3 has one for images, which its text models have no embedding for."""
    added = {"id": 4096, "content": "<image>", "special": True}
    edit(demo / "tokenizer.json", lambda content: content["added_tokens"].append(added))
    finding = only(demo)
    assert (finding.check, finding.is_refusal) == ("tokenizer", False)
    assert "<image>" in finding.cause
    assert checkpoint_checks.require(models.resolve(str(demo)), QUANTIZING) == [finding]


def test_an_added_token_that_every_prompt_contains_is_refused(demo: Path) -> None:
    edit(
        demo / "tokenizer_config.json",
        lambda content: content.update(
            added_tokens_decoder={"4096": {"content": "<s2>"}}, bos_token={"content": "<s2>", "special": True}
        ),
    )
    finding = only(demo)
    assert finding.is_refusal
    assert "adds <s2> to every prompt" in finding.cause


def test_no_tokenizer_at_all(demo: Path) -> None:
    for file in demo.glob("tokenizer*"):
        file.unlink()
    assert only(demo).cause == f"{demo}: no tokenizer"


# Output layer


@pytest.mark.parametrize(
    ("tied", "shape", "last", "is_refused"),
    [
        (True, (300, 256), 0, False),
        (True, (300, 256), 1, True),
        (True, (299, 256), 0, True),
        (False, (300, 256), 1, False),
    ],
)
def test_a_head_of_its_own_under_a_configuration_that_ties_it(
    demo: Path, tied: bool, shape: tuple[int, int], last: int, is_refused: bool
) -> None:
    (demo / "tokenizer.json").unlink()  # of more tokens
    configure(demo, tie_word_embeddings=tied)
    values = bytes(2 * shape[0] * shape[1] - 1) + bytes([last])
    table = ((300, 256), None)
    write_weights(demo / "model.safetensors", {"model.embed_tokens.weight": table, "lm_head.weight": (shape, values)})
    found = look(demo, Use(precisions=("fp16",)))
    assert [finding.check for finding in found] == (["output layer"] if is_refused else [])
    if is_refused:
        assert "lm_head.weight differs from model.embed_tokens.weight" in found[0].cause
        assert "tie_word_embeddings" in found[0].remedy


def test_a_family_may_tie_the_head_without_a_word_in_the_configuration(demo: Path) -> None:
    pytest.importorskip("transformers")
    (demo / "tokenizer.json").unlink()
    values = bytes(2 * 300 * 256 - 1) + b"\1"
    tensors = {"model.embed_tokens.weight": ((300, 256), None), "lm_head.weight": ((300, 256), values)}
    write_weights(demo / "model.safetensors", tensors)
    edit(demo / "config.json", lambda config: config.pop("tie_word_embeddings"))
    assert look(demo, Use()) == []  # Llama
    configure(demo, model_type="gemma3_text")
    assert "its model type gemma3_text ties the output layer" in only(demo, Use()).cause
    configure(demo, tie_word_embeddings=False)
    assert look(demo, Use()) == []


def test_the_tensors_may_be_in_different_files(demo: Path) -> None:
    (demo / "tokenizer.json").unlink()
    tensors = {"model.embed_tokens.weight": b"\1\0" * 12, "lm_head.weight": b"\1\0" * 11 + b"\2\0"}
    for number, (name, values) in enumerate(tensors.items()):
        write_weights(demo / f"{number}.safetensors", {name: ((3, 4), values)})
    (demo / "model.safetensors").unlink()
    index = {name: f"{number}.safetensors" for number, name in enumerate(tensors)}
    (demo / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    configure(demo, tie_word_embeddings=True)
    assert only(demo, Use()).check == "output layer"


# Layer widths

PLAIN = {
    "model.embed_tokens.weight": (512, 100),
    "model.layers.0.self_attn.q_proj.weight": (64, 256),
    "model.layers.0.self_attn.q_proj.bias": (7,),
    "model.layers.0.conv.conv.weight": (64, 1, 3),
    "model.layers.0.mixer.A_log": (64, 16),
    "lm_head.weight": (512, 100),
    "vision_tower.layers.0.fc1.weight": (64, 100),
    "model.audio_tower.layers.0.fc1.weight": (64, 100),
}


@pytest.mark.parametrize(
    ("kind", "name", "shape", "width", "fits"),
    [
        ("llama", "model.layers.0.mlp.down_proj.weight", (64, 576), 576, 64),
        ("qwen3_moe", "model.layers.0.mlp.experts.0.down_proj.weight", (256, 192), 192, 64),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.3.w2.weight", (256, 96), 96, 32),
        ("qwen3_5_moe", "model.layers.0.mlp.experts.down_proj", (8, 256, 80), 80, None),
        ("gpt_oss", "model.layers.0.mlp.experts.down_proj", (8, 192, 256), 192, 64),
        ("mamba", "backbone.layers.0.mixer.dt_proj.weight", (512, 16), 16, None),
        ("gpt_neox", "gpt_neox.layers.0.attention.query_key_value.weight", (512, 320), 320, 64),
    ],
)
def test_each_quantized_width_is_a_multiple_of_the_group_size(
    demo: Path, kind: str, name: str, shape: tuple[int, ...], width: int, fits: int | None
) -> None:
    (demo / "tokenizer.json").unlink()
    configure(demo, model_type=kind, tie_word_embeddings=False, num_hidden_layers=1)
    tensors: dict[str, tuple[tuple[int, ...], None]] = {key: (value, None) for key, value in PLAIN.items()}
    tensors["model.embed_tokens.weight"] = tensors["lm_head.weight"] = ((4, 100), None)
    write_weights(demo / "model.safetensors", tensors)
    use = Use(to_quantize=("int8", "int4"))
    assert look(demo, use) == []
    write_weights(demo / "model.safetensors", {**tensors, name: (shape, None)})
    finding = only(demo, use)  # int8 has a scale per channel
    assert (finding.precision, finding.check) == ("int4", "layer widths")
    layer = f"{name.removesuffix('.weight')} ({width})"
    if fits is None:
        assert finding.is_refusal
        text = "W4A16 needs input sizes that are multiples of 128 or 64 or 32; 1 of 2 layers do not comply, e.g. "
        assert finding.cause.endswith(f"{text}{layer}")
        kept = only(demo, replace(use, skip_unfit=True))
        assert not kept.is_refusal
        assert kept.cause == f"int4: 1 of 2 layers stay in 16 bit, e.g. {layer}"
    else:
        assert not finding.is_refusal
        assert finding.cause == f"int4: groups of {fits} columns, because 128 does not fit {layer}"
    asked = only(demo, replace(use, group_size=128))
    assert asked.is_refusal
    assert "multiples of 128; 1 of 2 layers do not comply" in asked.cause
    assert look(demo, replace(use, group_size=16)) == []
    assert look(demo, Use(precisions=("fp16", "int8"), to_quantize=("int8",))) == []


def test_the_group_size_is_for_the_layers_that_any_size_fits(demo: Path) -> None:
    (demo / "tokenizer.json").unlink()
    configure(demo, tie_word_embeddings=False, num_hidden_layers=1)
    tensors = {f"model.layers.0.{width}.weight": ((4, width), None) for width in (80, 256, 576)}
    write_weights(demo / "model.safetensors", {"lm_head.weight": ((4, 100), None), **tensors})
    use = Use(to_quantize=("int4",))
    refused = only(demo, use)
    assert refused.is_refusal
    assert "multiples of 128 or 64 or 32; 1 of 3 layers do not comply, e.g. model.layers.0.80 (80)" in refused.cause
    assert [finding.cause for finding in look(demo, replace(use, skip_unfit=True))] == [
        "int4: 1 of 3 layers stay in 16 bit, e.g. model.layers.0.80 (80)",
        "int4: groups of 64 columns, because 128 does not fit model.layers.0.576 (576)",
    ]
    source, recipe = models.resolve(str(demo)), scheme("int4").recipe
    assert recipe is not None
    assert checkpoint_checks.grouping(source, recipe, skip_unfit=True) == (64, False)
    write_weights(demo / "model.safetensors", {"model.layers.0.mlp.weight": ((4, 576), None)})
    assert checkpoint_checks.grouping(source, recipe, skip_unfit=True) == (64, True)


def test_a_size_that_is_part_of_the_format_is_not_asked_for(demo: Path) -> None:
    (demo / "tokenizer.json").unlink()
    configure(demo, tie_word_embeddings=False, num_hidden_layers=1)
    tensors = {"lm_head.weight": ((4, 100), None), "model.layers.0.mlp.weight": ((4, 96), None)}
    write_weights(demo / "model.safetensors", tensors)
    assert look(demo, Use(to_quantize=("nvfp4", "mxfp4"), group_size=64)) == []
    for name, size in (("nvfp4", 16), ("mxfp4", 32), ("int4", 64)):
        recipe = scheme(name).recipe
        assert recipe is not None
        assert checkpoint_checks.grouping(models.resolve(str(demo)), recipe, 64)[0] == size
    of_a_plugin, without = Recipe("GPTQ (W8A16)", "W8A16", group_size=128), Recipe("GPTQ (W8A8)", "W8A8")
    for recipe, size in ((of_a_plugin, 64), (without, None)):
        assert checkpoint_checks.grouping(models.resolve(str(demo)), recipe, 64)[0] == size


def test_layers_that_are_never_loaded_have_no_width(demo: Path) -> None:
    (demo / "tokenizer.json").unlink()
    configure(demo, tie_word_embeddings=False, num_hidden_layers=1)
    tensors = {"lm_head": 128, "model.layers.0.mlp": 128, "mtp.layers.0.mlp": 80}
    write_weights(demo / "model.safetensors", {f"{name}.weight": ((4, width), None) for name, width in tensors.items()})
    assert look(demo, Use(to_quantize=("int4",))) == []


def test_an_encoder_without_an_architecture_is_called_by_its_type(demo: Path) -> None:
    edit(demo / "config.json", lambda config: config.pop("architectures"))
    configure(demo, model_type="bert")
    assert f"{demo} is an encoder (bert), not a causal language model" in only(demo).cause


def test_a_model_without_linear_layers(demo: Path) -> None:
    configure(demo, model_type="gpt2")  # Conv1D
    assert [finding.precision for finding in look(demo)] == ["int8", "int4"]
    assert "has no Linear layer to quantize to int8" in look(demo)[0].cause


@pytest.mark.large
def test_the_widths_are_those_of_the_modules_that_are_quantized() -> None:
    """The names and shapes in a header against the modules of the loaded model."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    recipe = Recipe("GPTQ (W4A16)", "W4A16", group_size=128)
    modules = {
        f"{name}.weight": module.in_features
        for name, module in model.named_modules()
        if type(module).__name__ == "Linear" and not recipe.ignores(name)
    }
    tensors = models.read_tensors(models.resolve("demo"))
    assert checkpoint_checks.linear_inputs(tensors, models.describe_config(MODEL_DIR), recipe) == modules


# Packages


@pytest.mark.parametrize(
    ("quantization", "absent", "package"),
    [
        ("bitsandbytes", {"bitsandbytes"}, "bitsandbytes"),
        ("awq", {"gptqmodel", "awq"}, "gptqmodel"),
        ("gptq", {"gptqmodel", "auto_gptq"}, "gptqmodel"),
        ("gptq", {"optimum"}, "optimum"),
        ("torchao", {"torchao"}, "torchao"),
    ],
)
def test_the_package_that_a_quantized_checkpoint_needs(
    demo: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, absent: set[str], package: str
) -> None:
    configure(demo, quantization_config={"quant_method": quantization})
    missing_modules = "slim_eval.utils.environment.missing_modules"
    monkeypatch.setattr(missing_modules, lambda modules, python: [])
    use = Use(precisions=("fp16",), servers=(Server(),))
    assert look(demo, use) == []
    monkeypatch.setattr(missing_modules, lambda modules, python: [each for each in modules if each in absent])
    missing = only(demo, use)
    assert f"needs the package {package!r}, which is not installed: its weights are quantized with" in missing.cause
    assert missing.remedy == f"install: pip install {package}"
    assert type(missing.error) is SlimEvalError
    for formats in (None, frozenset({quantization})):
        assert look(demo, Use(precisions=("fp16",), servers=(Server(), Server("vLLM", own_formats=formats)))) == []


def test_an_attention_that_needs_a_package(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slim_eval.utils.environment.missing_modules", lambda modules, python: list(modules))
    finding = only(
        demo, Use(engine_args={"attn_implementation": "flash_attention_2"}, serve_python=Path("/venv/python"))
    )
    assert "'flash_attn', which is not installed: --engine-arg attn_implementation=flash_attention_2" in finding.cause
    assert finding.remedy == "install: /venv/python -m pip install flash-attn --no-build-isolation"
    assert look(demo, Use(engine_args={"attn_implementation": "sdpa"})) == []


def test_the_packages_that_a_models_own_code_imports(demo: Path) -> None:
    configure(demo, auto_map={"AutoModelForCausalLM": "modeling_own.Own", "AutoConfig": "other--modeling.Config"})
    (demo / "modeling_own.py").write_text(
        "import json\nfrom .parts import Part\ntry:\n    import no_such_kernel\nexcept ImportError:\n    pass\n"
    )
    (demo / "parts.py").write_text("from json import loads\nimport no_such_package.sub as sub\n")
    (demo / "unused.py").write_text("import no_such_tool\n")
    finding = only(demo, Use(trust_remote_code=True))
    assert "needs the package 'no_such_package', which is not installed: its code parts.py imports" in finding.cause
    assert look(demo, Use()) == []


def test_all_packages_that_a_format_needs_are_in_one_message(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(demo, quantization_config={"quant_method": "gptq"})
    monkeypatch.setattr("slim_eval.utils.environment.missing_modules", lambda modules, python: list(modules))
    finding = only(demo, Use(precisions=("fp16",), servers=(Server(),)))
    assert "needs the packages 'optimum' and 'gptqmodel', which are not installed" in finding.cause
    assert finding.remedy == "install: pip install optimum gptqmodel"


@pytest.mark.parametrize(
    ("file", "part", "package"),
    [
        ("tokenizer.model", None, "sentencepiece"),
        ("qwen.tiktoken", None, "tiktoken"),
        (None, {"model_type": "gemma3n_vision"}, "timm"),
    ],
)
def test_the_package_of_a_part(
    demo: Path, monkeypatch: pytest.MonkeyPatch, file: str | None, part: dict[str, str] | None, package: str
) -> None:
    monkeypatch.setattr("slim_eval.utils.environment.missing_modules", lambda modules, python: list(modules))
    if file is not None:
        (demo / file).touch()
        assert look(demo) == []  # there is tokenizer.json too
        (demo / "tokenizer.json").unlink()
    configure(demo, vision_config=part)
    finding = next(finding for finding in look(demo) if finding.check == "packages")
    assert f"needs the package {package!r}" in finding.cause
    monkeypatch.setattr("slim_eval.utils.environment.missing_modules", lambda modules, python: [])
    assert not any(finding.is_refusal for finding in look(demo))


def test_a_quantized_checkpoint_is_not_quantized_again(demo: Path) -> None:
    configure(demo, quantization_config={"quant_method": "fp8"})
    finding = only(demo)
    assert finding.check == "quantized already"
    assert "--precision as-is" in finding.remedy


# Modalities


def test_a_model_for_more_than_text_is_noted(demo: Path) -> None:
    configure(demo, vision_config={"depth": 1}, audio_config={"depth": 1}, text_config={})
    finding = only(demo, Use(precisions=("fp16",)))
    assert not finding.is_refusal
    assert finding.cause == "the model is for vision and audio besides text: only text is measured"


@pytest.mark.parametrize("has_config", [True, False])
def test_an_adapter_beside_the_weights_is_noted(demo: Path, has_config: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers applies it if peft is installed, vLLM never does: then it is refused."""
    (demo / "adapter_model.safetensors").write_bytes(b"")
    if has_config:
        (demo / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "acme/base", "r": 8}))
    missing = checkpoint_checks.environment.missing_modules
    for is_installed in (False, True):
        monkeypatch.setattr(
            checkpoint_checks.environment,
            "missing_modules",
            lambda names, python=None, here=is_installed: (
                missing(names, python) if "peft" not in names else [] if here else ["peft"]
            ),
        )
        finding = only(demo)
        assert finding.check == "adapter"
        assert finding.is_refusal is (is_installed and has_config)
        assert ("beside its weights" if finding.is_refusal else "is not applied") in finding.cause
        assert not finding.is_refusal or "merge it into acme/base" in finding.remedy


def test_an_adapter_without_the_weights_of_a_model_is_refused(demo: Path) -> None:
    (demo / "model.safetensors").rename(demo / "adapter_model.safetensors")
    (demo / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "acme/base"}))
    found = look(demo)[0]
    assert found.is_refusal
    assert found.cause.endswith("contains an adapter of acme/base (adapter_config.json) and no weights of a model")
    assert found.remedy.startswith("merge it into acme/base")


def test_layers_that_the_weights_lack_are_refused(demo: Path) -> None:
    count = json.loads((demo / "config.json").read_text())["num_hidden_layers"]
    configure(demo, num_hidden_layers=count + 1)
    found = [each for each in look(demo, Use()) if each.check == "layers"]
    assert [each.cause for each in found] == [
        f"{demo}: config.json says {count + 1} layers, but the weight files lack number {count}"
    ]


def test_an_output_layer_of_its_own_must_be_there(demo: Path) -> None:
    assert not [each for each in look(demo, Use()) if each.check == "layers"]
    configure(demo, tie_word_embeddings=False)
    found = [each for each in look(demo, Use()) if each.check == "layers"]
    assert len(found) == 1
    assert "the weight files have none" in found[0].cause
