"""Model sources, checkpoint facts, and the refusals of a loopback hub under the real huggingface_hub."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from slim_eval import models
from slim_eval.errors import HubError, UsageError
from slim_eval.models import fetch
from slim_eval.models.hub import client_errors, http_errors, hub_errors
from slim_eval.models.source import weight_files
from tests.commands import run_command

Tensors = dict[str, tuple[str, list[int]]]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "max_position_embeddings": 64,
}


def write_safetensors(file: Path, tensors: Tensors) -> Path:
    """A safetensors file of zeros, made by hand from the format's definition."""
    sizes = {"BF16": 2, "F16": 2, "F32": 4, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        count = sizes[dtype]
        for side in shape:
            count *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + count]}
        end += count
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return file


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    def make(tensors: Tensors | None = None, **config: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **config}))
        write_safetensors(tmp_path / "model.safetensors", tensors or {"a.weight": ("BF16", [4, 8])})
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"dtype": "float16"}, {"dtype": "float16"}),
        ({"dtype": None, "torch_dtype": "float16"}, {"dtype": "float16"}),
        ({"dtype": "float32"}, {"dtype": "bfloat16"}),
        ({"dtype": None}, {"dtype": "bfloat16", "dtype_stated": False}),
        (
            {"dtype": None, "text_config": {"dtype": "float16", "max_position_embeddings": 9}},
            {"dtype": "float16", "max_position_embeddings": 9},
        ),
        ({"max_position_embeddings": None, "n_positions": 77}, {"max_position_embeddings": 77}),
        ({"max_position_embeddings": None}, {"max_position_embeddings": None}),
        ({"quantization_config": {"quant_method": "awq"}}, {"quantization": "awq", "is_quantized": True}),
        ({"quantization_config": {}}, {"quantization": None, "is_quantized": False}),
        ({"architectures": None, "model_type": None}, {"architecture": None, "model_type": None}),
    ],
)
def test_configuration_facts(checkpoint: Callable[..., Path], config: dict[str, Any], expected: dict[str, Any]) -> None:
    facts = models.describe_config(checkpoint(**config))
    assert {name: getattr(facts, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("tensors", "config", "count"),
    [
        ({"a": ("BF16", [4, 8]), "b": ("F32", [3])}, {}, 35),
        ({"mask": ("BOOL", [8, 8]), "ids": ("I64", [8]), "a": ("F16", [2, 2])}, {}, 4),
        ({"a": ("F32", [5]), "rotary.inv_freq": ("F32", [32])}, {}, 5),
        ({"a": ("F32", [5]), "mtp.layers.0.w": ("F32", [9]), "model.mtp.fc.w": ("F32", [9])}, {}, 5),
        ({"a": ("F32", [5]), "model.mtp_layers.0.w": ("F32", [9])}, {}, 5),
        ({"m.embed_tokens.weight": ("BF16", [10, 4]), "lm_head.weight": ("BF16", [10, 4])}, {}, 80),
        (
            {"m.embed_tokens.weight": ("BF16", [10, 4]), "lm_head.weight": ("BF16", [10, 4])},
            {"tie_word_embeddings": True},
            40,
        ),
        ({"a": ("BF16", [4, 8])}, {"quantization_config": {"quant_method": "compressed-tensors"}}, None),
    ],
)
def test_parameters_are_counted_from_headers(
    checkpoint: Callable[..., Path], tensors: Tensors, config: dict[str, Any], count: int | None
) -> None:
    folder = checkpoint(tensors, **config)
    facts = models.describe(folder)
    assert facts.num_parameters == count
    assert facts.weight_bytes == (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("config", "embedding", "language"),
    [
        ({}, "F32", 2 * (6 + 8 + 8)),  # what is served of it
        ({}, "BF16", 2 * (6 + 8 + 8)),
        ({"tie_word_embeddings": True}, "BF16", 2 * (6 + 8)),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "F32", 6 + 4 * (8 + 8) + 4),
    ],
)
def test_sizes_are_of_the_language_part_at_16_bit(
    checkpoint: Callable[..., Path], config: dict[str, Any], embedding: str, language: int
) -> None:
    quantized = "quantization_config" in config
    tensors = {
        "model.layers.0.mlp.up_proj.weight": ("I8" if quantized else embedding, [2, 3]),
        "model.embed_tokens.weight": (embedding, [4, 2]),
        "lm_head.weight": (embedding, [4, 2]),
        **({"model.layers.0.mlp.up_proj.weight_scale": ("BF16", [2, 1])} if quantized else {}),
    }
    other = (
        "vision_tower.layers.0.weight", "model.visual.blocks.0.weight", "multi_modal_projector.linear.weight",
        "mtp.layers.0.mlp.up_proj.weight",
    )  # fmt: skip
    facts = [
        models.describe(checkpoint(each, **config)) for each in (tensors, tensors | dict.fromkeys(other, ("BF16", [9])))
    ]
    assert [each.language_bytes for each in facts] == [language, language]
    assert facts[0].num_parameters == facts[1].num_parameters
    assert facts[0].weight_bytes < facts[1].weight_bytes


def test_dtype_is_read_from_the_weights_where_the_configuration_is_silent(checkpoint: Callable[..., Path]) -> None:
    assert models.describe(checkpoint({"a": ("F16", [2])}, dtype=None)).dtype == "float16"
    assert models.describe(checkpoint({"a": ("F16", [2])}, dtype="bfloat16")).dtype == "bfloat16"


def test_shards_are_those_of_the_index(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    (folder / "model.safetensors").unlink()
    shards = {f"layer{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    for name, file in shards.items():
        write_safetensors(folder / file, {name: ("BF16", [2, 5])})
    write_safetensors(folder / "adapter.safetensors", {"other": ("BF16", [100])})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert models.describe(folder).num_parameters == 20
    (folder / shards["layer2"]).unlink()
    with pytest.raises(UsageError, match=r"1 of 2 weight files are missing, e\.g\. model-00002-of-00002"):
        models.describe(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-3], "its header requires"),
        (lambda data: data[:40], "damaged or incomplete"),
        (lambda data: data[:5], "not a safetensors file|damaged"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (lambda _: b"", "not a safetensors file"),
        (lambda data: data[:8] + b"[" + data[9:], "damaged"),
    ],
)
def test_damaged_weights_are_named(
    checkpoint: Callable[..., Path], damage: Callable[[bytes], bytes], message: str
) -> None:
    file = checkpoint() / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UsageError, match=message) as caught:
        models.describe(file.parent)
    assert str(file) in caught.value.cause


def test_a_checkpoint_of_pickles_is_refused(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="no weights in the safetensors format"):
        models.describe(folder)


@pytest.mark.large
def test_the_counts_agree_with_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from tests.standins.tiny_models import make_checkpoint

    for architecture in ("llama", "qwen2"):  # untied and tied
        folder = make_checkpoint(tmp_path / architecture, architecture, max_shard_size="100KB")
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert len(weight_files(folder)) > 1
        assert models.describe(folder).num_parameters == model.num_parameters()


def test_local_folders(checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint()
    monkeypatch.chdir(folder.parent)
    for name in (str(folder), f"./{folder.name}", f"{folder.name}/", folder.name):
        source = models.resolve(name)
        assert (source.kind, source.name, source.path, source.revision) == ("local", name, folder, None)
        assert fetch(source) is source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "does not exist"),
        ("../nowhere/x", "does not exist"),
        ("~/nowhere-at-all", "does not exist"),
        ("/nowhere/at/all", "does not exist"),
        (".", "has no config.json"),
        ("file.txt", "is a file"),
    ],
)
def test_paths_that_hold_no_model(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file.txt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        models.resolve(name)
    assert repr(name) in caught.value.cause


@pytest.mark.parametrize("name", ["a/b/c", "a b/c", "a//b", "..a", "a/b?", "org/"])
def test_malformed_ids(name: str) -> None:
    with pytest.raises(UsageError, match="neither a folder nor a model id"):
        models.resolve(name)


def test_configuration_that_is_not_json(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    for text in ("{", "[]", "\xff"):
        (folder / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(UsageError, match=r"config\.json"):
            models.describe(folder)


def test_a_quantized_checkpoint_is_measured_but_not_quantized(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint(quantization_config={"quant_method": "gptq"})
    source, facts = models.resolve(str(folder)), models.describe_config(folder)
    models.require_plain(source, facts, "fp16")
    with pytest.raises(UsageError, match=r"already quantized \(gptq\) and cannot be quantized to int4"):
        models.require_plain(source, facts, "int4")


def test_a_fingerprint_knows_trained_states_apart(checkpoint: Callable[..., Path]) -> None:
    file = checkpoint({"a": ("BF16", [40, 1024, 1024])}) / "model.safetensors"  # 80 MiB: read by blocks
    before = models.fingerprint(file.parent)
    assert before == models.fingerprint(file.parent)
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\1")
    after = models.fingerprint(file.parent)
    assert before != after
    (file.parent / "config.json").write_text(json.dumps({**CONFIG, "rope_theta": 1}))
    assert models.fingerprint(file.parent) not in (before, after)


# The hub. huggingface_hub reads HF_ENDPOINT when it is imported, so each hub gets a process of its own.

_REFUSALS: dict[str, tuple[int, dict[str, str]]] = {
    "org/missing": (404, {"X-Error-Code": "RepoNotFound"}),
    "org/plain404": (404, {}),
    "org/unauthorized": (401, {}),
    "org/gated401": (401, {"X-Error-Code": "GatedRepo"}),
    "org/gated403": (403, {"X-Error-Code": "GatedRepo"}),
    "org/forbidden": (403, {"X-Error-Message": "no"}),
    "org/badtoken": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "org/limited": (429, {}),
    "org/broken": (500, {}),
    "org/gguf": (404, {"X-Error-Code": "EntryNotFound"}),
}
_FILES = {
    "org/good": {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": b"weights",
        "original/w.pth": b"x",
        "consolidated.safetensors": b"copy",
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"{{ 1 }}",
    },
    "org/Tiny-old": {
        "config.json": json.dumps(CONFIG).encode(),
        "hf_quant_config.json": b'{"quantization": {"quant_algo": "NVFP4"}}',
        "README.md": b"---\nbase_model: org/good\n---\n",
        "model.safetensors": b"weights",
    },
    "org/Embedding": {"config.json": json.dumps(CONFIG).encode(), "modules.json": b'[{"type": "a.Pooling"}]'},
    "org/pickled": {"config.json": json.dumps(CONFIG).encode(), "pytorch_model.bin": b"x"},
}


class _Hub(BaseHTTPRequestHandler):
    """Enough of the hub for resolve() and fetch(): revisions, the tree, and files by HEAD and GET."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
        else:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def _api(self, repo: str, rest: list[str]) -> None:
        if repo not in _FILES:
            status, headers = _REFUSALS[repo]
            self._send(status, b"", headers)
        elif rest[:1] == ["tree"]:
            files = _FILES[repo].items()
            tree = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in files]
            self._send(200, json.dumps(tree).encode())
        else:
            siblings = [{"rfilename": name} for name in _FILES[repo]]
            self._send(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode())

    def _file(self, repo: str, revision: str, name: str) -> None:
        if repo in _REFUSALS:
            status, headers = _REFUSALS[repo]
            self._send(status, b"", headers)
        elif revision not in ("main", COMMIT):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif name not in _FILES[repo]:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            etag = f'"{name.replace("/", "-")}"'
            self._send(200, _FILES[repo][name], {"X-Repo-Commit": COMMIT, "ETag": etag})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


_ASK = """
import json, sys
from pathlib import Path
from slim_eval import models
from slim_eval.errors import SlimEvalError
from slim_eval.models import fetch
from slim_eval.execution.plan import base_model_of
for name, revision in json.loads(sys.argv[1]):
    try:
        source = models.resolve(name, revision)
        facts = models.describe_config(source.config_dir)
        if facts.not_causal:
            print(json.dumps({"not_causal": facts.not_causal}))
            continue
        told = {"scheme": facts.scheme, "base": base_model_of(source)}
        answer = fetch(source).model_dump(mode="json")
        answer |= told
        answer["files"] = sorted(str(p.relative_to(answer["path"])) for p in Path(answer["path"]).rglob("*"))
    except SlimEvalError as error:
        answer = {"error": type(error).__name__, "cause": error.cause, "remedy": error.remedy}
    print(json.dumps(answer))
assert not {"torch", "transformers"} & set(sys.modules)
"""


def ask(endpoint: str, home: Path, questions: list[tuple[str, str | None]], **env: str) -> list[dict[str, Any]]:
    """What resolve() and fetch() say in a process whose hub is `endpoint`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", _ASK, json.dumps(questions)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**clean, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path), **env},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def answers(hub: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    home = tmp_path_factory.mktemp("hub")
    questions: list[tuple[str, str | None]] = [(name, None) for name in (*_REFUSALS, *_FILES)]
    given = ask(hub, home, [*questions, ("org/good", "v9")])
    return {
        **{name: answer for (name, _), answer in zip(questions, given, strict=False)},
        "revision": given[-1],
        "home": {"path": str(home)},
    }


@pytest.mark.parametrize(
    ("name", "error", "cause", "remedy"),
    [
        ("org/missing", "HubError", "does not exist", "spelling"),
        ("org/plain404", "HubError", "does not exist", "spelling"),
        ("org/unauthorized", "HubError", "does not accept your token|does not exist", "HF_TOKEN"),
        ("org/gated401", "HubError", "is gated", "accept its licence, then export HF_TOKEN"),
        ("org/gated403", "HubError", "is gated", "accept its licence, then export HF_TOKEN"),
        ("org/forbidden", "HubError", "refuses access", "HF_TOKEN"),
        ("org/badtoken", "HubError", "does not accept your token", "settings/tokens"),
        ("org/limited", "HubError", "limits the rate", "wait"),
        ("org/broken", "HubError", "answered 500", "try again"),
        ("org/gguf", "UsageError", "has no config.json", "GGUF"),
        ("org/pickled", "HubError", "no weights in the safetensors format", "--allow-pickle"),
        ("revision", "UsageError", "no revision 'v9'", "commit"),
    ],
)
def test_refusals_of_the_hub(
    answers: dict[str, dict[str, Any]], name: str, error: str, cause: str, remedy: str
) -> None:
    answer = answers[name]
    assert answer["error"] == error
    assert re.search(cause, answer["cause"])
    assert remedy in answer["remedy"]
    assert "\n" not in answer["cause"] + answer["remedy"]


def test_a_model_of_the_hub_is_pinned_and_fetched_without_second_copies(answers: dict[str, dict[str, Any]]) -> None:
    good = answers["org/good"]
    assert (good["kind"], good["revision"]) == ("hub", COMMIT)
    assert good["files"] == ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.large
def test_a_quantized_model_of_the_hub_says_what_it_is_before_its_weights_are_fetched(
    hub: str, answers: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    tiny = answers["org/Tiny-old"]
    assert (tiny["scheme"], tiny["base"]) == ("nvfp4", "org/good")
    assert (answers["org/good"]["scheme"], answers["org/good"]["base"]) == (None, None)
    (cached,) = ask(hub, Path(answers["home"]["path"]), [("org/Tiny-old", None)], HF_HUB_OFFLINE="1")
    assert (cached["scheme"], cached["base"]) == ("nvfp4", "org/good")


def test_an_embedding_model_of_the_hub_says_so_before_its_weights_are_fetched(
    answers: dict[str, dict[str, Any]],
) -> None:
    assert answers["org/Embedding"] == {"not_causal": "an embedding model"}


@pytest.mark.large
def test_without_a_hub(answers: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
    home = Path(answers["home"]["path"])
    cached, missing = ask(nobody, home, [("org/good", None), ("org/missing", None)])
    assert cached["revision"] == COMMIT
    assert missing["error"] == "HubError"
    assert nobody in missing["cause"]
    assert "cannot be reached" in missing["cause"]
    cached, missing = ask(nobody, home, [("org/good", None), ("org/missing", None)], HF_HUB_OFFLINE="1")
    assert cached["revision"] == COMMIT
    assert "HF_HUB_OFFLINE" in missing["cause"]


@pytest.mark.parametrize(
    ("client", "failure"),
    [("requests.exceptions", "ConnectionError"), ("httpx", "ConnectError"), ("httpx2", "ConnectError")],
)
def test_the_errors_of_whichever_client_the_hub_has_are_known(
    client: str, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub has changed its HTTP client twice; the newest one is what a plain `pip install` brings."""
    module = pytest.importorskip(client)
    refused = type("HfHubHTTPError", (module.HTTPError, OSError), {})
    monkeypatch.setattr("huggingface_hub.errors.HfHubHTTPError", refused)
    assert isinstance(getattr(module, failure)("no"), http_errors())
    assert isinstance(module.InvalidURL("no"), client_errors())


@pytest.mark.large
@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("HF_ENDPOINT", "http://hub:port", "HF_ENDPOINT=http://hub:port is not a URL"),
        ("HF_ENDPOINT", "http://[::1", "rejects a variable that begins with HF_"),
        ("HF_ENDPOINT", "hub.example", "HF_ENDPOINT=hub.example is not a URL"),
        ("HF_HUB_ETAG_TIMEOUT", "soon", "rejects a variable that begins with HF_"),
    ],
)
def test_variables_of_the_hub_that_are_wrong_are_a_usage_error(
    name: str, value: str, cause: str, tmp_path: Path
) -> None:
    done = run_command("run", "--models", "org/model", "--dry-run", cwd=tmp_path, env={name: value})
    assert done.returncode == 2
    assert cause in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be stored"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache/blobs"), "cannot be stored: /cache/blobs"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "cannot be reached"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "cannot be reached"),
        (OSError("Consistency check failed"), "did not complete its response"),
    ],
)
def test_what_goes_wrong_on_the_way_is_told_apart(error: OSError, says: str) -> None:
    with pytest.raises(HubError, match=says), hub_errors("org/model", None):
        raise error


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, None),
        ({"architectures": ["GPT2LMHeadModel"]}, None),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, None),
        ({}, None),
        ({"architectures": ["ChatGLMModel"], "auto_map": {"AutoModelForCausalLM": "modeling_chatglm.Chat"}}, None),
        ({"architectures": ["BartForConditionalGeneration"], "is_encoder_decoder": True}, "an encoder-decoder"),
        ({"architectures": ["BertForMaskedLM"]}, "an encoder"),
        ({"architectures": ["BertForPreTraining"]}, "an encoder"),
        ({"architectures": ["BertForNextSentencePrediction"]}, "an encoder"),
        ({"architectures": ["BertLMHeadModel"], "model_type": "bert"}, "an encoder"),
        ({"architectures": ["RobertaForCausalLM"], "model_type": "roberta", "is_decoder": False}, "an encoder"),
        ({"architectures": ["BertLMHeadModel"], "model_type": "bert", "is_decoder": True}, None),
        ({"model_type": "xlm-roberta"}, "an encoder"),
        ({"model_type": "mobilebert"}, "an encoder"),
        ({"model_type": "llama"}, None),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "a classifier"),
        ({"architectures": ["Qwen3Model"]}, "a model without a language-model head"),
        ({"architectures": ["InternLM2ForRewardModel"]}, "a reward model"),
    ],
)
def test_models_that_are_not_causal_are_recognised(tmp_path: Path, config: dict[str, Any], kind: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert models.describe_config(tmp_path).not_causal == kind


@pytest.mark.parametrize(
    ("modules", "kind"),
    [
        (
            [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}],
            True,
        ),
        ([{"type": "sentence_transformers.models.Transformer"}], False),
        ({"type": "Pooling"}, False),
        (["Pooling"], False),
    ],
)
def test_a_model_of_sentence_transformers_is_no_language_model(
    checkpoint: Callable[..., Path], modules: object, kind: bool
) -> None:
    folder = checkpoint(architectures=["Qwen3ForCausalLM"])
    (folder / "modules.json").write_text(json.dumps(modules))
    assert models.describe_config(folder).not_causal == ("an embedding model" if kind else None)
