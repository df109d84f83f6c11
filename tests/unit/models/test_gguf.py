"""GGUF files: what their header states, and everything that can be wrong with one, before anything is started."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from slim_eval.config import RunConfig
from slim_eval.demo import MODEL_DIR
from slim_eval.errors import UsageError
from slim_eval.execution.plan import lay_out
from slim_eval.models import describe, describe_config, gguf, resolve

pytestmark = pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed")  # slow to import


def write(path: Path, architecture: str = "llama", **options: object) -> Path:
    """A small file with two matrices of Q8_0 and one of 32-bit floats."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_file_type(int(str(options.get("file_type", 7))))
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_block_count(1)
    writer.add_token_list(["a", "b", "c"])
    if "base" in options:
        writer.add_base_model_count(1)
        writer.add_base_model_repo_url(0, str(options["base"]))
    if "finetune" in options:
        writer.add_finetune(str(options["finetune"]))
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        block = np.zeros((64, 2 * 34), np.uint8)
        writer.add_tensor(name, block, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_header_tells_the_scheme_the_sizes_and_the_base_model(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.gguf", base="https://huggingface.co/org/Tiny")
    header = gguf.read(file)
    assert (header.scheme, header.architecture, header.context, header.vocabulary) == ("q8_0", "llama", 256, 3)
    assert (header.layers, header.kv_heads, header.head_size, header.tied) == (1, 2, 16, True)
    assert header.parameters == 2 * 64 * 64 + 64
    assert header.weight_bytes == 2 * 64 * 68 + 64 * 4
    assert header.base_model == "org/Tiny"
    assert header.note == "the GGUF file stores 8.68 bits per weight (q8_0 100 %)"
    facts = describe_config(file)
    assert (facts.quantization, facts.scheme, facts.max_position_embeddings) == ("gguf", "q8_0", 256)
    assert describe(file).num_parameters == header.parameters
    assert gguf.read(write(tmp_path / "half.gguf", file_type=1)).scheme == "gguf-f16"
    assert gguf.read(write(tmp_path / "odd.gguf", file_type=999)).scheme == "q8_0"  # of most of its weights


@pytest.mark.parametrize(
    ("base", "finetune", "found"),
    [
        ("org/Tiny-3B", "Instruct", None),  # the model that was fine-tuned: converters copy it from the source's card
        ("org/Tiny-3B-Instruct", "instruct", "org/Tiny-3B-Instruct"),
        ("org/Tiny-3B-Instruct-v2", "Instruct V2", "org/Tiny-3B-Instruct-v2"),
        ("org/Tiny-3B", "", "org/Tiny-3B"),
    ],
)
def test_the_model_that_was_fine_tuned_is_not_the_base_model(
    base: str, finetune: str, found: str | None, tmp_path: Path
) -> None:
    file = write(tmp_path / "tiny.gguf", base=f"https://huggingface.co/{base}", finetune=finetune)
    assert gguf.read(file).base_model == found


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "tiny.gguf").read_bytes()
    for size in (*range(5, len(whole) - 1, 97), len(whole) - 40):
        cut = tmp_path / f"cut-{size}.gguf"
        cut.write_bytes(whole[:size])
        with pytest.raises(UsageError, match="ends early or its header is damaged") as caught:
            gguf.read(cut)
        assert caught.value.remedy


def test_other_files_architectures_and_missing_parts(tmp_path: Path) -> None:
    pointer = tmp_path / "pointer.gguf"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UsageError, match="git-lfs pointer"):
        gguf.read(pointer)
    with pytest.raises(UsageError, match="does not know the architecture 'gizmo'"):
        gguf.read(write(tmp_path / "gizmo.gguf", "gizmo"))
    first = write(tmp_path / "big-00001-of-00002.gguf")
    with pytest.raises(UsageError, match=r"1 of its 2 parts are missing, e\.g\. big-00002-of-00002\.gguf"):
        gguf.parts_of(first)
    write(tmp_path / "big-00002-of-00002.gguf")
    assert gguf.read(first).parameters == 2 * (2 * 64 * 64 + 64)


def test_a_plan_refuses_a_file_that_no_engine_here_serves(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.gguf")
    options = {"models": (str(file),), "output_dir": tmp_path / "out", "quantized_models_dir": tmp_path / "made"}
    with pytest.raises(UsageError, match=r"is a GGUF file \(q8_0\), which llama\.cpp serves") as caught:
        lay_out(RunConfig(**options))
    assert caught.value.remedy == "add --engine openai --server llama.cpp"
    served = RunConfig(**options, engine={"engine": "openai", "server": "llama.cpp"}, tasks=("performance",))
    ((variant,), _) = lay_out(served)
    assert (variant.precision, variant.max_model_len) == ("q8_0", 256)
    assert "bits per weight" in variant.notes[0]
    with pytest.raises(UsageError, match="already quantized"):
        lay_out(served.model_copy(update={"precision": ("int4",)}))
    with pytest.raises(UsageError, match="unknown precision 'q8_0'"):
        lay_out(RunConfig(**{**options, "models": (str(MODEL_DIR),), "precision": ("q8_0",)}))
    assert resolve(str(file)).path == file
