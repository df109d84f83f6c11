"""Calibration data: the texts that quantization runs on, as token ids.

Rows have ``messages`` (a conversation, rendered with the model's own chat template) or ``text``. They come from the
hub, a local file or a folder; only the seed decides which rows are used.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slim_eval.config import QuantizationConfig
from slim_eval.errors import INSTALL, MissingPackageError, QuantizationError, UsageError
from slim_eval.models.hub import http_errors, hub_errors
from slim_eval.utils import did_you_mean, safe_json

# File ending -> builder of `datasets`; .jsonl is read here, so that rows may differ in their keys.
_BUILDERS = {".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
_MAX_BYTES = 2 * 10**9  # of a .jsonl file, whose rows are all kept in memory
_REMEDY = "a row is an object with `messages` (a list of role and content) or `text`"


@dataclass(frozen=True)
class Calibration:
    """Calibration samples.

    Attributes:
        token_ids: Token ids of each sample; no sample is empty or longer than the config allows.
        sha256: Hash of all token ids: two runs with the same value used the same data.
        notes: What a reader must know, one line each.
    """

    token_ids: tuple[tuple[int, ...], ...]
    sha256: str
    notes: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens in all samples."""
        return sum(map(len, self.token_ids))


@dataclass
class _Renderer:
    """Turns rows into token ids and collects notes about unusual ones."""

    tokenizer: Any
    max_length: int
    notes: dict[str, None] = field(default_factory=dict)  # ordered, without repetitions

    def tokens(self, row: Mapping[str, Any], where: str) -> tuple[int, ...]:
        messages, text = row.get("messages"), row.get("text")
        if messages:
            rendered, special = self._conversation(messages, where)
        elif isinstance(text, str):
            rendered, special = text, True
        elif "messages" in row or "text" in row:
            return ()  # an empty row
        else:
            raise QuantizationError(
                f"{where}: has neither `messages` nor `text`, but only {', '.join(sorted(row))}", _REMEDY
            )
        if not rendered.strip():
            return ()
        encoded = self.tokenizer(rendered, add_special_tokens=special, truncation=True, max_length=self.max_length)
        return tuple(encoded["input_ids"])

    def _conversation(self, messages: Any, where: str) -> tuple[str, bool]:
        """The text of a conversation, and whether the tokenizer must still add its special tokens."""
        from jinja2 import TemplateError

        try:
            turns = [{"role": str(m["role"]), "content": m["content"]} for m in messages]
            if getattr(self.tokenizer, "chat_template", None):
                return str(self.tokenizer.apply_chat_template(turns, tokenize=False)), False
        except (TypeError, KeyError) as error:
            raise QuantizationError(f"{where}: `messages` is not a list of role and content", _REMEDY) from error
        except TemplateError as error:
            # Some templates refuse a system turn or two turns of one role: such a row is joined as text.
            self.notes[f"the chat template refused some conversations ({error}): joined as plain text"] = None
        else:
            self.notes["the tokenizer has no chat template: conversations are joined as plain text"] = None
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns), True


def load_texts(config: QuantizationConfig, tokenizer: Any, seed: int) -> Calibration:
    """Load, choose and tokenize the calibration samples.

    Args:
        config: Dataset, split, number of samples and their maximum length in tokens.
        tokenizer: The model's tokenizer, from Transformers.
        seed: Decides which rows are used, and their order.

    Raises:
        UsageError: A file or split does not exist.
        HubError: The hub refused the dataset, or cannot be reached.
        QuantizationError: Rows have another form, or none is usable.
    """
    name = config.calibration_dataset
    rows = _rows(config)
    renderer = _Renderer(tokenizer, config.max_sequence_length)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    samples: list[tuple[int, ...]] = []
    for index in order:
        if len(samples) == config.num_calibration_samples:
            break
        if ids := renderer.tokens(rows[index], f"{name}, row {index + 1}"):
            samples.append(ids)
    if not samples:
        raise QuantizationError(f"calibration dataset {name!r} contains no usable row", _REMEDY)
    notes = list(renderer.notes)
    if len(samples) < config.num_calibration_samples:
        notes.append(f"{name} contains {len(samples)} usable samples; {config.num_calibration_samples} were requested")
    digest = hashlib.sha256(json.dumps(samples, separators=(",", ":")).encode()).hexdigest()
    return Calibration(tuple(samples), digest, tuple(notes))


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
    if path is None:
        return _hub_rows(config)
    if path.is_file() and path.suffix == ".jsonl":
        return list(_json_lines(path))
    return _local_rows(path, config.calibration_split)


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


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingPackageError("datasets", "this calibration dataset", INSTALL) from error
    return datasets


def _local_rows(path: Path, split: str) -> Sequence[Mapping[str, Any]]:
    datasets = _datasets()
    try:
        if path.is_file():
            builder = _BUILDERS.get(path.suffix.lower())
            if builder is None:
                raise UsageError(
                    f"calibration dataset {str(path)!r}: unknown file type {path.suffix!r}",
                    f"known: .jsonl {' '.join(_BUILDERS)}",
                )
            loaded = datasets.load_dataset(builder, data_files=str(path))
        elif any((path / marker).exists() for marker in ("dataset_info.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(str(path))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error
    rows: Sequence[Mapping[str, Any]] = loaded
    if isinstance(loaded, Mapping):
        if split not in loaded and len(loaded) != 1:
            raise _unknown_split(str(path), split, loaded)
        rows = loaded[split] if split in loaded else next(iter(loaded.values()))
    return rows


def _hub_rows(config: QuantizationConfig) -> Sequence[Mapping[str, Any]]:
    name, split = config.calibration_dataset, config.calibration_split
    datasets = _datasets()
    try:
        rows: Sequence[Mapping[str, Any]] = datasets.load_dataset(name, split=split)
    except (datasets.exceptions.DatasetsError, ValueError, RuntimeError, *http_errors()) as error:
        if "Unknown split" in str(error):
            raise _unknown_split(name, split, datasets.get_dataset_split_names(name)) from error
        _ask_hub(name)
        raise _unreadable(name, error) from error
    return rows


def _ask_hub(name: str) -> None:
    """Raise the hub's own reason, if there is one: `datasets` reports only that something failed."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    with hub_errors(name, None, "dataset"), suppress(EntryNotFoundError):
        get_hf_file_metadata(hf_hub_url(name, "README.md", repo_type="dataset"))


def _unreadable(name: str, error: BaseException) -> QuantizationError:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return QuantizationError(f"calibration dataset {name!r} cannot be read ({first_line})", _REMEDY)


def _unknown_split(name: str, split: str, known: Any) -> UsageError:
    names = [str(item) for item in known]
    return UsageError(
        f"calibration dataset {name!r} has no split {split!r}", f"{did_you_mean(split, names)} (--calibration-split)"
    )
