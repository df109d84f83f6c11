"""What vLLM's server is started with: the same as the engine in this process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slim_eval.benchmarks.serving import Serving
from slim_eval.config import EngineConfig, RunConfig
from slim_eval.engines import LoadRequest, Platform, memory, openai, vllm
from slim_eval.engines.openai import OPENAI, SERVERS, require_endpoint, server_command
from slim_eval.engines.vllm import VLLM
from slim_eval.errors import SlimEvalError, UsageError
from slim_eval.models import resolve
from slim_eval.schemes import INEXACT_KERNELS
from tests.standins.tiny_models import make_checkpoint


class Recorded(Exception):
    """The words of the command that would have been started."""


def _words(monkeypatch: pytest.MonkeyPatch, folder: Path, precision: str, **config: Any) -> list[str]:
    def refuse(words: list[str], **_: Any) -> None:
        raise Recorded(words)

    monkeypatch.setattr(vllm, "Server", refuse)
    monkeypatch.setattr(VLLM, "platform", lambda: Platform("cpu", cpu_flags=frozenset({"avx2", "avx512f"})))
    monkeypatch.setattr(VLLM, "check", lambda _: None)
    monkeypatch.setattr(memory, "require_in_ram", lambda *_: None)
    request = LoadRequest(make_checkpoint(folder), EngineConfig(**config), 64, precision=precision)
    with pytest.raises(Recorded) as caught:
        VLLM.serve(request)
    return list(caught.value.args[0])


@pytest.mark.parametrize(
    ("precision", "option"),
    [
        ("fp16+kv8", ("--kv-cache-dtype", "fp8")),
        ("online:fp8", ("--quantization", "fp8")),
        ("online:mxfp8", ("--quantization", "mxfp8")),
    ],
)
def test_a_server_gets_what_its_scheme_is_served_with(
    precision: str, option: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = _words(monkeypatch, tmp_path, precision, engine_args={option[0][2:].replace("-", "_"): "auto"})
    assert words.count(option[0]) == 1
    assert words[words.index(option[0]) + 1] == option[1], "the scheme decides, whatever the user gave"
    assert words[words.index("--generation-config") + 1] == "vllm"


def test_a_server_of_a_plain_scheme_gets_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = _words(monkeypatch, tmp_path, "fp16")
    assert not {"--kv-cache-dtype", "--quantization"}.intersection(words)


def test_a_ready_made_server_takes_as_many_requests_as_a_sweep_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    def requests(**serving: Any) -> int:
        return Serving().batch_size(RunConfig(models="demo", serving=serving), "serving")  # type: ignore[arg-type]

    assert requests() == 64
    assert requests(max_concurrency=16) == 16
    assert requests(concurrency="1 8") == 8
    assert requests(request_rate="0.5 2") == 64
    config = EngineConfig(engine="openai", server="llama.cpp")
    header = SimpleNamespace(kv_bytes_per_token=2**10)
    monkeypatch.setattr(openai.gguf, "read", lambda _: header)
    for window, parallel, together in ((8192, 1, 8192), (2048, 8, 8192), (8192, 64, 65536), (512, 4, 2048)):
        request = LoadRequest(Path("model.gguf"), config, window, parallel=parallel)
        words = server_command(request)
        assert words[words.index("--context") + 1] == str(together)
        assert words[words.index("--parallel") + 1] == str(parallel)
    header.kv_bytes_per_token = 2**40  # more than there is: one window must do
    words = server_command(LoadRequest(Path("model.gguf"), config, 512, parallel=64))
    assert words[words.index("--context") + 1] == "512"


def test_a_server_of_gguf_files_is_not_asked_for_anything_else() -> None:
    config = EngineConfig(engine="openai", server="llama.cpp")
    assert SERVERS["llama.cpp"].gguf_alone
    for precision in ("as-is", "int4"):
        with pytest.raises(UsageError, match="serves GGUF files alone, and demo is not one"):
            require_endpoint(config, [resolve("demo")], [precision])


def test_vllm_as_a_ready_made_server_has_the_guards_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = LoadRequest(make_checkpoint(tmp_path), EngineConfig(engine="openai", server="vllm"), 64, precision="int8")

    def refuse(*_: Any, **__: Any) -> None:
        raise SlimEvalError("a weight is missing")

    with monkeypatch.context() as patched:
        patched.setattr(openai.loading, "require_weights", refuse)
        patched.setattr(openai, "Server", lambda *_, **__: pytest.fail("it was started"))
        with pytest.raises(SlimEvalError, match="a weight is missing"):
            OPENAI.load(request)

    class Standing:
        """An engine that keeps what it is told."""

        def __init__(self, *_: Any) -> None:
            self.notes: list[str] = []
            self.add_note = self.notes.append
            self.negotiate = lambda: None

    started = SimpleNamespace(endpoint=None)
    monkeypatch.setattr(openai, "Server", lambda *_, **__: SimpleNamespace(__enter__=lambda: started))
    monkeypatch.setattr(openai, "OpenAiEngine", Standing)
    monkeypatch.setattr(vllm, "int8_kernel_error", lambda _: 0.1)
    for is_inexact in (True, False):
        monkeypatch.setattr(VLLM, "serves_inexactly", lambda _, told=is_inexact: told)
        engine = OPENAI.load(request)
        assert (getattr(engine, "kernels", None) == INEXACT_KERNELS) is is_inexact
        assert any("saturates" in note for note in engine.notes) is is_inexact
