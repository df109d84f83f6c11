"""GPTQ through the real llm-compressor on small random models of five architectures."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import EngineConfig, QuantizationConfig
from slim_eval.engines.agreement import Reference
from slim_eval.errors import QuantizationError, UsageError
from slim_eval.models import loading
from slim_eval.models.source import describe, resolve
from slim_eval.quantization.cache import QuantizedCheckpoint, QuantizeRequest, cached, read_record
from slim_eval.quantization.llmcompressor import quantize
from slim_eval.schemes import SCHEMES, scheme
from tests.standins.tiny_models import ARCHITECTURES, EXPERTS, make_checkpoint

Make = Callable[..., QuantizeRequest]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("calibration") / "texts.jsonl"
    words = ["the", "quick", "brown", "fox", "jumps", "over", "1", "lazy", "dog", "and", "23", "other", "animals"]
    rows = [" ".join(words[(i * j) % len(words)] for j in range(1, 14)) for i in range(1, 25)]
    file.write_text("".join(f'{{"text": "{row}"}}\n' for row in rows))
    return file


@pytest.fixture(scope="module")
def request_for(texts: Path) -> Make:
    def make(model: Path | str, directory: Path, precision: str = "int8", **changes: Any) -> QuantizeRequest:
        seed, models = changes.pop("seed", 0), changes.pop("models", ())
        calibration = QuantizationConfig(
            **{"calibration_dataset": str(texts), "num_calibration_samples": 8, "max_sequence_length": 48, **changes}
        )
        return QuantizeRequest(
            source=resolve(str(model)),
            precision=precision,
            directory=directory,
            config=calibration,
            seed=seed,
            models=models,
        )

    return make


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "Tiny", "llama", num_hidden_layers=1)


@pytest.fixture(scope="module")
def llama_int8(llama: Path, request_for: Make, tmp_path_factory: pytest.TempPathFactory) -> QuantizedCheckpoint:
    return quantize(request_for(llama, tmp_path_factory.mktemp("quantized")))


def hidden(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".")] if directory.exists() else []


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_architecture_quantizes_and_runs(
    architecture: str, precision: str, tmp_path: Path, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_checkpoint(tmp_path / architecture, architecture)
    working = tmp_path / "cwd"
    working.mkdir()
    monkeypatch.chdir(working)
    stages: list[str] = []
    progress: list[tuple[int, int, str]] = []
    made = quantize(request_for(folder, tmp_path / "q", precision), stages.append, lambda *p: progress.append(p))

    assert made.path == tmp_path / "q" / f"{architecture}_{precision}"
    assert list(working.iterdir()) == []  # llm-compressor left no log behind
    assert hidden(tmp_path / "q") == []
    assert progress[-1][0] == progress[-1][1] == len(progress)
    assert stages[0] == "loading the model"
    assert made.record is not None
    source = describe(folder)
    assert made.record.bytes_on_disk < source.weight_bytes
    assert made.record.bits_per_weight is not None
    assert made.record.bits_per_weight < 16
    assert describe(made.path).quantization == "compressed-tensors"

    tokenizer = AutoTokenizer.from_pretrained(made.path)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(folder).chat_template
    ids = tokenizer("the quick brown fox", return_tensors="pt").input_ids
    logits = []
    for path in (folder, made.path):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        with torch.no_grad():
            logits.append(model(ids).logits.float())
    assert torch.isfinite(logits[1]).all()
    # Random weights quantize badly, but int8 must be close, and int4 recognisably the same model.
    error = (logits[1] - logits[0]).norm() / logits[0].norm()
    assert 0 < error < {"int8": 0.05, "int4": 0.35}[precision]
    assert model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape[-1] == ids.shape[-1] + 3


#: Every scheme with a recipe, and one with an FP8 KV cache -> the name under which the checkpoint would be measured as
#: it stands.
RECOGNISED = {
    "int8": "w8a8", "int8-smoothquant": "w8a8", "int8-rtn": "w8a8", "fp8": "fp8", "fp8-static": "fp8-static",
    "fp8-block": "fp8-block", "w4a8-fp8": "w4a8-fp8 g128", "int4": "w4a16 g128", "int4-asym": "w4a16-asym g128",
    "int4-awq": "w4a16 g128", "int4-rtn": "w4a16 g128", "nvfp4": "nvfp4", "nvfp4a16": "nvfp4a16", "mxfp4": "mxfp4",
    "int8-rtn+kv8": "w8a8+kv8",
}  # fmt: skip


@pytest.mark.parametrize(("precision", "recognised"), RECOGNISED.items())
def test_every_scheme_is_made_and_served(precision: str, recognised: str, tmp_path: Path, request_for: Make) -> None:
    """Verified from the file, then loaded by the engine that emulates them all."""
    from safetensors import safe_open

    from slim_eval.engines import ENGINES, LoadRequest
    from slim_eval.recognise import of_config

    folder = make_checkpoint(tmp_path / "Tiny", num_hidden_layers=1)
    progress: list[int] = []
    made = quantize(request_for(folder, tmp_path / "q", precision), progress=lambda done, *_: progress.append(done))
    assert made.record is not None
    assert made.record.low_bit_share == 1.0
    assert progress == sorted(progress)
    assert progress[-1] == 7  # the linear layers of a block
    recipe = scheme(precision).recipe
    assert recipe is not None
    needs_data = recipe.needs_calibration
    assert len(progress) == (7 if needs_data else 1), progress  # what takes long says how far it is
    assert bool(made.record.calibration) is needs_data
    with safe_open(made.path / "model.safetensors", "pt") as file:
        assert not any(file.get_tensor(name).isnan().any() for name in file.keys() if "packed" not in name)  # noqa: SIM118
    assert of_config(json.loads((made.path / "config.json").read_text())["quantization_config"]) == recognised
    engine = ENGINES["transformers"].load(
        LoadRequest(checkpoint=made.path, config=EngineConfig(), max_model_len=64, precision=precision)
    )
    try:
        (answer,) = engine.generate(["the quick brown fox"], max_new_tokens=4)
        assert answer.output_tokens == 4
        assert engine.kernels == "emulated"
    finally:
        engine.close()


def test_no_scheme_is_missing_above() -> None:
    own = {name for name, held in SCHEMES.items() if held.recipe and "+" not in name and ":" not in name}
    assert own <= RECOGNISED.keys()


def test_a_deep_model_with_random_weights_amplifies_rounding_and_is_not_refused(
    tmp_path: Path, request_for: Make
) -> None:
    folder = make_checkpoint(tmp_path / "deep", num_hidden_layers=24, initializer_range=0.2)
    made = quantize(request_for(folder, tmp_path / "q", "int4-rtn"))
    assert made.record is not None
    found = made.record.fidelity
    assert found is not None
    assert found.top_agreement < 0.5
    assert found.mean_kl > 0.5 * found.context_kl
    assert found.weight_error == pytest.approx(0.12, abs=0.03)  # what 4 bits in groups of 128 leave of normal weights
    assert made.record.notes[-1].endswith("its weights are random, and amplify rounding")


@pytest.mark.parametrize(("architecture", "precision"), [*((name, "int8") for name in EXPERTS), ("granitemoe", "int4")])
def test_experts_are_quantized_and_served(architecture: str, precision: str, tmp_path: Path, request_for: Make) -> None:
    import torch
    from safetensors import safe_open

    folder = make_checkpoint(tmp_path / architecture, architecture)
    made = quantize(request_for(folder, tmp_path / "q", precision))
    assert made.record is not None
    assert made.record.fidelity is not None
    assert made.record.fidelity.mean_kl < 0.2 * made.record.fidelity.context_kl
    assert str(made.record.fidelity) in made.notes
    reference = Reference.read(made.path)  # the experts are split and quantized in one of both, and predict the same
    assert reference is not None
    source, emulated = (list(chain.from_iterable(side)) for side in (reference.source, reference.emulated))
    assert 0 < max(abs(a - b) for a, b in zip(source, emulated, strict=True)) < 1

    with safe_open(made.path / "model.safetensors", "pt") as tensors:
        names = set(tensors.keys())
    scaled = {name.removesuffix("_scale") for name in names if name.endswith(".weight_scale")}
    assert sum(".experts." in name for name in scaled) == 2 * 4 * 3  # layers, experts, matrices
    assert not any(part in name for name in scaled for part in ("router", ".gate.", "shared_expert_gate"))
    if architecture in ("mixtral", "qwen2_moe"):  # the names by which an engine knows the source
        with safe_open(folder / "model.safetensors", "pt") as tensors:
            assert {name for name in names if not name.endswith("_scale")} == set(tensors.keys())

    ids = torch.tensor([list(range(6, 26))])
    with torch.inference_mode():
        source, split = (loading.load(path)(ids).logits.float() for path in (folder, made.path))
    assert (split - source).norm() / source.norm() < {"int8": 0.05, "int4": 0.35}[precision]


def test_experts_that_cannot_be_split_are_refused_before_calibration(
    tmp_path: Path, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: Any) -> None:
        raise AttributeError("no attribute 'text_config'")

    monkeypatch.setattr("slim_eval.models.experts.split", fail)
    stages: list[str] = []
    request = request_for(make_checkpoint(tmp_path / "m", "mixtral"), tmp_path / "q")
    with pytest.raises(QuantizationError, match="cannot split the experts of MixtralForCausalLM") as refused:
        quantize(request, stages.append)
    assert refused.value.remedy == "measure this model at 16 bit"
    assert not any(stage.startswith("GPTQ") for stage in stages)


def test_another_model_is_not_a_quantized_one(
    llama: Path, tmp_path: Path, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    load = loading.load

    def load_at_random(checkpoint: Path, **options: Any) -> Any:
        model = load(checkpoint, **options)
        if "_int8" in checkpoint.name:
            with torch.no_grad():
                model.get_input_embeddings().weight.normal_(std=0.02)
        return model

    monkeypatch.setattr(loading, "load", load_at_random)
    with pytest.raises(QuantizationError, match="the quantized checkpoint is not the source model"):
        quantize(request_for(llama, tmp_path))
    assert not (tmp_path / "Tiny_int8").exists()


def test_the_record_says_how_it_was_made(llama: Path, llama_int8: QuantizedCheckpoint, texts: Path) -> None:
    record = read_record(llama_int8.path)
    assert record == llama_int8.record
    assert (record.model, record.precision, record.scheme) == (str(llama), "int8", "GPTQ (W8A8)")
    assert record.calibration["samples"] == 8
    assert record.calibration["dataset"] == str(texts)
    assert len(record.calibration["sha256"]) == 64
    assert record.settings["max_sequence_length"] == 48
    assert record.dtype == "bfloat16"
    assert set(record.weight_sha256) == {"model.safetensors"}
    assert {"llmcompressor", "compressed-tensors", "transformers", "torch"} <= set(record.versions)
    assert record.started <= record.finished


def test_the_cache_is_used_only_for_what_was_asked(
    llama: Path, llama_int8: QuantizedCheckpoint, request_for: Make
) -> None:
    root = llama_int8.path.parent
    found = cached(request_for(llama, root))
    assert found is not None
    assert (found.path, found.record, found.reused) == (llama_int8.path, llama_int8.record, True)
    assert quantize(request_for(llama, root)).reused
    assert cached(request_for(llama, root, "int4")) is None
    differences = "num_calibration_samples: cached 8, requested 4; seed: cached 0, requested 7"
    with pytest.raises(UsageError, match=differences) as caught:
        quantize(request_for(llama, root, num_calibration_samples=4, seed=7))
    assert "--requantize" in caught.value.remedy


def test_the_same_seed_gives_the_same_weights_and_requantize_replaces(
    llama: Path, tmp_path: Path, request_for: Make, llama_int8: QuantizedCheckpoint
) -> None:
    first = quantize(request_for(llama, tmp_path, seed=3))
    assert first.record is not None
    assert llama_int8.record is not None
    assert first.record.calibration["sha256"] != llama_int8.record.calibration["sha256"]
    (first.path / "marker").touch()
    second = quantize(request_for(llama, tmp_path, requantize=True))  # seed 0, as llama_int8
    assert second.record is not None
    assert second.path == first.path
    assert not (second.path / "marker").exists()
    assert second.record.weight_sha256 == llama_int8.record.weight_sha256
    assert second.record.weight_sha256 != first.record.weight_sha256
    assert hidden(tmp_path) == []


def test_samples_longer_than_the_context_window_are_cut(tmp_path: Path, request_for: Make) -> None:
    folder = make_checkpoint(tmp_path / "Short", num_hidden_layers=1, max_position_embeddings=16)
    made = quantize(request_for(folder, tmp_path / "q", num_calibration_samples=100))
    assert made.record is not None
    assert made.record.calibration["max_sequence_length"] == 16
    assert made.record.calibration["tokens"] == 24 * 16
    assert any("24 usable samples, 384 tokens in all; 100 were requested" in note for note in made.notes)
    assert cached(request_for(folder, tmp_path / "q", num_calibration_samples=100)) is not None


def test_models_with_one_short_name_do_not_share(
    tmp_path: Path, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for owner, seed in (("a", 1), ("b", 2)):
        make_checkpoint(tmp_path / owner / "Tiny", seed=seed, num_hidden_layers=1)
    root = tmp_path / "q"
    paths = [quantize(request_for(f"{owner}/Tiny", root)).path.name for owner in "ab"]
    assert paths == ["Tiny_int8", "b--Tiny_int8"]
    again = [cached(request_for(f"{owner}/Tiny", root)) for owner in "ab"]
    assert [found.path.name for found in again if found] == paths


@pytest.mark.parametrize(
    ("precision", "changes", "poison", "message"),
    [
        ("int8", {}, float("nan"), "contains NaN or infinity"),
        ("int8", {}, float("inf"), "contains NaN or infinity"),
        ("int4", {"intermediate_size": 80}, None, "multiples of 128 or 64 or 32.*down_proj \\(80\\)"),
        ("w4a8-fp8", {"hidden_size": 48}, None, "multiples of 128 or 64 or 32.*q_proj \\(48\\)"),
    ],
)
def test_what_cannot_be_quantized(
    precision: str, changes: dict[str, int], poison: float | None, message: str, tmp_path: Path, request_for: Make
) -> None:
    folder = make_checkpoint(tmp_path / "Bad", num_hidden_layers=1, **changes)
    if poison is not None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = poison
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(QuantizationError, match=message):
        quantize(request_for(folder, tmp_path / "q", precision))
    assert list((tmp_path / "q").iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "changes", "skip_unfit", "size", "share"),
    [
        ("int4-rtn", {"intermediate_size": 192}, False, 64, 1.0),
        ("int4-rtn", {"intermediate_size": 80}, True, 128, 0.87),
        ("int8-rtn", {"intermediate_size": 80}, False, None, 1.0),
        ("fp8", {}, False, None, 1.0),
        ("nvfp4a16", {}, False, 16, 1.0),
    ],
)
def test_group_sizes_and_the_share_of_low_bits_are_those_of_the_file(
    precision: str, changes: dict[str, int], skip_unfit: bool, size: int | None, share: float, tmp_path: Path,
    request_for: Make,
) -> None:  # fmt: skip
    from safetensors import safe_open

    folder = make_checkpoint(tmp_path / "Odd", num_hidden_layers=1, **changes)
    made = quantize(request_for(folder, tmp_path / "q", precision, skip_unfit=skip_unfit))
    assert made.record is not None
    assert made.record.recipe["group_size"] == size
    assert made.record.low_bit_share == pytest.approx(share, abs=0.02)
    quantized, total = 0, 0
    with safe_open(made.path / "model.safetensors", "pt") as file, safe_open(folder / "model.safetensors", "pt") as old:
        written = set(file.keys())
        for name in (each for each in old.keys() if "layers" in each and "norm" not in each):  # noqa: SIM118
            rows, columns = old.get_slice(name).get_shape()
            total += rows * columns
            if name not in written or file.get_tensor(name).dtype.itemsize < 2:
                quantized += rows * columns
    assert made.record.low_bit_share == pytest.approx(quantized / total)


def test_a_quantized_model_is_not_quantized_again(
    llama_int8: QuantizedCheckpoint, tmp_path: Path, request_for: Make
) -> None:
    with pytest.raises(UsageError, match="already quantized"):
        quantize(request_for(llama_int8.path, tmp_path))


def test_killed_on_the_way_nothing_has_the_final_name(llama: Path, tmp_path: Path, request_for: Make) -> None:
    request = request_for(llama, tmp_path / "q")

    def quantize_and_die() -> None:
        import torch

        torch.set_num_threads(1)  # a fork has none of the threads with which this process has computed
        quantize(request, lambda stage: os.kill(os.getpid(), signal.SIGKILL) if stage.startswith("checking") else None)

    child = multiprocessing.get_context("fork").Process(target=quantize_and_die)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL  # everything is written, nothing is published
    left = hidden(request.directory)
    assert len(left) == 1
    assert not (request.directory / "Tiny_int8").exists()
    assert cached(request) is None
    assert not quantize(request).reused
    assert sorted(path.name for path in request.directory.iterdir()) == ["Tiny_int8"]
