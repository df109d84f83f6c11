"""Calibration data from files and folders: what is chosen, how it is rendered, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import QuantizationConfig
from slim_eval.errors import QuantizationError, UsageError
from slim_eval.quantization.calibration import content_hash, load_texts, local_path
from tests.standins.hub import Fault, FaultKind, LoopbackHub
from tests.standins.tiny_models import CHAT_TEMPLATE, make_tokenizer

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., str]:
    def write(*rows: Any, name: str = "data.jsonl") -> str:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(file)

    return write


def config(dataset: str, **values: Any) -> QuantizationConfig:
    return QuantizationConfig(calibration_dataset=dataset, **{"max_sequence_length": 64, **values})


def texts(tokenizer: Any, dataset: str, seed: int = 0, **values: Any) -> list[str]:
    calibration = load_texts(config(dataset, **values), tokenizer, seed)
    return [tokenizer.decode(ids) for ids in calibration.token_ids]


def test_conversations_go_through_the_chat_template(tokenizer: Any, lines: Callable[..., str]) -> None:
    assert texts(tokenizer, lines({"messages": TURNS, "prompt": "x"})) == ["<|user|>hi</s><|assistant|>yo</s>"]


def test_without_a_chat_template_conversations_are_joined(lines: Callable[..., str]) -> None:
    plain = make_tokenizer(chat_template=None)
    calibration = load_texts(config(lines({"messages": TURNS}, {"messages": TURNS})), plain, 0)
    assert plain.decode(calibration.token_ids[0]) == "user: hi\nassistant: yo"
    assert [note for note in calibration.notes if "no chat template" in note] == [calibration.notes[0]]


def test_a_template_that_refuses_a_conversation(lines: Callable[..., str]) -> None:
    strict = make_tokenizer(chat_template="{{ raise_exception('roles must alternate') }}" + CHAT_TEMPLATE)
    calibration = load_texts(config(lines({"messages": TURNS})), strict, 0)
    assert strict.decode(calibration.token_ids[0]) == "user: hi\nassistant: yo"
    assert "roles must alternate" in calibration.notes[0]


SAID = "<|user|>hi</s><|assistant|>yo</s>"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"messages": json.dumps(TURNS)}, SAID),
        ({"messages": [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS]}, SAID),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}, SAID),
        ({"instruction": "hi", "input": "", "output": "yo"}, SAID),
        ({"instruction": "h", "input": "i", "output": "yo"}, "<|user|>h\n\ni</s><|assistant|>yo</s>"),
        ({"prompt": "hi", "response": "yo"}, SAID),
        ({"prompt": "hi", "completion": "yo", "messages": None}, SAID),
        ({"prompt": [TURNS[0]], "completion": [TURNS[1]]}, SAID),
        ({"prompt": [TURNS[0]], "completion": "yo"}, SAID),
        ({"instruction": "h", "context": "i", "response": "yo"}, "<|user|>h\n\ni</s><|assistant|>yo</s>"),
        ({"instruction": "h", "context": "", "response": "yo"}, "<|user|>h</s><|assistant|>yo</s>"),
        ({"question": "hi", "answer": 0}, "<|user|>hi</s><|assistant|>0</s>"),
        ({"question": "hi", "answer": "yo", "context": {"title": ["a"], "sentences": [["b"]]}}, SAID),
        ({"question": "hi", "answer": ["yo", "no"]}, SAID),
        ({"question": "hi", "context": [["a", "b"]], "answer": "yo"}, SAID),
        ({"system": "be", "prompt": "hi", "response": "yo"}, f"<|system|>be</s>{SAID}"),
        ({"system": "be", "messages": TURNS}, f"<|system|>be</s>{SAID}"),
        ({"system": "be", "messages": [{"role": "system", "content": "do"}, *TURNS]}, f"<|system|>do</s>{SAID}"),
        ({"text": "whole", "instruction": "hi", "output": "yo"}, "whole"),
        (
            {"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}, TURNS[1]]},
            "<|user|>hi</s><|assistant|></s><|assistant|>yo</s>",
        ),
    ],
)
def test_the_usual_forms_of_rows(tokenizer: Any, lines: Callable[..., str], row: dict[str, Any], text: str) -> None:
    assert texts(tokenizer, lines(row)) == [text]


def test_tool_calls_are_kept_if_a_conversation_is_joined(lines: Callable[..., str]) -> None:
    plain = make_tokenizer(chat_template=None)
    calls = [{"function": {"name": "f", "arguments": "{}"}}]
    row = {"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": calls}]}
    calibration = load_texts(config(lines(row), max_sequence_length=256), plain, 0)
    assert plain.decode(calibration.token_ids[0]) == f"user: hi\nassistant: {json.dumps(calls)}"


def test_texts_are_cut_and_empty_rows_left_out(tokenizer: Any, lines: Callable[..., str]) -> None:
    data = lines({"text": "a" * 100}, {"text": " "}, {"messages": []}, {"text": None}, "", {"text": "b"})
    calibration = load_texts(config(data), tokenizer, 0)
    assert sorted(map(len, calibration.token_ids)) == [1, 64]
    tokens = sum(map(len, calibration.token_ids))
    said = f"2 usable samples, {tokens} tokens in all; 512 were requested"
    assert any(said in note for note in calibration.notes)


@pytest.mark.parametrize("key", ["output", "response", "completion", "answer"])
@pytest.mark.parametrize("answer", ["", " ", None, []])
def test_a_row_without_an_answer_is_left_out(
    tokenizer: Any, lines: Callable[..., str], key: str, answer: object
) -> None:
    assert texts(tokenizer, lines({"instruction": "hi", key: answer}, {"prompt": "hi", key: "yo"})) == [SAID]


def test_the_seed_alone_decides_which_rows(tokenizer: Any, lines: Callable[..., str]) -> None:
    data = lines(*({"text": f"row {i}"} for i in range(100)))
    wanted = config(data, num_calibration_samples=10)
    first, again, other = (load_texts(wanted, tokenizer, seed) for seed in (3, 3, 4))
    assert first == again
    assert len(first.token_ids) == 10
    assert first.sha256 != other.sha256
    assert first.notes == ()


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".txt", ".parquet"])
def test_files_and_folders(
    tokenizer: Any, lines: Callable[..., str], tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = ["one", "two"] if ending == ".txt" else [{"text": "one"}, {"text": "two"}]
    file = Path(lines(*rows, name=f"texts/data{ending}"))
    if ending == ".parquet":
        import pandas

        pandas.DataFrame(rows).to_parquet(file)
    for dataset in (file, file.parent):  # of a folder its only split is taken, though it is not called train_sft
        assert sorted(texts(tokenizer, str(dataset))) == ["one", "two"]


def test_a_saved_dataset(tokenizer: Any, tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    saved = Dataset.from_dict({"text": ["one"]})
    saved.save_to_disk(str(tmp_path / "single"))
    DatasetDict({"train_sft": saved, "test": Dataset.from_dict({"text": ["two"]})}).save_to_disk(str(tmp_path / "dict"))
    assert texts(tokenizer, str(tmp_path / "single")) == ["one"]
    assert texts(tokenizer, str(tmp_path / "dict")) == ["one"]
    assert texts(tokenizer, str(tmp_path / "dict"), calibration_split="test") == ["two"]
    with pytest.raises(UsageError, match="has no split 'tests'") as caught:
        texts(tokenizer, str(tmp_path / "dict"), calibration_split="tests")
    assert "did you mean test" in caught.value.remedy


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{"], "line 1: not JSON"),
        ([{"text": "a"}, "3"], "line 2: not a JSON object"),
        ([{"prompt": "a", "score": "b"}], "neither `messages` nor `text`, but only prompt, score"),
        ([{"messages": "hello"}], "not a list of role and content"),
        ([{"messages": [{"speaker": "human", "value": "x"}]}], "not a list of role and content"),
        ([{"messages": [{"role": "user"}]}], "not a list of role and content"),
        ([{"messages": ["hi", "yo"]}], "not a list of role and content"),
        ([{"messages": {"role": "user", "content": "hi"}}], "not a list of role and content"),
        ([{"messages": [{"role": "user", "content": ["hi"]}]}], "not a list of role and content"),
        ([{"conversations": [{"from": "human"}]}], "not a list of role and content"),
        ([{"text": ""}], "no usable row"),
        ([], "no usable row"),
    ],
)
def test_rows_that_cannot_be_used(tokenizer: Any, lines: Callable[..., str], rows: list[Any], message: str) -> None:
    data = lines(*rows)
    with pytest.raises(QuantizationError, match=message) as caught:
        texts(tokenizer, data)
    assert data in caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["./nothing", "/no/where", "nothing.jsonl", "~/nothing-here", "a/b.parquet"])
def test_data_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        local_path(name)


def test_hub_names_are_no_paths() -> None:
    assert local_path("HuggingFaceH4/ultrachat_200k") is None


def test_unknown_endings_and_empty_folders(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "data.xyz").touch()
    with pytest.raises(UsageError, match=r"unknown file type '\.xyz'"):
        texts(tokenizer, str(tmp_path / "data.xyz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(QuantizationError, match="cannot be read"):
        texts(tokenizer, str(tmp_path / "empty"))


def test_content_not_path_names_local_data(lines: Callable[..., str], tmp_path: Path) -> None:
    first, copy, other = (lines({"text": text}, name=f"{name}.jsonl") for name, text in ("xa", "yb", "za"))
    assert content_hash(Path(first)) != content_hash(Path(copy))
    Path(copy).write_bytes(Path(first).read_bytes())
    assert content_hash(Path(first)) == content_hash(Path(copy))
    assert content_hash(tmp_path) != content_hash(Path(other))


_ASK = """
import json, sys
from slim_eval.quantization.calibration import load_texts
from slim_eval.config import QuantizationConfig
from slim_eval.errors import SlimEvalError
from tests.standins.hub import Fault, FaultKind, LoopbackHub
from tests.standins.tiny_models import make_tokenizer
tokenizer = make_tokenizer()
for name, split in json.loads(sys.argv[1]):
    try:
        found = load_texts(QuantizationConfig(calibration_dataset=name, calibration_split=split), tokenizer, 0)
        answer = {"texts": sorted(map(tokenizer.decode, found.token_ids))}
    except SlimEvalError as error:
        answer = {"error": type(error).__name__, "cause": error.cause, "remedy": error.remedy}
    print(json.dumps(answer))
"""


def ask(questions: list[tuple[str, str]], environment: dict[str, str]) -> list[dict[str, Any]]:
    """What load_texts() says in a process of its own: `datasets` reads the address of the hub when it is imported."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", _ASK, json.dumps(questions)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**clean, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.large
def test_datasets_of_the_hub(tmp_path: Path) -> None:
    for name, row in (("chat", {"messages": TURNS}), ("secret", {"messages": TURNS}), ("odd", {"prompt": "x"})):
        data = tmp_path / "hub" / "datasets" / "org" / name / "data"
        data.mkdir(parents=True)
        (data / "train-00000-of-00001.jsonl").write_text(json.dumps(row) + "\n")
        if name == "chat":
            (data / "test-00000-of-00001.jsonl").write_text(json.dumps({"messages": TURNS[:1]}) + "\n")
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.fail("org/secret", Fault(FaultKind.GATED))
        environment = hub.environment(tmp_path / "cache")
        answers = ask(
            [
                ("org/chat", "train"),
                ("org/chat", "test"),
                ("org/chat", "trian"),
                ("org/secret", "train"),
                ("org/absent", "train"),
                ("not an id", "train"),
                ("org/odd", "train"),
            ],
            environment,
        )
    assert answers[0] == {"texts": ["<|user|>hi</s><|assistant|>yo</s>"]}
    assert answers[1] == {"texts": ["<|user|>hi</s>"]}
    expected = [
        ("UsageError", "has no split 'trian'", "did you mean train?"),
        ("HubError", "dataset 'org/secret' is gated", "HF_TOKEN"),
        ("HubError", "dataset 'org/absent' does not exist", "spelling"),
        ("UsageError", "neither a folder nor a dataset id", "org/name"),
        ("QuantizationError", "org/odd, row 1: has neither", "messages"),
    ]
    for answer, (error, cause, remedy) in zip(answers[2:], expected, strict=True):
        assert answer["error"] == error
        assert cause in answer["cause"]
        assert remedy in answer["remedy"]
    [cached, unknown] = ask([("org/chat", "test"), ("org/new", "train")], {**environment, "HF_HUB_OFFLINE": "1"})
    assert cached == {"texts": ["<|user|>hi</s>"]}
    assert unknown["error"] == "HubError"
    assert "HF_HUB_OFFLINE" in unknown["cause"]
