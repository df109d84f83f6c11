"""Calibration data: the texts that quantization runs on, as token ids.

Rows have ``text``, or a conversation in one of the usual forms, which is rendered with the model's own chat template.
They come from the hub, a local file or a folder; only the seed decides which rows are used.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim_eval.config import QuantizationConfig
from slim_eval.errors import INSTALL, MissingPackageError, QuantizationError, UsageError
from slim_eval.models.hub import http_errors, hub_errors
from slim_eval.utils import did_you_mean, safe_json

# File ending -> builder of `datasets`; .jsonl is read here, so that rows may differ in their keys.
_BUILDERS = {".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
_MAX_BYTES = 2 * 10**9  # of a .jsonl file, whose rows are all kept in memory
_REMEDY = (
    "a row is an object with `text`, `messages` (a list of role and content), `conversations` (ShareGPT), "
    "`instruction` and `output` (Alpaca), or `prompt` and `response`"
)
#: Keys of a row for what is asked, all of which are joined, and for the answer, of which the first counts.
_QUESTIONS = ("instruction", "input", "context", "prompt", "question")
_ANSWERS = ("output", "response", "completion", "answer")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Calibration:
    """Calibration samples."""

    token_ids: tuple[tuple[int, ...], ...]  # of each sample; none is empty or longer than the config allows
    sha256: str  # hash of all token ids: two runs with the same value used the same data
    notes: tuple[str, ...] = ()  # what a reader must know, one line each


def load_texts(config: QuantizationConfig, tokenizer: Any, seed: int) -> Calibration:
    """Load, choose and tokenize the calibration samples with a tokenizer of Transformers.

    The seed decides which rows are used, and their order.

    Raises:
        UsageError: A file or split does not exist.
        HubError: The hub refused the dataset, or cannot be reached.
        QuantizationError: Rows have another form, or none is usable.
    """
    name = config.calibration_dataset
    rows = _rows(config)
    unusual: dict[str, None] = {}  # notes, ordered and without repetitions
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    samples: list[tuple[int, ...]] = []
    for index in order:
        if len(samples) == config.num_calibration_samples:
            break
        text, special = _render(rows[index], tokenizer, f"{name}, row {index + 1}", unusual)
        if text.strip():
            length = config.max_sequence_length
            encoded = tokenizer(text, add_special_tokens=special, truncation=True, max_length=length)
            samples += [tuple(encoded["input_ids"])] if encoded["input_ids"] else []
    if not samples:
        raise QuantizationError(f"calibration dataset {name!r} contains no usable row", _REMEDY)
    notes = list(unusual)
    if len(samples) < config.num_calibration_samples:
        tokens = f"{sum(map(len, samples)):,} tokens in all"
        notes.append(
            f"{name} contains {len(samples)} usable samples, {tokens}; {config.num_calibration_samples} were requested"
        )
    digest = hashlib.sha256(json.dumps(samples, separators=(",", ":")).encode()).hexdigest()
    return Calibration(tuple(samples), digest, tuple(notes))


def _render(row: Mapping[str, Any], tokenizer: Any, where: str, notes: dict[str, None]) -> tuple[str, bool]:
    """The text of a row, empty for an empty one, and whether the tokenizer must still add its special tokens."""
    text = row.get("text")
    try:
        turns = _turns(row)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise QuantizationError(f"{where}: its conversation is not a list of role and content", _REMEDY) from error
    if not turns:
        if isinstance(text, str) or turns is not None or "text" in row:
            return text if isinstance(text, str) else "", True
        cause = f"{where}: has neither `messages` nor `text`, but only {', '.join(sorted(row))}"
        raise QuantizationError(cause, _REMEDY)
    from jinja2 import TemplateError

    if getattr(tokenizer, "chat_template", None):
        try:
            return str(tokenizer.apply_chat_template(turns, tokenize=False)), False
        except (TemplateError, TypeError) as error:
            # Some templates refuse a system turn, two turns of one role, or a tool's: such a row is joined as text.
            notes[f"the chat template refused some conversations ({error}): joined as plain text"] = None
    else:
        notes["the tokenizer has no chat template: conversations are joined as plain text"] = None
    lines = []
    for turn in turns:
        calls = json.dumps(turn["tool_calls"]) if "tool_calls" in turn else ""
        lines.append(f"{turn['role']}: {turn['content']}{calls}")
    return "\n".join(lines), True


def _turns(row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The conversation of a row, as chat templates read it; None if it has none of the known forms.

    Known are `messages` (also as a JSON string), ShareGPT's `conversations`, Alpaca's `instruction`, `input` and
    `output`, Dolly's `context`, and a prompt with its response, which may be messages too; `system` may precede any of
    them. Turns of another form raise a TypeError, KeyError, ValueError or AttributeError.
    """
    if found := row.get("messages") or row.get("conversations"):
        return _after_system(row, [_turn(turn) for turn in (json.loads(found) if isinstance(found, str) else found)])
    if isinstance(row.get("text"), str):
        return None
    asked, answers = _given(row, _QUESTIONS), _given(row, _ANSWERS)
    if asked and answers:
        return _after_system(row, [*_said("user", asked), *_said("assistant", answers[:1])])
    is_known = row.keys() & set(_QUESTIONS) and row.keys() & set(_ANSWERS)
    return [] if is_known or "messages" in row or "conversations" in row else None


def _given(row: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
    """The values of a row that are not empty, in the order of the keys."""
    found = (row.get(key) for key in keys)
    return [value for value in found if value is not None and value != [] and str(value).strip()]


def _said(role: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    """The turns of one side: one with all texts, and those of values that are messages.

    Of a list of texts, which are answers that all hold, the first counts; other structures are left out.
    """
    texts, turns = list[str](), list[dict[str, Any]]()
    for value in values:
        each = value if isinstance(value, list) else [value]
        if each and all(isinstance(turn, Mapping) and turn.keys() & {"role", "from"} for turn in each):
            turns += map(_turn, each)
        elif each and not isinstance(each[0], (Mapping, list)):
            texts.append(str(each[0]))
    return [*([{"role": role, "content": "\n\n".join(texts)}] if texts else []), *turns]


def _after_system(row: Mapping[str, Any], turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation with the `system` of its row as the first turn, unless it has one of its own."""
    system = row.get("system")
    if not isinstance(system, str) or not system.strip() or any(turn["role"] == "system" for turn in turns):
        return turns
    return [{"role": "system", "content": system}, *turns]


def _turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    if "from" in turn:  # ShareGPT's names
        return {"role": _SHAREGPT_ROLES.get(turn["from"], str(turn["from"])), "content": str(turn["value"])}
    calls = turn.get("tool_calls")
    content = turn.get("content") if calls else turn["content"]
    if isinstance(content, list):  # parts, of which only text can be calibrated on
        content = "".join(part["text"] for part in content if part.get("type", "text") == "text")
    made = {"role": str(turn["role"]), "content": "" if content is None else content}
    return {**made, "tool_calls": calls} if calls else made


def local_path(dataset: str) -> Path | None:
    """The file or folder that a calibration dataset names; None for one on the hub.

    Raises:
        UsageError: It is a path to nothing.
    """
    path = Path(dataset).expanduser()
    with suppress(OSError):  # longer than a file name can be
        if path.exists():
            return path
    if dataset.startswith((".", "/", "~")) or path.suffix in (".jsonl", *_BUILDERS):
        raise UsageError(f"calibration dataset {dataset!r} does not exist", "name a file, a folder or a hub dataset")
    return None


def content_hash(path: Path) -> str:
    """SHA-256 of the files of a local dataset and their names relative to it."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"\0{file.relative_to(path)}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _rows(config: QuantizationConfig) -> Sequence[Mapping[str, Any]]:
    path = local_path(config.calibration_dataset)
    if path is not None and path.is_file() and path.suffix == ".jsonl":
        return list(_json_lines(path))
    try:
        import datasets
    except ImportError as error:
        raise MissingPackageError("datasets", "this calibration dataset", INSTALL) from error
    if path is None:
        return _hub_rows(datasets, config.calibration_dataset, config.calibration_split)
    return _local_rows(datasets, path, config.calibration_split)


def _hub_rows(datasets: Any, name: str, split: str) -> Sequence[Mapping[str, Any]]:
    try:
        rows: Sequence[Mapping[str, Any]] = datasets.load_dataset(name, split=split)
    except (datasets.exceptions.DatasetsError, ValueError, RuntimeError, *http_errors()) as error:
        if "Unknown split" in str(error):
            raise _unknown_split(name, split, datasets.get_dataset_split_names(name)) from error
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError

        # The hub's own reason, if there is one: `datasets` reports only that something failed.
        with hub_errors(name, None, "dataset"), suppress(EntryNotFoundError):
            get_hf_file_metadata(hf_hub_url(name, "README.md", repo_type="dataset"))
        raise _unreadable(name, error) from error
    return rows


def _local_rows(datasets: Any, path: Path, split: str) -> Sequence[Mapping[str, Any]]:
    name = str(path)
    try:
        if path.is_file():
            builder = _BUILDERS.get(path.suffix.lower())
            if builder is None:
                cause = f"calibration dataset {name!r}: unknown file type {path.suffix!r}"
                raise UsageError(cause, f"known: .jsonl {' '.join(_BUILDERS)}")
            loaded = datasets.load_dataset(builder, data_files=name)
        elif any((path / marker).exists() for marker in ("dataset_info.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    if isinstance(loaded, Mapping):
        if split not in loaded and len(loaded) != 1:
            raise _unknown_split(name, split, loaded)
        loaded = loaded[split] if split in loaded else next(iter(loaded.values()))
    rows: Sequence[Mapping[str, Any]] = loaded
    return rows


def _unreadable(name: str, error: BaseException) -> QuantizationError:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return QuantizationError(f"calibration dataset {name!r} cannot be read ({first_line})", _REMEDY)


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    number = 0
    with path.open("rb") as stream:
        try:
            for number, line in enumerate(safe_json.lines(stream, max_bytes=_MAX_BYTES), start=1):
                if line.strip():
                    row = safe_json.parse(line)
                    if not isinstance(row, dict):
                        raise QuantizationError(f"{path}, line {number}: not a JSON object", _REMEDY)
                    yield row
        except safe_json.LimitError as error:
            raise UsageError(f"{path}: {error}", "use a smaller file, or a dataset on the hub") from error
        except UnicodeDecodeError as error:
            raise QuantizationError(f"{path}, line {number + 1}: not UTF-8 ({error})", _REMEDY) from error
        except ValueError as error:
            raise QuantizationError(f"{path}, line {number}: not JSON ({error})", _REMEDY) from error


def _unknown_split(name: str, split: str, known: Any) -> UsageError:
    remedy = f"{did_you_mean(split, map(str, known))} (--calibration-split)"
    return UsageError(f"calibration dataset {name!r} has no split {split!r}", remedy)
