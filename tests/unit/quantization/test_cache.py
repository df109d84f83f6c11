"""The cache of quantized checkpoints: names, settings, damage, publishing. Nothing here loads torch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import QuantizationConfig, RunConfig
from slim_eval.errors import QuantizationError, UsageError
from slim_eval.execution import plan
from slim_eval.models import experts, pickles
from slim_eval.models.publish import new_checkpoint, recover
from slim_eval.models.source import ModelSource, resolve
from slim_eval.quantization import cache
from slim_eval.quantization.cache import (
    QuantizationRecord,
    QuantizeRequest,
    cached,
    checkpoint_directory,
    settings,
)
from slim_eval.schemes import SCHEMES
from slim_eval.utils import slug
from tests.unit.models.test_source import write_safetensors

HUB = ModelSource(name="org/Tiny", kind="hub", config_dir=Path("x"), revision="c0ffee")
PLAIN = {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}


def checkpoint(folder: Path, quantized: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    packed = {"quantization_config": {"quant_method": "compressed-tensors"}} if quantized else {}
    (folder / "config.json").write_text(json.dumps({**PLAIN, **packed}))
    write_safetensors(folder / "model.safetensors", {"a.weight_scale": ("BF16", [4])})
    return folder


def request(directory: Path, source: ModelSource = HUB, **values: Any) -> QuantizeRequest:
    return QuantizeRequest(**{"source": source, "precision": "int8", "directory": directory, **values})


def publish(asked: QuantizeRequest, **changes: Any) -> Path:
    """A cached checkpoint as quantize() leaves it, without the quantization."""
    with new_checkpoint(checkpoint_directory(asked)) as folder:
        size = (checkpoint(folder) / "model.safetensors").stat().st_size
        record = {
            "model": asked.source.name,
            "precision": asked.precision,
            "scheme": "GPTQ (W8A8)",
            "settings": settings(asked),
            "recipe": cache.recipe_record(asked.recipe),
            "calibration": {},
            "dtype": "bfloat16",
            "num_parameters": 4,
            "source_bytes": 8,
            "bytes_on_disk": size,
            "bits_per_weight": 8.0,
            "weight_sha256": {},
            "versions": {},
            "started": "s",
            "finished": "f",
            "duration_s": 1.0,
            "notes": ["a note"],
        }
        made = QuantizationRecord.model_validate({**record, **changes})
        (folder / "quantization.json").write_text(made.model_dump_json())
    return checkpoint_directory(asked)


def test_scheme_names_are_those_published() -> None:
    assert [SCHEMES[name].recorded_as for name in ("fp16", "int8", "int4")] == ["FP16", "GPTQ (W8A8)", "GPTQ (W4A16)"]


def test_another_group_size_is_another_checkpoint_and_the_usual_one_is_the_old(tmp_path: Path) -> None:
    usual = request(tmp_path, precision="int4")
    smaller = usual.model_copy(update={"group_size": 64})
    assert cache.settings(usual) == cache.settings(usual.model_copy(update={"group_size": 128}))
    assert "group_size" not in cache.settings(usual)  # as in checkpoints of earlier versions
    assert cache.settings(smaller) == {**cache.settings(usual), "group_size": 64}
    assert (smaller.recipe.name, smaller.recipe.group_size) == ("GPTQ (W4A16 g64)", 64)
    publish(smaller)
    with pytest.raises(UsageError, match="group_size: cached 64, requested None"):
        cached(usual)


def test_a_request_travels_as_json(tmp_path: Path) -> None:
    asked = request(tmp_path, seed=3, models=("a", "b"))
    assert QuantizeRequest.model_validate_json(asked.model_dump_json()) == asked


def test_an_empty_cache_and_a_full_one(tmp_path: Path) -> None:
    asked = request(tmp_path / "q")
    assert cached(asked) is None
    folder = publish(asked)
    assert folder == tmp_path / "q" / "Tiny_int8"
    found = cached(asked)
    assert found is not None
    assert (found.path, found.reused, found.notes) == (folder, True, ("a note",))
    assert found.record == cache.read_record(folder)
    assert cached(request(tmp_path / "q", config=QuantizationConfig(requantize=True))) is None
    assert cached(request(tmp_path / "q", precision="int4")) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, r"\(seed: cached 0, requested 5\)"),
        (
            {"config": QuantizationConfig(num_calibration_samples=64)},
            "num_calibration_samples: cached 512, requested 64",
        ),
        ({"config": QuantizationConfig(max_sequence_length=512)}, "max_sequence_length: cached 2048, requested 512"),
        (
            {"config": QuantizationConfig(calibration_split="test")},
            "calibration_split: cached train_sft, requested test",
        ),
        ({"config": QuantizationConfig(calibration_dataset="o/d")}, "calibration_dataset: cached Hug.*requested o/d"),
        ({"source": HUB.model_copy(update={"revision": "beef"})}, "revision: cached c0ffee, requested beef"),
        ({"seed": 5, "config": QuantizationConfig(max_sequence_length=9)}, "max_sequence_length: .*; seed: "),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    publish(request(tmp_path))
    with pytest.raises(UsageError, match=message) as caught:
        cached(request(tmp_path, **changes))
    assert "--requantize" in caught.value.remedy
    assert "--quantized-models-dir" in caught.value.remedy


def test_a_local_model_and_its_data_are_known_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = checkpoint(tmp_path / "Tiny", quantized=False)
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a"}\n')

    def asked(dataset: Path) -> QuantizeRequest:
        config = QuantizationConfig(calibration_dataset=str(dataset))
        return request(tmp_path / "q", resolve("./Tiny"), config=config)

    publish(asked(data))
    assert cached(asked(data.rename(tmp_path / "moved.jsonl"))) is not None
    (tmp_path / "moved.jsonl").write_text('{"text": "b"}\n')
    with pytest.raises(UsageError, match=r"calibration_dataset: cached sha256:\w{12}…, requested sha256:"):
        cached(asked(tmp_path / "moved.jsonl"))
    data.write_text('{"text": "a"}\n')
    write_safetensors(source / "model.safetensors", {"other": ("BF16", [4])})
    with pytest.raises(UsageError, match="weights: cached sha256:"):
        cached(asked(data))


def elsewhere(folder: Path, precision: str, **config: Any) -> QuantizeRequest:
    """A request for a scheme, in whose folder there is a checkpoint with this configuration and no record."""
    source = resolve(str(checkpoint(folder / "Tiny", quantized=False)))
    made = checkpoint(folder / f"Tiny_{precision}") / "config.json"
    made.write_text(json.dumps({**json.loads(made.read_text()), **config}))
    own = folder / "Tiny" / "config.json"
    own.write_text(json.dumps({**json.loads(own.read_text()), "vocab_size": 9, "model_type": "llama"}))
    return request(folder, source, precision=precision)


def formats(bits: int, activations: dict[str, Any] | None, kind: str = "int") -> dict[str, Any]:
    group = {"weights": {"num_bits": bits, "type": kind, "symmetric": True}, "input_activations": activations}
    return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}}


INT8 = {"num_bits": 8, "type": "int", "dynamic": True}
AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}


@pytest.mark.parametrize(
    ("precision", "config"),
    [
        ("int8", {}),
        ("int8", {**formats(8, INT8), "vocab_size": 9}),
        ("int8", {"vocab_size": 64, "architectures": ["LLaMAForCausalLM"]}),  # padded, and an older spelling
        ("int4", AWQ),
        ("int4", formats(4, None)),
    ],
)
def test_a_checkpoint_made_elsewhere_is_used_with_a_warning(
    tmp_path: Path, precision: str, config: dict[str, Any]
) -> None:
    found = cached(elsewhere(tmp_path, precision, **config))
    assert found is not None
    assert found.record is None
    assert "made elsewhere (" in found.notes[0]


@pytest.mark.parametrize(
    ("precision", "config", "words"),
    [
        ("int8", formats(4, None), r"in w4a16, which is not int8 \(W8A8\)"),
        ("int8", AWQ, r"in w4a16-awq g128, which is not int8 \(W8A8\)"),
        ("int8", formats(8, None), r"in w8a16, which is not int8 \(W8A8\)"),
        ("int8", formats(8, {**INT8, "type": "float"}, "float"), r"in fp8, which is not int8 \(W8A8\)"),
        ("int4", formats(8, INT8), r"in w8a8, which is not int4 \(W4A16\)"),
        ("int8", {"model_type": "qwen2"}, "its architecture is qwen2, not llama"),
        ("int8", {"vocab_size": 8}, "its vocabulary is 8, not 9"),
    ],
)
def test_a_checkpoint_made_elsewhere_of_another_scheme_or_model_is_refused(
    tmp_path: Path, precision: str, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        cached(elsewhere(tmp_path, precision, **config))
    assert "--quantized-models-dir" in refused.value.remedy


def test_layers_that_fit_need_no_skipping(tmp_path: Path) -> None:
    skipping = QuantizationConfig(skip_unfit=True)
    usual = request(tmp_path, precision="int4")
    asked = usual.model_copy(update={"config": skipping})
    assert settings(asked)["skip_unfit"] is True
    assert settings(asked.model_copy(update={"all_fit": True})) == settings(usual)
    publish(usual)
    assert cached(asked) is not None
    assert cached(asked.model_copy(update={"all_fit": True})) is not None


@pytest.mark.parametrize("skipped", [(), ("model.layers.0.mlp.down_proj",)])
def test_an_older_record_says_skip_although_all_layers_fit(tmp_path: Path, skipped: tuple[str, ...]) -> None:
    usual = request(tmp_path, precision="int4")
    asked = usual.model_copy(update={"config": QuantizationConfig(skip_unfit=True)})
    recipe = cache.recipe_record(replace(asked.recipe, ignore=(*asked.recipe.ignore, *experts.ROUTERS, *skipped)))
    publish(asked, recipe=recipe)
    assert cached(asked) is not None
    if skipped:
        with pytest.raises(UsageError, match="skip_unfit: cached True, requested None"):
            cached(usual)
    else:
        assert cached(usual) is not None


def test_a_finished_conversion_tells_the_group_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is repeated: the weights are still pickled, and have no header."""
    monkeypatch.chdir(tmp_path)
    folder = checkpoint(tmp_path / "Old", quantized=False)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "tokenizer.json").write_text("{}")
    config = RunConfig(models=str(folder), precision="int4", allow_pickle=True)

    def planned() -> int | None:
        (variant,) = plan.lay_out(config)[0]
        return variant.quantize_request(variant.source).group_size

    assert planned() is None
    made = cache.conversion(resolve(str(folder), allow_pickle=True), config.quantized_models_dir)
    write_safetensors(checkpoint(made.folder, quantized=False) / "model.safetensors", {"a.weight": ("BF16", [2, 576])})
    (made.folder / "conversion.json").write_text(json.dumps(pickles.conversion_record(made.folder, made.identity)))
    assert planned() == 64


@pytest.mark.parametrize("requantize", [False, True])
def test_folders_with_something_else_are_left_alone(tmp_path: Path, requantize: bool) -> None:
    (tmp_path / "Tiny_int8").mkdir()
    asked = request(tmp_path, config=QuantizationConfig(requantize=requantize))
    assert cached(asked) is None  # empty
    (tmp_path / "Tiny_int8" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="contains no checkpoint"):
        cached(asked)


def test_an_unquantized_checkpoint_is_not_taken_for_int8(tmp_path: Path) -> None:
    checkpoint(tmp_path / "Tiny_int8", quantized=False)
    with pytest.raises(UsageError, match="unquantized"):
        cached(request(tmp_path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: os.truncate(f / "model.safetensors", 60), "damaged.*(requires|incomplete)"),
        (lambda f: (f / "model.safetensors").unlink(), "damaged.*no weights"),
        (lambda f: write_safetensors(f / "model.safetensors", {"a": ("BF16", [9])}), "bytes of weights, not the"),
        (lambda f: (f / "quantization.json").write_text('{"model": "org/Tiny"'), "not readable"),
        (lambda f: (f / "quantization.json").write_text('{"model": "org/Tiny"}'), "not readable"),
    ],
)
def test_a_damaged_cache_is_refused(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(publish(request(tmp_path)))
    with pytest.raises(QuantizationError, match=message) as caught:
        cached(request(tmp_path))
    assert "--requantize" in caught.value.remedy


def test_a_record_of_a_newer_version_is_still_read(tmp_path: Path) -> None:
    folder = publish(request(tmp_path))
    content = json.loads((folder / "quantization.json").read_text())
    (folder / "quantization.json").write_text(json.dumps({**content, "colour": "green"}))
    assert cached(request(tmp_path)) is not None


@pytest.mark.parametrize(
    ("owner", "rivals", "expected"),
    [
        (None, (), "Tiny_int8"),
        ("org/Tiny", (), "Tiny_int8"),
        ("b/Tiny", (), "org--Tiny_int8"),
        (None, ("org/Tiny", "b/Tiny"), "org--Tiny_int8"),
        (None, ("org/Tiny", "b/tiny"), "org--Tiny_int8"),
        (None, ("org/Tiny", "b/Other"), "Tiny_int8"),
    ],
)
@pytest.mark.parametrize("owned", ["int8", "int4"])
def test_names_of_folders(
    tmp_path: Path, owner: str | None, rivals: tuple[str, ...], expected: str, owned: str
) -> None:
    if owner:
        publish(request(tmp_path, HUB.model_copy(update={"name": owner}), precision=owned))
    assert checkpoint_directory(request(tmp_path, models=rivals)).name == expected


def test_a_failure_leaves_the_old_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    folder = publish(request(tmp_path))
    before = (folder / "quantization.json").read_text()

    def fail() -> None:
        with new_checkpoint(folder) as temporary:
            (temporary / "half").touch()
            raise QuantizationError("no")

    with pytest.raises(QuantizationError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["Tiny_int8"]
    assert (folder / "quantization.json").read_text() == before


def test_what_killed_processes_left_is_cleaned_up(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    host, dead = slug(socket.gethostname()), ended.pid
    final = tmp_path / "Tiny_int8"
    alive = f"{host}-{os.getppid()}"
    others = {f".Tiny_int8.tmp-{alive}", f".Tiny_int8.tmp-elsewhere-{dead}", f".Tiny_int4.tmp-{host}-{dead}"}
    for name in (*others, f".Tiny_int8.tmp-{host}-{dead}", f".Tiny_int8.old-{host}-{dead}"):
        (tmp_path / name).mkdir()
    recover(final)  # the moved one had no successor: it comes back
    kept = {"Tiny_int8", *others}
    assert {path.name for path in tmp_path.iterdir()} == kept
    (tmp_path / f".Tiny_int8.old-{host}-{dead}").mkdir()
    recover(final)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_what_a_process_left_that_was_still_ending_is_cleaned_up_later(tmp_path: Path) -> None:
    """The command is repeated at once after a kill: the worker that it had started may live for a moment longer."""
    final = tmp_path / "Tiny_int8"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ending:
        left = tmp_path / f".Tiny_int8.tmp-{slug(socket.gethostname())}-{ending.pid}"
        left.mkdir()
        recover(final)
        assert left.exists()
        with new_checkpoint(final):
            ending.kill()
            ending.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["Tiny_int8"]


def test_asking_the_cache_needs_no_heavy_package() -> None:
    heavy = ["torch", "transformers", "llmcompressor", "datasets", "pandas", "huggingface_hub"]
    script = f"import sys, slim_eval.quantization.llmcompressor; print([m for m in {heavy} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
