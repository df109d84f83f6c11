"""A model that brings Python code: not run unless asked for, the message says so, and the record says when it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slim_eval.config import EngineConfig, RunConfig
from slim_eval.engines import LoadRequest
from slim_eval.engines.transformers import TRANSFORMERS
from slim_eval.errors import EngineError, QuantizationError
from slim_eval.execution import fingerprints, worker
from slim_eval.execution.messages import MeasureJob
from slim_eval.models.source import ModelSource
from slim_eval.quantization import llmcompressor
from slim_eval.quantization.cache import QuantizeRequest
from tests.standins.tiny_models import make_checkpoint

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path({marker!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What the model's code leaves when it is run."""
    return tmp_path / "was-run"


@pytest.fixture
def checkpoint(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("torch", reason="torch is not installed")
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = make_checkpoint(tmp_path / "own-code")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config |= {"model_type": "own", "architectures": ["OwnModel"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    return folder


@pytest.mark.large
def test_it_is_not_run_to_serve_and_the_message_says_so(checkpoint: Path, marker: Path) -> None:
    with pytest.raises(EngineError, match="contains Python code") as refused:
        TRANSFORMERS.load(LoadRequest(checkpoint, EngineConfig(), 64))
    assert "--trust-remote-code" in refused.value.remedy
    assert not marker.exists()


def test_it_is_not_run_to_quantize_and_the_message_says_so(checkpoint: Path, marker: Path) -> None:
    pytest.importorskip("llmcompressor", reason="llm-compressor is not installed")
    source = ModelSource(name="own", kind="local", config_dir=checkpoint, path=checkpoint)
    request = QuantizeRequest(source=source, precision="int8", directory=checkpoint.parent / "quantized")
    with pytest.raises(QuantizationError, match="cannot be loaded") as refused:
        llmcompressor.quantize(request)
    assert "--trust-remote-code" in refused.value.remedy
    assert not marker.exists()


def test_on_it_is_run_and_recorded(checkpoint: Path, marker: Path, tmp_path: Path) -> None:
    config = RunConfig(models="own", engine={"trust_remote_code": True})
    engine = TRANSFORMERS.load(LoadRequest(checkpoint, config.engine, 64))
    assert marker.exists()
    job = MeasureJob(
        model="own", revision=None, source=checkpoint, checkpoint=checkpoint, precision="fp16",
        quantization_scheme="none", stages=(), directory=tmp_path, max_model_len=64,
        config=config,
    )  # fmt: skip
    head = worker._metadata(job, engine, "asked for", ())
    engine.close()
    assert head["config"]["engine"]["trust_remote_code"] is True
    stages = fingerprints.stage_settings(config, max_model_len=64, device=None)
    assert all(settings["trust_remote_code"] is True for settings in stages.values())
